"""What a fresh process takes from `import alpagasus_ray` to the ratings of 20 rows, against a judge that answers in 50 ms.

    python benchmarks/bench_first_call.py [--times 5]

Each time is a process of its own with an empty cache; the second call of the process rates 20 other rows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from measure import Table, machine, server

CALLS = """
import json, sys, time
began, worked = time.perf_counter(), time.process_time()
import alpagasus_ray as ag
took = [time.perf_counter() - began]
for mark in ("", "."):
    rows = [{"instruction": f"Name {n} fruits.", "output": ", ".join(["apple"] * n) + mark} for n in range(1, 21)]
    rated = ag.rate(rows, "toy", base_url=sys.argv[1])
    assert len(rated.scores) == 20 and not rated.unscored
    took += [time.perf_counter() - began, time.process_time() - worked]
print(json.dumps(took))
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--times", type=int, default=5)
    times = options.parse_args().times
    table = Table(f"The first `ag.rate` of a process ({times} times, {machine()})", "until", "wall, median", "fastest", "CPU")
    with server("--latency", "0.05") as judge:
        took = [_once(judge.base_url) for _ in range(times)]
    for name, wall, cpu in (("the package is imported", 0, None), ("20 rows are rated", 1, 2), ("20 others are rated", 3, 4)):
        walls = [one[wall] for one in took]
        work = "" if cpu is None else f"{statistics.median(one[cpu] for one in took):.2f} s"
        table.row(name, f"{statistics.median(walls):.2f} s", f"{min(walls):.2f} s", work)


def _once(base_url: str) -> list[float]:
    """Seconds since the process began: of the import, of the first call with its CPU, of the second with its CPU."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "ALPAGASUS_CACHE": cache}
        command = [sys.executable, "-c", CALLS, base_url]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        loaded: list[float] = json.loads(done.stdout.splitlines()[-1])
        return loaded


if __name__ == "__main__":
    main()
