"""Tell what a run came to: a page, its figures as JSON, and a card of the chosen examples.

python jobs/report.py --run runs/mine
python jobs/report.py --run runs/mine --set report.arm=selected --set report.baseline=random
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import REPORT

if __name__ == "__main__":
    main(REPORT)
