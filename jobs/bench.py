"""Ask models benchmarks: MMLU, BBH, DROP, HumanEval, GSM8K, IFEval, lm-eval's others, your own.

python jobs/bench.py --run runs/mine --set 'bench.models=[{name: base, path: Qwen/Qwen3-0.6B}]' --set 'bench.tasks=[mmlu-tiny]'
python jobs/bench.py --fetch benchmarks-data --set 'bench.tasks=[mmlu, humaneval]'
"""

from alpagasus_ray.cli import main
from alpagasus_ray.commands import BENCH

if __name__ == "__main__":
    main(BENCH)
