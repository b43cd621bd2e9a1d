"""Race the arms: small trainings on each, under several seeds, and which of them beats random.

python jobs/race.py --run runs/mine --set race.model=Qwen/Qwen3-0.6B --set race.heldout=300 --plan
python jobs/race.py --run runs/mine --set race.model=Qwen/Qwen3-0.6B --set race.heldout=300 --set race.seeds=5
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import RACE

if __name__ == "__main__":
    main(RACE)
