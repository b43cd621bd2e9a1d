"""moto's S3 on loopback that has on disk what it acknowledged, so that it can be killed and started again, as a store can.

    python tests/faults/object_store.py FOLDER PORT BUCKET

Prints its port. An upload in parts that is under way when it dies is lost, as it would be.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

ACCOUNT, REGION = "123456789012", "us-east-1"
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Durable:
    """Passes requests on, and lets nobody see the answer to a change before that is on disk."""

    def __init__(self, app: App, folder: Path, bucket: str) -> None:
        from moto.s3.models import s3_backends

        self._app, self._folder = app, folder
        self._lock = threading.Lock()
        self._saved: dict[str, str] = {}
        backend = s3_backends[ACCOUNT]["aws"]
        self._bucket = backend.create_bucket(bucket, REGION)
        for file in folder.glob("[!.]*"):
            key = backend.put_object(bucket, unquote(file.name), file.read_bytes())
            self._saved[key.name] = key.etag

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = self._app(environ, start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            with self._lock:
                self._save()
        return answer

    def _save(self) -> None:
        there = dict(self._bucket.keys.items())
        for name in self._saved.keys() - there.keys():
            (self._folder / quote(name, safe="")).unlink()
            del self._saved[name]
        for name, key in there.items():
            if self._saved.get(name) != key.etag:
                hidden = self._folder / ".new"
                hidden.write_bytes(key.value)
                hidden.replace(self._folder / quote(name, safe=""))
                self._saved[name] = key.etag


class ObjectStore:
    """Such a server as a process, and what can be done to it."""

    def __init__(self, folder: Path, bucket: str) -> None:
        folder.mkdir()
        self._folder, self.bucket = folder, bucket
        self._held: socket.socket | None = None
        self._start(0)

    def uri(self, name: str) -> str:
        """A place on it, as pyarrow takes it; all that is needed to get there is in it."""
        return f"s3://toy:toy@{self.bucket}/{name}?endpoint_override=127.0.0.1:{self.port}&scheme=http&region={REGION}"

    def stop(self) -> None:
        """Let it hang: connections are taken, and nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL; until `restart` connections are refused."""
        self._process.kill()
        self._process.wait()
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", self.port))

    def restart(self) -> None:
        self._start(self.port)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._held is not None:
            self._held.close()

    def _start(self, port: int) -> None:
        command = [sys.executable, __file__, str(self._folder), str(port), self.bucket]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        if self._held is not None:
            self._held.close()
            self._held = None


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    folder, port, bucket = sys.argv[1:]
    app = Durable(DomainDispatcherApplication(create_backend_app), Path(folder), bucket)
    # the socket that only kept the port is closed by now or will be in a moment
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", int(port)))
    listening.listen(128)
    server = make_server("127.0.0.1", 0, app, threaded=True, fd=os.dup(listening.fileno()))
    print(listening.getsockname()[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
