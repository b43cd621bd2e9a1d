"""Programs that nobody has read, run where they can do no harm: in bubblewrap, or nowhere.

A program sees Python and the system's libraries read-only, a /tmp of its own in memory, and no network, no other process, no
variable of the environment and no file of anybody. It may start no process (a filter of system calls), and memory, time and
file sizes are limited. Whatever it does, it ends with its time, and all that belongs to it.

That a program has succeeded, it tells by a word that is drawn anew for each; one that ends early has not succeeded. A program
that looks for the word in the memory of its own interpreter can find it: this guards the machine, not the score.
"""

import errno
import os
import platform
import secrets
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from alpagasus_ray.errors import UsageError

BWRAP = "bwrap"
OWN_TMP = "/tmp"  # noqa: S108 - the sandbox's own, in memory
TMP_MIB = 64
"""Size of a program's own /tmp, and of the largest file."""
MOST_TOLD = 4096
"""Bytes that are read of what a program tells."""
START_S = 10.0
"""Seconds that the sandbox may take to start, on a busy machine."""
RUNNER = """
import os, resource, sys
seconds, memory, files, processes = map(int, sys.argv[1:5])
source, _, mark = sys.stdin.buffer.read().decode().rpartition("\\n")
told, nothing = os.dup(1), os.open(os.devnull, os.O_RDWR)
os.write(told, b"\\n")
for number in (0, 1, 2):
    os.dup2(nothing, number)
def limit(what, value):
    resource.setrlimit(what, (value, value))
limit(resource.RLIMIT_AS, memory)
limit(resource.RLIMIT_CPU, seconds + 1)
limit(resource.RLIMIT_FSIZE, files)
limit(resource.RLIMIT_CORE, 0)
limit(resource.RLIMIT_NOFILE, 64)
if processes:
    limit(resource.RLIMIT_NPROC, processes)
try:
    exec(compile(source, "program.py", "exec"), {"__name__": "__main__"})
except BaseException as error:
    os.write(told, f"{type(error).__name__}: {error}"[:300].encode("utf-8", "replace"))
else:
    os.write(told, mark.encode())
os._exit(0)
"""


class Limits(NamedTuple):
    """What a program may take."""

    seconds: int = 10
    memory_mib: int = 1024


class Ran(NamedTuple):
    """What became of a program."""

    is_solved: bool
    error: str | None
    """Why not: an exception of the program, or what limit it has met."""


@dataclass(frozen=True)
class Sandbox:
    """Where programs run; it can be sent to workers."""

    limits: Limits
    unsafe: bool = False
    """Without bubblewrap: limits hold, nothing else does."""

    @classmethod
    def open(cls, limits: Limits, what: str, *, unsafe: bool = False) -> "Sandbox":
        """A sandbox that was tried. `what` needs it, for the `UsageError` where there is no bubblewrap that works."""
        sandbox = cls(limits, unsafe)
        problem = None if unsafe else sandbox.problem()
        if problem is not None:
            raise UsageError(
                f"{what}, in a sandbox by bubblewrap, and {problem}. Install it (apt install bubblewrap), leave the benchmark "
                f"out, or, "
                "on a machine that may be harmed, say --unsafe-code"
            )
        return sandbox

    def problem(self) -> str | None:
        """Why this machine has no sandbox; None where it has one."""
        if shutil.which(BWRAP) is None:
            return f"{BWRAP} is not installed here"
        ran = self.run("")
        return None if ran.is_solved else f"it does not work here: {ran.error}"

    def run(self, program: str) -> Ran:
        """Run a Python program to its end."""
        mark = secrets.token_hex(16)
        with tempfile.TemporaryDirectory(prefix="alpagasus-code-") as folder:
            command = self._command() if self.unsafe else [*_around(), *self._command()]
            with _filter_file() as rules:
                extra = [] if self.unsafe else ["--seccomp", str(rules.fileno())] if rules else []
                process = subprocess.Popen(  # noqa: S603 - the command is ours, and what it runs is the point
                    command[:1] + extra + command[1:],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=folder,
                    env={},
                    pass_fds=[rules.fileno()] if extra and rules else [],
                    start_new_session=True,
                )
            try:
                return self._outcome(process, program, mark)
            finally:
                _end(process)

    def _command(self) -> list[str]:
        own = [
            self.limits.seconds,
            self.limits.memory_mib << 20,
            TMP_MIB << 20,
            MOST_PROCESSES if self.unsafe or not _filter() else 0,
        ]
        return [os.path.realpath(sys.executable), "-I", "-S", "-c", RUNNER, *map(str, own)]

    def _outcome(self, process: "subprocess.Popen[bytes]", program: str, mark: str) -> Ran:
        assert process.stdin is not None, "it is a pipe"
        try:
            process.stdin.write(f"{program}\n{mark}".encode("utf-8", "replace"))
            process.stdin.close()
        except BrokenPipeError:
            pass  # it did not start, and says why
        told = _read(process, self.limits.seconds)
        if told is None:
            return Ran(False, f"time: it did not end within {self.limits.seconds} s")
        text = told.decode("utf-8", "replace").strip()
        if text == mark:
            return Ran(True, None)
        return Ran(False, text or _end_of(process))


