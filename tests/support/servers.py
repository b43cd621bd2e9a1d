"""Servers of others that a test starts as processes of their own."""

import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest


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
