"""Ray workers for tests, forked from a process that has imported everything already: a start takes 0.1 s in place of 2.

A worker of Ray is a fresh interpreter, and nearly all that a small job costs is imports. The Ray of the test run starts
`worker_start.py` instead, which asks the process below for a copy of itself. Whatever starts its own Ray (the tests of jobs as
processes, of clusters) has workers that import from nothing.
"""

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ANY = ["ray._private.workers.default_worker", "ray.data._internal.execution.operators.actor_pool_map_operator", "pandas"]
ANY += [
    "alpagasus_ray.stages.score",
    "alpagasus_ray.engines.openai_api",
    "alpagasus_ray.inference.worker",
    "alpagasus_ray.commands",
]
TRAINING = ["torch", "transformers.models.llama.modeling_llama", "deepspeed", "ray.train.torch", "alpagasus_ray.training.loop"]


@contextlib.contextmanager
def server(modules: list[str]) -> Iterator[None]:
    """The process that has imported `modules`; it and all workers end with the block."""
    with tempfile.TemporaryDirectory(prefix="ar-") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen(64)
        command = [sys.executable, __file__, str(listener.fileno()), *modules]
        known = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        started = subprocess.Popen(command, pass_fds=[listener.fileno()], env=known)
        os.environ["FORKED_WORKERS"] = f"{folder}/socket"
        try:
            yield
        finally:
            del os.environ["FORKED_WORKERS"]
            started.terminate()
            started.wait(timeout=30)


@contextlib.contextmanager
def asked_for_workers() -> Iterator[None]:
    """A Ray that this process starts in the block asks that one for its workers, as long as it lives."""
    from ray._private import parameter

    start, plain = Path(__file__).with_name("worker_start.py"), parameter.RayParams.__init__
    parameter.RayParams.__init__ = functools.partialmethod(plain, setup_worker_path=str(start))
    try:
        yield
    finally:
        parameter.RayParams.__init__ = plain


def _load(modules: list[str], environment: dict[str, str]) -> None:
    """Import in the environment of a worker: Ray reads some of it once, how to show who one is among that."""
    os.environ.update({**environment, "DS_ACCELERATOR": "cpu"})
    for name in ["fresh_ids", *modules]:
        importlib.import_module(name)
    gc.freeze()


def _serve(listener: socket.socket, modules: list[str]) -> None:
    """Fork a worker for each caller. A caller that goes takes its worker along, and is told how that ended."""
    loaded = False
    selector, callers = selectors.DefaultSelector(), dict[int, socket.socket]()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                caller, _ = listener.accept()
                wanted, streams, _, _ = socket.recv_fds(caller, 1 << 20, 3)
                if not wanted:  # it went before it said what it wants
                    caller.close()
                    continue
                given = json.loads(wanted)
                if not loaded:
                    _load(modules, given["environment"])
                    loaded = True
                pid = os.fork()
                if not pid:
                    selector.close()
                    _be_a_worker(streams, **given)
                for stream in streams:
                    os.close(stream)
                callers[pid] = caller
                selector.register(caller, selectors.EVENT_READ, pid)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
            elif isinstance(key.fileobj, socket.socket):
                selector.unregister(key.fileobj)
                os.kill(key.data, signal.SIGKILL)
            else:
                _, status = os.waitpid(key.data, 0)
                selector.unregister(key.fileobj)
                os.close(key.fd)
                caller = callers.pop(key.data)
                with contextlib.suppress(KeyError):
                    selector.unregister(caller)
                with contextlib.suppress(OSError):
                    caller.send(str(os.waitstatus_to_exitcode(status) & 255).encode())
                caller.close()


def _be_a_worker(streams: list[int], arguments: list[str], environment: dict[str, str], folder: str) -> Any:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os.setpgid(0, 0)  # Ray ends what a worker has started by its process group
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
    # what Ray's own start takes off before it runs the rest
    sys.argv = [word for word in arguments if not word.startswith(("--serialized-runtime-env-context", "--language"))]
    code = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
