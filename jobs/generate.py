r"""Let models answer test sets.

python jobs/generate.py --run runs/mine --set 'generate.models=[{name: base, path: Qwen/Qwen3-8B}]' \
    --set 'generate.test_sets=[{name: demo, path: examples/test_set/prompts.jsonl}]'
python jobs/generate.py --run runs/mine --recipe recipes/alpagasus-7b.yaml
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import GENERATE

if __name__ == "__main__":
    main(GENERATE)
