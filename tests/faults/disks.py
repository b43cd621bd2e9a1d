"""Scenarios in which storage fails: a full disk, one that cannot be written, ledgers that are torn or have holes."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import orjson

from alpagasus_ray.store.run import LEDGER, Run
from alpagasus_ray.store.storage import Storage
from faults.arena import Arena, Ended, NotHere
from faults.findings import Finding, Pace, torn
from toy_runs import ids, prompt_hashes

CONCURRENCY = 8
SETTINGS = {"concurrency": CONCURRENCY}
CAPPED = {**SETTINGS, "judge.price": {"input": 1, "output": 1}, "max_cost_usd": 100}
LATENCY = ("--latency", "0.05")
DISK = 4 * 1024 * 1024


def full_disk(arena: Arena, rows: int, *, capped: bool = False) -> Finding:
    """The disk fills up: one message names the problem, nothing half written is visible; with room, the run goes on."""
    found, server = Finding("the disk is full" + (", with a cap" if capped else "")), arena.judge(*LATENCY)
    disk = mounted(arena, "tmpfs", f"size={DISK}", "tmpfs")
    run, settings = arena.toy(rows, rows, folder=disk), CAPPED if capped else SETTINGS
    with Pace(server) as pace:
        driver = arena.start(run, server, settings)
        arena.wait(lambda: len(server.taken()) > rows // 4, driver)
        (disk / "filler").write_bytes(b"x" * os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize)
        _one_message(found, ended := driver.wait(), "No space left on device")
        found.ended(ended, 1)
        found.expect(len(server.taken()) < rows, "the disk was not full before the end")
        found.expect(not torn(run) and run.ratings("judge").manifest() is None, f"partial output was visible: {torn(run)}")
        (disk / "filler").unlink()
        again = arena.score(run, server, settings)
    found.faults["full disk"] += 1
    found.ended(again)
    found.count(run, server, bound=pace.bound(1, CONCURRENCY))
    return found


def read_only(arena: Arena, rows: int, below: str) -> Finding:
    """Output that cannot be written: one message, nothing sent."""
    found, server, run = Finding(f"read-only: {below}"), arena.judge(*LATENCY), arena.toy(rows)
    folder = Path(run.storage.root) / below
    folder.mkdir(parents=True, exist_ok=True)
    undo = _make_read_only(arena, folder)
    ended = arena.score(run, server, SETTINGS)
    found.faults["read-only directory"] += 1
    found.expect(ended.code in (1, 2), f"exit code {ended.code}")
    found.expect(not server.taken(), f"{len(server.taken())} requests were sent")
    _one_message(found, ended, "Read-only file system" if os.geteuid() == 0 else "Permission denied")
    undo()
    again = arena.score(run, server, SETTINGS)
    found.ended(again)
    found.count(run, server, bound=0)
    return found


def ledger_damage(arena: Arena, rows: int, kind: str) -> Finding:
    """A trial's ledger is damaged: what is still there is not bought again, what is gone is asked again, nothing else."""
    found, server, run = Finding(f"ledger: {kind}"), arena.judge("--latency", "0.2"), arena.toy(rows)
    trial = arena.score(run, server, {**SETTINGS, "limit": rows})
    found.ended(trial)
    ledger = run.ratings("judge").storage.at(LEDGER, "part-00000")
    gone = DAMAGE[kind](ledger)
    found.faults["damaged segment"] += 1
    ended = arena.score(run, server, SETTINGS)
    found.ended(ended)
    found.count(run, server, bound=len(gone), is_counted=False)
    again = set(server.billed()[rows:])
    found.expect(again == _hashes(run, gone), f"{len(again)} rows were asked again, {len(gone)} replies were gone")
    return found


def _garbage(ledger: Storage) -> set[str]:
    """What a process that died left behind: a hidden file that was never renamed."""
    Path(ledger.path(".00000000000000000000-beef-00000.jsonl.12345678")).write_bytes(b'{"key": "half a li')
    return set()


def _missing(ledger: Storage) -> set[str]:
    """A whole segment is not there."""
    name = _with_replies(ledger)
    gone = _examples(ledger.read(name))
    ledger.delete(name)
    return gone


def _cut(ledger: Storage) -> set[str]:
    """The disk lost the second half of a segment."""
    name = _with_replies(ledger)
    content = ledger.read(name)
    half = content[: len(content) // 2 + 7]  # within a line
    Path(ledger.path(name)).write_bytes(half)
    return _examples(content) - _examples(half[: half.rfind(b"\n") + 1])


def _zeros(ledger: Storage) -> set[str]:
    """The disk lost a segment's blocks, as after a power cut: the size is right, and all is zero."""
    name = _with_replies(ledger)
    content = ledger.read(name)
    Path(ledger.path(name)).write_bytes(bytes(len(content)))
    return _examples(content)


DAMAGE: dict[str, Callable[[Storage], set[str]]] = {
    "a hidden file of garbage": _garbage,
    "a segment is missing": _missing,
    "a segment is cut in half": _cut,
    "a segment is all zeros": _zeros,
}


def _with_replies(ledger: Storage) -> str:
    """The first segment that holds replies; others say which requests are under way."""
    return next(name for name in ledger.names() if _examples(ledger.read(name)))


def _examples(content: bytes) -> set[str]:
    """The examples whose replies are in a segment."""
    lines = map(orjson.loads, content.splitlines())
    return {line["row_id"] for line in lines if "text" in line}


def _hashes(run: Run, examples: set[str]) -> set[str]:
    return {key for example, key in zip(ids(run), prompt_hashes(run), strict=True) if example in examples}


def _one_message(found: Finding, ended: Ended, names: str) -> None:
    message = ended.message
    errors = [line for line in message.splitlines() if line.startswith("error:")]
    found.expect(len(errors) == 1, f"{len(errors)} errors were told: {message[-600:]}")
    found.expect(names in message, f"the message does not say {names!r}: {message[-600:]}")
    found.expect(len(message) < 1000 and "Traceback" not in message, f"the message is long: {message[:1500]}")


def mounted(arena: Arena, kind: str, options: str, what: str) -> Path:
    """Mount something in the arena's folder, which only root may do; the place."""
    disk = arena.folder / "disk"
    disk.mkdir()
    _mount(arena, disk, "-t", kind, "-o", options, what)
    return disk


def _mount(arena: Arena, where: Path, *options: str) -> None:
    done = subprocess.run(["mount", *options, str(where)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHere(f"nothing can be mounted here: {done.stderr.strip()}")
    arena.at_end(lambda: subprocess.run(["umount", "-l", str(where)], capture_output=True, check=False))


def _make_read_only(arena: Arena, folder: Path) -> Callable[[], object]:
    """Root is stopped by a mount only, others by the mode."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        return lambda: folder.chmod(0o755)
    _mount(arena, folder, "--bind", str(folder))
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
    return lambda: subprocess.run(["umount", "-l", str(folder)], check=True)
