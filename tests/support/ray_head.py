"""Ray clusters for tests: heads of our own on loopback, each with a folder and ports that nobody else has."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
START_S, STOP_S, COMMAND_S = 90, 40, 150


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


class Head:
    """`ray start --head` with token authentication; it knows a key that is given to the environment of its nodes."""

    def __init__(self, token: str, key: str = "", *, environment: Mapping[str, str] | None = None, **options: object) -> None:
        # paths of sockets have to be short
        self.folder = Path(tempfile.mkdtemp(prefix="ar-"))
        for name, text in (("token", token), ("key", key)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o600)
        self._token = token
        gcs, dashboard, client, agent = free_ports(4)
        self.address, self.url = f"127.0.0.1:{options.get('port', gcs)}", f"http://127.0.0.1:{dashboard}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "RAY_"))}
        self.environment = {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # the name says something else: this is what lets Ray take 127.0.0.1 for the address of a node
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
        options = {"port": gcs, "ray-client-server-port": client, "dashboard-port": dashboard, **options}
        options |= {"dashboard-host": "127.0.0.1", "dashboard-agent-listen-port": agent, "temp-dir": self.folder / "ray"}
        self.log = self.folder / "start.log"
        given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
        command = [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", *given]
        known = {**self.environment, "OPENAI_API_KEY_FILE": str(self.folder / "key"), **(environment or {})}
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command, env=known, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def wait_for_start(self) -> None:
        """Until drivers can join."""
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in self.log.read_text():
            assert self._process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.1)

    def wait_for(self, path: str) -> None:
        """Until the dashboard answers at `path`."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.get(path)
            except OSError:
                assert self._process.poll() is None, self.log.read_text()[-2000:]
                assert time.monotonic() < deadline, self.log.read_text()[-2000:]
                time.sleep(0.2)
            else:
                return

    def get(self, path: str, *, with_token: bool = True) -> str:
        """What the dashboard answers; `OSError` where that is an error."""
        headers = {"Authorization": f"Bearer {self._token}"} if with_token else {}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=20) as response:
            text: str = response.read().decode()
            return text

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `ray` command as a user gives it in the checkout, with the token and the address."""
        return subprocess.run(
            [RAY, *arguments],
            cwd=ROOT,
            env={**self.environment, "RAY_ADDRESS": self.url},
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def close(self) -> None:
        """End what was started here: at SIGTERM the head ends its own processes, but for nodes that its autoscaler started."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        finally:
            for process in _in_session(self._process.pid):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _in_session(session: int) -> list[int]:
    """Ids of the processes in a session, the one of its first process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            # the name in parentheses may hold anything
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                found.append(int(stat.parent.name))
    return found
