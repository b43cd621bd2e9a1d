r"""Let a judge compare models' answers, every pair in both orders.

python jobs/compare.py --run runs/mine --set 'compare.pairs=[[selected, full]]' --set compare.judge.model=gpt-4o
python jobs/compare.py --run runs/cherry --set 'compare.import={format: cherry, files: reviews/*.json}'
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import COMPARE

if __name__ == "__main__":
    main(COMPARE)
