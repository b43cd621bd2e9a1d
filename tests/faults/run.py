"""The long fault matrix: plays every scenario, prints the table, and fails if any guarantee is broken.

python tests/faults/run.py [--only driver,node] [--write docs/faults.md] [--json]
"""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
os.environ["WRONG_KEY"] = "a-wrong-key"  # now: workers have the environment in which their Ray is started
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import ray

from faults import findings
from faults.arena import NotHere
from faults.findings import Finding
from faults.matrix import MATRIX, Scenario, play

ABOUT = """# The fault matrix

Written by `make faults` (`tests/faults/`), on {cores} cores in {minutes:.0f} minutes. What counts is the judge server's own
log, which is on disk before it answers.

- **lost**, **twice**: ids that went in and did not come out, ids that came out more than once.
- **failed**: rows that ended without a rating, each with a reason.
- **billed twice**: requests that the server did the work for, beyond the first for each row.
- **bound**: how many of those may be. For each crash the requests in flight and 2 seconds of replies; besides, each attempt
  that got no answer and may have been billed, as the column `maybe_billed_twice` of the ratings counts them. That column alone
  covers all that is billed twice, or the line is broken, but where parts of a ledger were lost: they count as what was in them.
- **spend / cap**: dollars by what the server has done, whatever its replies' usage says, and `score.max_cost_usd`.

"""


def main() -> None:
    options = _options()
    started = time.monotonic()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    address = ray.get_runtime_context().gcs_address
    chosen = [scenario for scenario in MATRIX if not options.only or scenario.name in options.only.split(",")]
    lines = [line for scenario in chosen for line in _played(scenario, address)]
    ray.shutdown()
    table = findings.markdown(lines)
    print(table, file=sys.stderr if options.json else sys.stdout)
    minutes = (time.monotonic() - started) / 60
    if options.write:
        Path(options.write).write_text(ABOUT.format(cores=os.cpu_count(), minutes=minutes) + table + "\n", encoding="utf-8")
    broken = [line.scenario for line in lines if line.broken]
    print(f"{len(lines)} lines in {minutes:.1f} minutes, {len(broken)} broken", file=sys.stderr)
    if options.json:
        print(json.dumps({"minutes": round(minutes, 2), "broken": broken, "lines": [line.as_json() for line in lines]}))
    sys.exit(bool(broken))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"some of: {', '.join(scenario.name for scenario in MATRIX)}")
    parser.add_argument("--write", metavar="FILE", help="write the table there too")
    parser.add_argument("--json", action="store_true", help="print the table as one JSON object on the last line of stdout")
    return parser.parse_args()


def _played(scenario: Scenario, address: str) -> list[Finding]:
    """The scenario's lines: one for all that it was played with, if it has a title for that."""
    found = []
    for given in scenario.long:
        started = time.monotonic()
        try:
            found.append(play(scenario, given, address))
        except NotHere as reason:
            print(f"{scenario.name}: left out: {reason}", file=sys.stderr)
            continue
        seconds = time.monotonic() - started
        print(f"{found[-1].scenario}: {found[-1].verdict} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return [findings.merged(scenario.title, found)] if scenario.title and found else found


if __name__ == "__main__":
    main()
