"""Tell how far each judge of a run can be trusted.

python jobs/card.py --run runs/mine
python jobs/card.py --run runs/mine --recipe mine.yaml --set card.repeat=true --set card.probes=true --plan
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import CARD

if __name__ == "__main__":
    main(CARD)
