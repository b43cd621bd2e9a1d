"""Judge servers for tests: started on loopback, ended with the test."""

import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("judge_server.py")


class LoopbackJudge:
    """A running judge server (`support/judge_server.py`)."""

    def __init__(self, log: Path, *options: str) -> None:
        self._log = log
        self._options = options
        self._held: socket.socket | None = None
        self._process = self._start(0)

    def taken(self) -> list[str]:
        """Hashes of the user messages of all requests it took, in order."""
        return [key for key, _ in self.arrivals()]

    def billed(self) -> list[str]:
        """Those of the requests it did the work for, whether or not the reply arrived whole."""
        return [key for key, fate in self.arrivals() if fate == "billed"]

    def arrivals(self) -> list[tuple[str, str]]:
        """Hash and fate (`billed`, `refused`) of all requests it took, in order; a line that is being written is left out."""
        return [(key, fate) for key, fate, *_ in self._lines()]

    def bill(self) -> list[tuple[int, int, int]]:
        """Tokens of prompt and reply, and cached ones, of all requests it did the work for: what it did, whatever it said."""
        return [tuple(map(int, did[0].split(","))) for _, fate, *did in self._lines() if fate == "billed"]  # type: ignore[misc]

    def _lines(self) -> list[list[str]]:
        whole = self._log.read_text().split("\n")[:-1] if self._log.exists() else []
        return [line.split() for line in whole]

    def stats(self) -> dict[str, Any]:
        """What it has seen: `taken`, `peak`, `most_per_minute`, `phases`, ... (`Judge.stats`)."""
        with urllib.request.urlopen(f"{self._root}/stats", timeout=10) as response:
            loaded: dict[str, Any] = json.load(response)
        return loaded

    def control(self, **changes: Any) -> None:
        """Change it as it runs: `down="503"` (None: up), `capacity=...`, `latency=0.1`, `faults=[...]`, `batch_seconds=9`."""
        with urllib.request.urlopen(f"{self._root}/control", json.dumps(changes).encode(), timeout=10):
            pass

    def kill(self) -> None:
        """End it at once, as SIGKILL does; until `restart` connections are refused."""
        self._process.kill()
        self._end()
        # a socket that is bound and does not listen keeps the port: nobody else is given it, and connections are refused
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", self.port))

    def restart(self, *options: str) -> None:
        """Start again on the same port with the same log, and with the same options unless others are given; all else that
        the one before knew is gone."""
        if self._process.poll() is None:
            self.kill()
        self._options = options or self._options
        self._process = self._start(self.port)
        self._let_go()

    def close(self) -> None:
        self._process.terminate()
        self._end()
        self._let_go()

    def _start(self, port: int) -> "subprocess.Popen[str]":
        command = [sys.executable, str(SERVER), "--log", str(self._log), "--port", str(port), *self._options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        self.port = int(process.stdout.readline())
        self._root = f"http://127.0.0.1:{self.port}"
        self.base_url = f"{self._root}/v1"
        return process

    def _end(self) -> None:
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


class JudgeStarter:
    """Starts judge servers: `judge("--latency", "0.2")`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.servers: list[LoopbackJudge] = []

    def __call__(self, *options: str) -> LoopbackJudge:
        server = LoopbackJudge(self._folder / f"accepted-{len(self.servers)}.log", *options)
        self.servers.append(server)
        return server
