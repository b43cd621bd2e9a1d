"""All tests, several groups side by side: `make test`, and with `--long` `make test-long`.

Each group is a pytest of its own with a Ray of its own. Two run at a time; what starts few processes fills what those leave of
the cores while they wait, at a lower priority. Prints what each said once it has ended, its slowest tests, and the seconds by
directory. A directory that takes half as much CPU again as `times.json` says fails; `--write` writes that file anew.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
TIMES = Path(__file__).with_name("times.json")
SIDE_BY_SIDE = 2
TOO_MUCH = 1.5
STACK, RAY = "tests/stack/test_", "tests/ray/test_"
GROUPS = {
    # the longest first; everything with a vLLM engine in one group, which looks for engines among all processes
    "vllm": [
        f"{STACK}{name}.py" for name in ("vllm_answers", "vllm_bench", "vllm_judge", "vllm_server", "experiment", "monitoring")
    ],
    "training": [f"{STACK}training{name}.py" for name in ("", "_goes_on", "_heldout", "_is_the_same", "_places", "_refusals")]
    + [f"{STACK}ctrl_c.py"],
    "clusters": [
        *(f"tests/ray/test_{name}.py" for name in ("autoscaling", "nodes", "submit", "local_head")),
        f"{STACK}placing.py",
    ],
    "jobs": ["tests/ray"],
    "faults": ["tests/faults"],
    "unit": ["tests/unit"],
    "services": ["tests/services"],
}
"""A directory stands for all its files that no other group names."""
BESIDE = {"unit": 10, "services": 0}
"""Groups that run beside the others, one after the other, and how far they give way: starting Ray and engines leaves about a
third of two cores idle. No test that gives way may wait for another process for a short time only."""


def paths_of(group: str) -> list[str]:
    """What a group runs, as arguments of pytest."""
    named = {path for paths in GROUPS.values() for path in paths if path.endswith(".py")}
    others = [f"--ignore={path}" for path in sorted(named) if any(path.startswith(f"{folder}/") for folder in GROUPS[group])]
    return [*GROUPS[group], *others]


def over(budgets: Mapping[str, float], spent: Mapping[str, float]) -> list[str]:
    """What is to be told of directories that took too much."""
    return [
        f"{name}: {spent[name]:.0f} s of CPU, and tests/times.json has {budget:.0f} s: make its tests cheaper, or mark what is "
        "long (`@pytest.mark.long`) and leave a short form; make test-long writes the file anew"
        for name, budget in budgets.items()
        if spent.get(name, 0.0) > TOO_MUCH * budget
    ]


def _work(groups: "queue.SimpleQueue[str]", folder: Path, long: bool, codes: dict[str, int]) -> None:
    while True:
        try:
            group = groups.get_nowait()
        except queue.Empty:
            return
        began = time.monotonic()
        command = [sys.executable, "-m", "pytest", *paths_of(group), "--durations=15", f"--times={folder / group}.json"]
        command += ["-m", ""] if long else []
        command = ["nice", "-n", str(BESIDE.get(group, 0)), *command]
        with (folder / f"{group}.log").open("w+") as log:
            environment = {**os.environ, "HYPOTHESIS_PROFILE": "long" if long else "short"}
            codes[group] = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False).returncode
            log.seek(0)
            print(f"==== {group}: {time.monotonic() - began:.0f} s, exit code {codes[group]}\n{log.read()}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="the long tests too")
    parser.add_argument("--write", action="store_true", help="write tests/times.json from what the short tests took")
    options = parser.parse_args()
    groups: queue.SimpleQueue[str] = queue.SimpleQueue()
    beside: queue.SimpleQueue[str] = queue.SimpleQueue()
    for group in GROUPS:
        (beside if group in BESIDE else groups).put(group)
    codes: dict[str, int] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lanes = [*(groups for _ in range(SIDE_BY_SIDE)), beside]
        threads = [threading.Thread(target=_work, args=(lane, folder, options.long, codes)) for lane in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    cpu: Counter[str] = sum((Counter(one["cpu"]) for one in told), Counter())
    wall: Counter[str] = sum((Counter(one["wall"]) for one in told), Counter())
    for label in sorted(cpu):
        print(f"{label:<24} {wall[label]:8.1f} s   {cpu[label]:8.1f} s of CPU")
    print(f"all: {time.monotonic() - began:.0f} s, {cpu.total():.0f} s of CPU")
    short = {label.split()[0]: seconds for label, seconds in cpu.items() if label.endswith("short")}
    if options.write:
        TIMES.write_text(json.dumps({name: round(short[name]) for name in sorted(short)}, indent=2) + "\n")
    problems = over(json.loads(TIMES.read_text()) if TIMES.exists() else {}, short)
    failed = [group for group, code in codes.items() if code]
    print(*problems, *(f"group {group} failed" for group in failed), sep="\n")
    return 1 if problems or failed else 0


if __name__ == "__main__":
    sys.exit(main())
