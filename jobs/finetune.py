"""Train a model on every arm, with Ray Train and DeepSpeed.

python jobs/finetune.py --run runs/mine --set finetune.model=meta-llama/Llama-2-7b-hf --preview
python jobs/finetune.py --run runs/mine --set finetune.model=meta-llama/Llama-2-7b-hf --set finetune.workers=4
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import FINETUNE

if __name__ == "__main__":
    main(FINETUNE)
