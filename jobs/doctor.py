"""Look, before any money is spent, whether `score` can do its work: key, model, price, storage, actors, versions.

python jobs/doctor.py --run runs/mine --set score.judge.model=gpt-4o-mini
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import DOCTOR

if __name__ == "__main__":
    main(DOCTOR)
