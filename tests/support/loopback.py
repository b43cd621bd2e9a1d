"""Judge servers for tests: started on loopback, ended with the test."""

import subprocess
import sys
from pathlib import Path

SERVER = Path(__file__).with_name("judge_server.py")


class LoopbackJudge:
    """A running judge server (`support/judge_server.py`)."""

    def __init__(self, log: Path, *options: str) -> None:
        command = [sys.executable, str(SERVER), "--log", str(log), *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.base_url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/v1"
        self._log = log

    def taken(self) -> list[str]:
        """Hashes of the user messages of all requests it took, in order."""
        return self._log.read_text().split() if self._log.exists() else []

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()


class JudgeStarter:
    """Starts judge servers: `judge("--latency", "0.2")`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.servers: list[LoopbackJudge] = []

    def __call__(self, *options: str) -> LoopbackJudge:
        server = LoopbackJudge(self._folder / f"accepted-{len(self.servers)}.log", *options)
        self.servers.append(server)
        return server
