"""Tell from a run's directory alone how far each stage is, what it has cost and what failed.

python jobs/status.py --run s3://bucket/mine
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import STATUS

if __name__ == "__main__":
    main(STATUS)
