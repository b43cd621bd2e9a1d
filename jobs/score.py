"""Rate every example with a judge.

python jobs/score.py --run runs/mine --set score.judge.model=gpt-4o-mini
python jobs/score.py --run runs/mine --set score.judge.kind=rules
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import SCORE

if __name__ == "__main__":
    main(SCORE)