MOST_PROCESSES = 16
"""Where system calls cannot be filtered."""


def _around() -> list[str]:
    """Bubblewrap with what a program sees."""
    seen: list[str] = []
    for folder in ("/usr", "/lib", "/lib64", "/bin"):
        if os.path.islink(folder):
            seen += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            seen += ["--ro-bind", folder, folder]
    python = os.path.realpath(sys.base_prefix)
    if not python.startswith("/usr/"):
        seen += ["--ro-bind", python, python]
    own = ["--size", str(TMP_MIB << 20), "--tmpfs", OWN_TMP, "--proc", "/proc", "--dev", "/dev"]
    shut = ["--remount-ro", "/dev", "--remount-ro", "/", "--unshare-all", "--cap-drop", "ALL"]
    return [
        shutil.which(BWRAP) or BWRAP,
        *seen,
        *own,
        *shut,
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        *("--chdir", OWN_TMP),
    ]


def _read(process: "subprocess.Popen[bytes]", seconds: float) -> bytes | None:
    """What a process tells until it ends, or as much as is read; None where it does not end in time after it has begun."""
    assert process.stdout is not None, "it is a pipe"
    deadline, told = time.monotonic() + START_S + seconds, b""
    while len(told) < MOST_TOLD:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            return None
        part = os.read(process.stdout.fileno(), MOST_TOLD)
        if not part:
            return told
        if not told:  # the runner's own first line
            deadline = time.monotonic() + seconds
        told += part
    return told


def _end_of(process: "subprocess.Popen[bytes]") -> str:
    """Why a process has told nothing."""
    assert process.stderr is not None, "it is a pipe"
    process.wait(timeout=START_S)
    said = os.read(process.stderr.fileno(), MOST_TOLD).decode("utf-8", "replace").strip()
    return said.splitlines()[-1][:300] if said else f"it ended early (exit code {process.returncode})"


def _end(process: "subprocess.Popen[bytes]") -> None:
    """With bubblewrap ends all that it has started."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None and not stream.closed:
            stream.close()


# the filter of system calls: threads are allowed, processes are not

CLONE_THREAD = 0x00010000
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
OTHER_NUMBERS = 0x40000000
"""Numbers from here on are those of x32, another way to the same calls."""


class _Calls(NamedTuple):
    architecture: int
    clone: int
    clone3: int
    others: Sequence[int]


CALLS = {
    "x86_64": _Calls(0xC000003E, 56, 435, (57, 58)),
    "aarch64": _Calls(0xC00000B7, 220, 435, ()),
}
"""Numbers of the system calls that start processes, by machine (linux/audit.h, asm/unistd.h)."""


def _filter() -> bytes | None:
    """A program for the kernel (seccomp, classic BPF) that refuses to start processes; None on machines that are not known."""
    calls = CALLS.get(platform.machine())
    if calls is None:
        return None
    refused = REFUSE | errno.EPERM
    rules: list[tuple[int, int, int, int]] = [
        (LOAD, 0, 0, 4),  # the architecture
        (EQUAL, 1, 0, calls.architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),  # the number of the call
        (AT_LEAST, 0, 1, OTHER_NUMBERS),
        (RETURN, 0, 0, refused),
        (EQUAL, 0, 1, calls.clone3),
        (RETURN, 0, 0, REFUSE | errno.ENOSYS),  # its flags lie in memory; libraries take `clone` where it is not there
    ]
    for number in calls.others:
        rules += [(EQUAL, 0, 1, number), (RETURN, 0, 0, refused)]
    rules += [
        (EQUAL, 1, 0, calls.clone),
        (RETURN, 0, 0, ALLOW),
        (LOAD, 0, 0, 16),  # the flags
        (ANY_BIT, 0, 1, CLONE_THREAD),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, refused),
    ]
    return b"".join(struct.pack("=HBBI", *rule) for rule in rules)


class _filter_file:  # noqa: N801 - used as a function
    """The filter in a file without a name, for bubblewrap to read; None where there is none."""

    def __enter__(self) -> "tempfile._TemporaryFileWrapper[bytes] | None":
        rules = _filter()
        self._file = None if rules is None else tempfile.TemporaryFile()
        if self._file is not None:
            self._file.write(rules or b"")
            self._file.seek(0)
        return self._file  # type: ignore[return-value]

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
