"""Progress: bars on a terminal; on a pipe a line where something has changed; a run that is none is told before any work."""

import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alpagasus_ray import __main__ as command
from alpagasus_ray import progress as shown
from alpagasus_ray.progress import Progress
from alpagasus_ray.reporting.watch import watch
from alpagasus_ray.stages.status import status
from alpagasus_ray.store import lock
from toy_runs import toy_run


def on_a_terminal(*arguments: str) -> str:
    """What a command writes to a terminal of 100 columns."""
    mine, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    with subprocess.Popen([sys.executable, *arguments], stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        told = b"".join(_until_closed(mine))
    os.close(mine)
    assert process.returncode == 0, told.decode()
    return told.decode()


def _until_closed(terminal: int) -> Iterator[bytes]:
    try:
        while part := os.read(terminal, 65536):
            yield part
    except OSError:  # the other end is closed
        return


def test_a_terminal_shows_bars_of_stages_and_rows_with_rate_time_dollars_the_last_error_and_the_server() -> None:
    told = on_a_terminal(
        "-c",
        """
import time
from alpagasus_ray.progress import Progress, stage
from alpagasus_ray.terminal import say
with stage(2, 7), Progress("score", 500, where="toy at http://127.0.0.1:1/v1") as progress:
    progress.show(0)
    time.sleep(0.3)
    progress.show(100, 0, ["$1.20", "3 failed: http 400"], {"http 400: old": 3})
    progress.show(200, 0, ["$2.40", "4 failed: http 400"], {"http 400: old": 3, "http 500: new \\x1b[2J": 1})
    say("a note between")
    time.sleep(0.6)
""",
    )
    for part in ("stages", "2 of 7", "200 of 500 rows", "rows/s", " left", "$2.40", "asks toy at http://127.0.0.1:1/v1", "━"):
        assert part in told, part
    assert "last error: http 500: new \\x1b[2J" in told
    assert "last error: http 400" not in told.rpartition("200 of 500")[2], "the last one, not the first"
    assert "a note between" in told


def test_what_waits_is_one_line_on_a_pipe_until_something_changes(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("score", 16, plain_every_s=0.0) as progress:
        for _ in range(5):
            progress.show(0)
        progress.show(8)
        progress.show(8)
        progress.show(8, details=["$0.01"])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "score: 0 of 16 rows, the engine is starting"
    assert [line.partition(" rows")[0] for line in lines] == ["score: 0 of 16", "score: 8 of 16", "score: 8 of 16"]
    assert lines[2].endswith("$0.01")


def test_on_a_pipe_a_sign_of_life_says_how_long_nothing_has_changed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Progress("score", 16, plain_every_s=0.0) as progress:
        progress.show(0)
        monkeypatch.setattr(shown, "SIGN_OF_LIFE_S", 0.0)
        progress.show(0)
    assert capsys.readouterr().err.splitlines()[1] == "score: 0 of 16 rows, the engine is starting, no change for 0:00"


def test_lines_on_a_pipe_keep_their_distance(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("score", 16) as progress:
        progress.show(1)
        progress.show(2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("verb", ["score", "score --plan", "pick", "train", "report", "status", "status --watch", "compare"])
def test_a_mistyped_run_is_told_with_the_nearest_name_and_leaves_nothing(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_run(tmp_path, 2)
    (tmp_path / "rum").mkdir()
    name, *switches = shlex.split(verb)
    assert command.main([name, str(tmp_path / "ran"), *switches]) == 2
    told = capsys.readouterr().err
    assert f"no run at {tmp_path}/ran. Did you mean {tmp_path}/run?" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rum", "run", "toy.json"]
    assert command.main([name, str(tmp_path / "deep" / "ran"), *switches]) == 2
    assert "no run beside it" in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


def test_an_answer_of_an_arm_needs_the_run_and_one_of_a_server_begins_it(tmp_path: Path) -> None:
    arm = "generate.models=[{name: selected, arm: selected}]"
    assert command.main(["answer", str(tmp_path / "ran"), "-s", arm]) == 2
    assert not (tmp_path / "ran").exists()


def test_status_is_watched_until_no_driver_is_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy_run(tmp_path, 2)
    looks: list[str] = []

    def look() -> dict[str, object]:
        if len(looks) == 3:
            held.__exit__(None, None, None)
        looks.append("")
        return status(run)

    held = lock.held(run)
    held.__enter__()
    assert watch(look, 0.0)["driver"] is None
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "examples: finished, 2 rows" in line] == lines[1:2], "once, while nothing changes"
    assert len(looks) == 4
