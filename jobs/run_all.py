"""The whole experiment of a recipe: ingest, score, pick, finetune, generate, compare, report.

python jobs/run_all.py --run runs/mine --recipe recipes/alpagasus-7b.yaml --plan
python jobs/run_all.py --run runs/mine --recipe recipes/alpagasus-7b.yaml
"""

from alpagasus_ray.cli import main
from alpagasus_ray.run_all import RUN_ALL

if __name__ == "__main__":
    main(RUN_ALL)
