"""A job that is interrupted never ends as done, whatever handlers, threads and exits its libraries have."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray import cli, interrupts

DONE = {"stage": "x", "rows": 0, "location": ""}


@pytest.fixture(autouse=True)
def _handlers_of_this_process() -> Iterator[None]:
    """`cli.main` takes both signals over; here neither is ignored, as one may be where tests run in the background."""
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def main(folder: Path, work: Any) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(cli.JobSpec("ingest", "ingest", "A job.", work), ["--run", str(folder / "run")])
    assert isinstance(end.value.code, int)
    return end.value.code


def strike(number: int) -> None:
    """A signal to this process, while the main thread waits."""
    threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
    time.sleep(20)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_is_told_and_ends_with_code_1(tmp_path: Path, capfd: pytest.CaptureFixture[str], number: int) -> None:
    assert main(tmp_path, lambda call: strike(number)) == 1
    assert capfd.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize("code", [0, 1, None, "done"])
def test_an_exit_that_a_library_asks_for_is_no_success(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], code: int | str | None
) -> None:
    def work(call: Any) -> Any:
        raise SystemExit(code)

    assert main(tmp_path, work) == 1
    assert "a library ended the job" in capfd.readouterr().err


def test_an_interrupt_that_a_library_swallows_is_told_all_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def work(call: Any) -> Any:
        try:
            strike(signal.SIGINT)
        except KeyboardInterrupt:
            return DONE

    assert main(tmp_path, work) == 1
    assert "error: interrupted" in capfd.readouterr().err


def test_a_later_job_of_the_same_process_is_not_interrupted_by_an_earlier_signal(tmp_path: Path) -> None:
    assert main(tmp_path, lambda call: strike(signal.SIGINT)) == 1
    assert main(tmp_path, lambda call: DONE) == 0


def test_what_waits_off_the_main_thread_is_left_at_once_and_can_set_no_handler(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refused: list[str] = []

    def fit() -> None:
        """As Ray Train does: a handler that ends the process with code 0, and a long wait."""
        try:
            signal.signal(signal.SIGINT, lambda *_: os._exit(0))
        except ValueError as error:
            refused.append(str(error))
        time.sleep(20)

    def work(call: Any) -> Any:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        interrupts.off_main_thread(fit)

    assert main(tmp_path, work) == 1
    assert capfd.readouterr().err == "error: interrupted\n"
    assert "main thread" in refused[0]


def test_off_the_main_thread_work_gives_what_it_returns_and_raises_what_it_raises() -> None:
    assert interrupts.off_main_thread(lambda: 7) == 7
    for error in (ValueError("odd"), SystemExit(0)):
        with pytest.raises(type(error)):
            interrupts.off_main_thread(lambda error=error: _raise(error))  # type: ignore[misc]


def _raise(error: BaseException) -> Any:
    raise error


def test_handlers_that_a_library_sets_are_put_back() -> None:
    interrupts.install()
    with interrupts.kept():
        for number in interrupts.SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    assert all(signal.getsignal(number) is interrupts._interrupt for number in interrupts.SIGNALS)


def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.install()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
