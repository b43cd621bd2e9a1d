"""Fit a small model of a judge on some of its ratings; it scores every row for nothing.

python jobs/distill.py --run runs/mine
python jobs/distill.py --run runs/mine --set distill.labels=2000 --set score.judge.model=gpt-4o-mini
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import DISTILL

if __name__ == "__main__":
    main(DISTILL)
