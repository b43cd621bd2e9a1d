"""Servers that a test starts: those of others as processes of their own, small ones of its own in a thread."""

import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import BaseServer

import pytest


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    """It answers in a thread of this process while the block runs."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def wait_until_it_answers(url: str, server: "subprocess.Popen[bytes]", log: Path, limit_s: float) -> None:
    """Until `url` is answered; the test fails with the end of the log where the process ends, or takes longer than that."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"nothing answered at {url} in {limit_s} s:\n{log.read_text()[-3000:]}")
