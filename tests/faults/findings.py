"""What a fault scenario found out, by counting: ids in against ids out, the server's own log against the rows, dollars
against the cap. Knows nothing of how the faults came about.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from alpagasus_ray.store.run import DONE, LEDGER, FileEntry, Run, StageDir
from drivers import Ended
from faults.arena import POLL_S
from loopback import LoopbackJudge
from toy_runs import ids, prompt_hashes, ratings

WINDOW_S = 2.0
"""The bound after a crash: what is in flight, and so many seconds of replies."""
VERDICT_LIMIT = 300
"""Characters of a verdict in the table."""
HEADER = ("scenario", "rows", "faults", "lost", "twice", "failed", "billed twice", "bound", "spend / cap", "verdict")


class Pace:
    """Watches a judge server's log: how fast billed requests come in, at most."""

    def __init__(self, *servers: LoopbackJudge) -> None:
        self._servers = servers
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.most = 0
        """Billed requests in the busiest `WINDOW_S` seconds."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        seen: deque[tuple[float, int]] = deque()
        while not self._end.wait(POLL_S):
            now, count = time.monotonic(), sum(len(server.billed()) for server in self._servers)
            seen.append((now, count))
            while seen[0][0] < now - WINDOW_S:
                seen.popleft()
            self.most = max(self.most, count - seen[0][1])

    def bound(self, kills: int, in_flight: int) -> int:
        """How many requests may be billed twice after so many crashes."""
        return kills * (in_flight + self.most)


@dataclass
class Finding:
    """One line of the table."""

    scenario: str
    rows: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """What was done, and how often."""
    lost: int = 0
    twice: int = 0
    failed: int = 0
    billed_twice: int = 0
    bound: int = 0
    spent: float | None = None
    """Dollars, by the server's own count of what it billed."""
    cap: float | None = None
    broken: list[str] = field(default_factory=list)
    """What should have held and did not."""

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.broken.append(otherwise)

    def ended(self, ended: Ended, code: int = 0) -> None:
        """The driver's exit code is this one."""
        self.expect(ended.code == code, f"exit code {ended.code}, not {code}: {' '.join(ended.message.split())[-600:]}")

    def count(
        self, run: Run, *servers: LoopbackJudge, bound: int, failed: int = 0, name: str = "judge", is_counted: bool = True
    ) -> None:
        """Compare what went in with what came out, and what the servers took with what there was to ask. What is billed twice
        `is_counted` by the rows themselves, but where a ledger was damaged."""
        asked, stage = ids(run), run.ratings(name)
        billed = Counter(key for server in servers for key in server.billed())
        self.rows, manifest = len(asked), stage.manifest()
        self.billed_twice = sum(n - 1 for n in billed.values())
        if manifest is None:
            self.lost = len(asked)
            self.expect(False, "the run was not finished")
            return
        table = ratings(run, name)
        out = table["example_id"].to_pylist()
        self.lost, self.twice = len(set(asked) - set(out)), len(out) - len(set(out))
        self.failed = manifest.counts.get("failed", 0)
        counted = sum(table["maybe_billed_twice"].to_pylist())
        self.bound = bound + counted
        self.expect(
            self.billed_twice <= counted or not is_counted, f"billed twice: {self.billed_twice}, and the rows count {counted}"
        )
        self.expect(out == asked, "the ids that came out are not those that went in")
        self.expect(self.failed == failed, f"{self.failed} rows failed where {failed} should: {manifest.details['reasons']}")
        self.expect(self.billed_twice <= self.bound, f"billed twice: {self.billed_twice}, above the bound of {self.bound}")
        self.expect(set(billed) <= set(prompt_hashes(run)), "something was asked that no row asks")
        self.expect(not unfinished(stage), f"a finished stage still holds {unfinished(stage)}")
        stage.verify(manifest)

    def spend(self, dollars: float, cap: float, least: float = 0.0) -> None:
        """Compare what the server billed with the cap."""
        self.spent, self.cap = dollars, cap
        self.expect(dollars <= cap, f"${dollars:.4f} were billed under a cap of ${cap:.4f}")
        self.expect(dollars >= least * cap, f"only ${dollars:.4f} of ${cap:.4f} were used")

    @property
    def verdict(self) -> str:
        return "; ".join(self.broken) or "held"

    def line(self) -> list[str]:
        faults = ", ".join(f"{count:,} x {kind}" for kind, count in self.faults.items())
        money = "" if self.cap is None or self.spent is None else f"${self.spent:.4f} / ${self.cap:.4f}"
        numbers = (self.lost, self.twice, self.failed, self.billed_twice, self.bound)
        verdict = " ".join(self.verdict.split())[:VERDICT_LIMIT]
        return [self.scenario, f"{self.rows:,}", faults, *(f"{number:,}" for number in numbers), money, verdict]

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values, with the whole verdict."""
        return {**vars(self), "faults": dict(self.faults), "verdict": self.verdict}


def unfinished(stage: StageDir) -> list[str]:
    """What a finished stage should not hold any more: visible files of its making."""
    files = {"stage.json"} & set(stage.storage.names())
    return sorted(files) + [name for name in (DONE, LEDGER) if stage.storage.at(name).names()]


def torn(run: Run, name: str = "judge") -> list[str]:
    """Visible files of an unfinished stage that are not whole: to be empty whenever nobody writes there."""
    stage, found = run.ratings(name), []
    for record in stage.storage.at(DONE).names():
        entry = FileEntry.model_validate_json(stage.storage.at(DONE).read(record))
        rows = stage.storage.read_table(entry.name)["example_id"].to_pylist()
        if len(rows) != entry.rows or len(set(rows)) != len(rows) or not set(rows) <= set(ids(run)):
            found.append(entry.name)
    return found


def markdown(findings: Iterable[Finding]) -> str:
    """The table."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    return "\n".join(lines + ["| " + " | ".join(finding.line()) + " |" for finding in findings])


def merged(name: str, findings: Iterable[Finding]) -> Finding:
    """Several of a kind as one line; bounds and counts add up, each having been held to on its own."""
    total = Finding(name)
    for finding in findings:
        total.faults += finding.faults
        for key in ("rows", "lost", "twice", "failed", "billed_twice", "bound"):
            setattr(total, key, getattr(total, key) + getattr(finding, key))
        total.broken += [f"{finding.scenario}: {problem}" for problem in finding.broken]
    return total
