"""Ctrl-C and SIGTERM: whatever a job is doing, and whatever libraries it uses, it ends as interrupted and never as done.

Both raise `KeyboardInterrupt` in the main thread, and are remembered. Libraries put handlers of their own in place of that:
Ray's for SIGTERM when it connects, Ray Train's for SIGINT when it fits, which ends the process as if all were well. What may do
so runs in `kept`, or off the main thread, where nobody can set a handler.
"""

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOK_S = 0.2
T = TypeVar("T")
_seen: list[int] = []


def install() -> None:
    """Take both signals over. One that the process was started to ignore, as by `nohup`, stays ignored."""
    _seen.clear()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def seen() -> bool:
    """Whether there was such a signal since `install`."""
    return bool(_seen)


def _interrupt(number: int, _frame: object) -> NoReturn:
    _seen.append(number)
    raise KeyboardInterrupt


@contextmanager
def kept() -> Iterator[None]:
    """Put the handlers of both signals back when the block ends."""
    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def off_main_thread(work: Callable[[], T]) -> T:
    """Do it in another thread; the main thread waits, and can be interrupted. What it raises is raised here."""
    ended: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            ended.put((work(), None))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits, which raises it
            ended.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        try:
            result, error = ended.get(timeout=LOOK_S)
        except queue.Empty:
            continue
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # it is what `work` has returned
