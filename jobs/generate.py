"""Rate every example with a judge.

python jobs/generate.py --run runs/mine --set generate.judge.model=gpt-4o-mini
python jobs/generate.py --run runs/mine --set generate.judge.kind=rules
"""

from alpagasus_ray.cli import main
from alpagasus_ray.jobs import GENERATE

if __name__ == "__main__":
    main(GENERATE)
