"""Read a dataset and write it as examples.

python jobs/ingest.py --run runs/mine --set ingest.source=my_data.json
python jobs/ingest.py --run runs/mine --set 'ingest.source=hf:tatsu-lab/alpaca'
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import INGEST

if __name__ == "__main__":
    main(INGEST)
