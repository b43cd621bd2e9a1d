"""Choose the arms of the experiment by their ratings.

python jobs/pick_subset.py --run runs/mine
python jobs/pick_subset.py --run runs/mine --set 'pick.arms=[{name: best, policy: top, k: 9229}]'
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import PICK

if __name__ == "__main__":
    main(PICK)
