"""The jobs as the command line runs them. A new one is a `JobSpec` in a module here, and listed below."""

from alpagasus_ray.commands.bench import BENCH
from alpagasus_ray.commands.data_and_training import DISTILL, DOCTOR, FINETUNE, INGEST, PICK, REPORT, SCORE, STATUS
from alpagasus_ray.commands.evaluation import COMPARE, GENERATE
from alpagasus_ray.commands.race import RACE
from alpagasus_ray.commands.trust import CARD, PEOPLE

__all__ = ["BENCH", "CARD", "COMPARE", "DISTILL", "DOCTOR", "FINETUNE", "GENERATE"]
__all__ += ["INGEST", "PEOPLE", "PICK", "RACE", "REPORT", "SCORE", "STATUS"]
