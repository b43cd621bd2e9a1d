"""Ask people which answers are better, or how good examples are: a ballot, its votes, and what they come to.

python jobs/people.py make --run runs/mine
python jobs/people.py import --run runs/mine ana.jsonl bo.jsonl
python jobs/people.py status --run runs/mine
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import PEOPLE

if __name__ == "__main__":
    main(PEOPLE)
