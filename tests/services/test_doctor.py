"""The doctor before money is spent: what it finds, what it leaves alone, and that it never shows a key."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import Judge, Price, Score, Vllm
from alpagasus_ray.doctor import storage_probe
from alpagasus_ray.doctor.checks import Check, examine
from alpagasus_ray.raycluster import nodes
from alpagasus_ray.raycluster.pool import Pool
from alpagasus_ray.store.run import Run
from alpagasus_ray.store.storage import Storage
from loopback import JudgeStarter
from toy_runs import api_judge, job

RULES = Judge(kind="rules")
KEY = "sk-canary-0123456789abcdef"
PRICE = Price(input=1, output=2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a job in it, and nothing else."""
    (tmp_path / "work" / "jobs").mkdir(parents=True)
    (tmp_path / "work" / "jobs" / "score.py").write_text("")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def run(tmp_path: Path, folder: Path) -> Run:
    return Run.open(str(tmp_path / "runs" / "mine"))


@pytest.fixture
def server() -> Iterator["Toy"]:
    """A server whose answer to everything is chosen by the test."""
    toy = Toy(("127.0.0.1", 0), _Handler)
    threading.Thread(target=toy.serve_forever, args=(0.01,), daemon=True).start()
    yield toy
    toy.shutdown()
    toy.server_close()


class Toy(http.server.ThreadingHTTPServer):
    """Answers with `status` and `body`; `{key}` in the body is the header with the key. Keeps what it was asked."""

    status = 200
    body = '{"data": []}'
    asked: list[str]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        toy = self.server
        assert isinstance(toy, Toy)
        toy.asked = [*getattr(toy, "asked", []), f"{self.command} {self.path}"]
        body = toy.body.replace("{key}", self.headers.get("Authorization", "")).encode()
        self.send_response(toy.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_GET  # noqa: N815 - the name is that of the base
    do_POST = do_GET  # noqa: N815 - the name is that of the base

    def log_message(self, *args: Any) -> None:
        """Quiet."""


def _found(config: Score, run: Run, name: str) -> Check:
    [check] = [check for check in examine(config, run) if check.name == name]
    return check


def _api(base_url: str, **changes: Any) -> Score:
    return Score(judge=api_judge(base_url, price=PRICE, **changes))


def test_all_is_well_where_all_is_well(judge: JudgeStarter, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = judge("--key", KEY)
    checks = examine(_api(server.base_url), run)
    assert {check.name: check.status for check in checks} == dict.fromkeys(
        ("key", "model", "price", "storage", "actors", "versions", "working directory"), "ok"
    )
    assert not any(check.fix for check in checks)
    assert server.taken() == []


def test_the_only_request_is_for_the_list_of_models(server: Toy, run: Run) -> None:
    examine(_api(server.base_url), run)
    assert server.asked == ["GET /v1/models"]


def test_a_key_from_a_file_is_used(judge: JudgeStarter, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(KEY)
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(tmp_path / "key"))
    check = _found(_api(judge("--key", KEY).base_url), run, "key")
    assert check.status == "ok"
    assert "OPENAI_API_KEY_FILE" in check.detail


def test_a_missing_key_is_a_problem(run: Run) -> None:
    check = _found(Score(judge=Judge(model="toy")), run, "key")
    assert check.status == "problem"
    assert "OPENAI_API_KEY_FILE" in check.fix


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_a_problem_and_is_not_shown(
    server: Toy, run: Run, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.status, server.body = status, '{"error": {"message": "no such key: {key}"}}'
    checks = examine(_api(server.base_url), run)
    assert "the server refuses the key" in next(check for check in checks if check.name == "key").detail
    assert KEY not in str(checks)


def test_a_list_of_models_that_anybody_is_given_says_nothing_of_the_key(
    server: Toy, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    checks = examine(_api(server.base_url), run)
    check = next(check for check in checks if check.name == "key")
    assert (check.status, check.detail.partition(":")[0]) == ("warning", "not tested")
    assert "alpagasus score RUN --limit 1" in check.fix
    assert KEY not in str(checks)
    assert server.asked == ["GET /v1/models"] * 2


@pytest.mark.parametrize("text", ["", "two words", "line\nbreak-0123456789", "schlüssel"])
def test_what_cannot_be_a_key_is_a_problem_and_is_neither_sent_nor_shown(
    server: Toy, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "key").write_text(text, encoding="utf-8")
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(tmp_path / "key"))
    checks = examine(_api(server.base_url), run)
    assert next(check for check in checks if check.name == "key").status == "problem"
    assert not hasattr(server, "asked")
    assert not text or text not in str(checks)


def test_a_server_that_is_not_there_is_a_problem(judge: JudgeStarter, run: Run) -> None:
    server = judge()
    server.close()
    check = _found(_api(server.base_url), run, "key")
    assert (check.status, "Connection refused" in check.detail) == ("problem", True)


@pytest.mark.parametrize(("status", "key"), [(404, "warning"), (500, "warning"), (429, "warning"), (200, "ok")])
def test_a_server_without_a_list_of_models_is_a_warning(server: Toy, run: Run, status: int, key: str) -> None:
    server.status, server.body = status, "<html>"
    found = {check.name: check.status for check in examine(_api(server.base_url), run)}
    assert (found["key"], found["model"]) == (key, "warning")


def test_a_model_that_the_server_does_not_have_is_told_with_the_nearest(server: Toy, run: Run) -> None:
    server.body = json.dumps({"data": [{"id": name} for name in ("gpt-4o-mini", "gpt-4o", "whisper-1")]})
    check = _found(_api(server.base_url, model="gpt4o-mini"), run, "model")
    assert check.status == "problem"
    assert "gpt-4o-mini" in check.fix
    assert "whisper" not in check.fix


def test_every_endpoint_is_asked(judge: JudgeStarter, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_KEY", KEY)
    monkeypatch.setenv("SECOND_KEY", "another")
    places = [
        {"base_url": judge("--key", KEY).base_url, "api_key_env": "FIRST_KEY"},
        {"base_url": judge("--key", "right").base_url, "api_key_env": "SECOND_KEY"},
    ]
    found = {check.name: check for check in examine(_api("http://unused", endpoints=places), run)}
    assert (found["key 1"].status, found["model 1"].status, found["key 2"].status) == ("ok", "ok", "problem")
    assert "SECOND_KEY" in found["key 2"].detail
    assert "model 2" not in found


@pytest.mark.parametrize(
    ("cap", "changes", "status"),
    [
        (None, {}, "warning"),
        (None, {"price": PRICE}, "ok"),
        (5, {}, "problem"),
        (5, {"price": PRICE}, "ok"),
        (5, {"price": PRICE, "max_tokens": None}, "problem"),
        (5, {"price": PRICE, "max_tokens": 50, "max_tokens_field": "max_completion_tokens"}, "ok"),
    ],
)
def test_a_cap_needs_a_price_and_a_bound(server: Toy, run: Run, cap: float, changes: dict[str, Any], status: str) -> None:
    config = Score(judge=api_judge(server.base_url, **changes), max_cost_usd=cap)
    assert _found(config, run, "price").status == status


def test_offline_judges_need_no_key_and_no_price(run: Run) -> None:
    names = [check.name for check in examine(Score(judge=RULES), run)]
    assert names == ["storage", "actors", "versions", "working directory"]


def test_the_run_is_left_as_it_was(run: Run, folder: Path) -> None:
    config = Score(judge=RULES)
    assert _found(config, run, "storage").status == "ok"
    assert not (folder.parent / "runs").exists()
    run.storage.write("recipe.yaml", b"kept")
    assert _found(config, run, "storage").status == "ok"
    assert [path.name for path in Path(run.storage.root).iterdir()] == ["recipe.yaml"]


def test_a_place_that_cannot_be_written_is_a_problem(folder: Path) -> None:
    (folder / "file").write_text("in the way")
    check = _found(Score(judge=RULES), Run.open(str(folder / "file" / "run")), "storage")
    assert check.status == "problem"


def test_storage_that_denies_everything_is_told_by_the_check_of_the_storage(server: Toy, folder: Path) -> None:
    server.status, server.body = 403, ""
    place = f"s3://toy:toy@bucket/run?endpoint_override=127.0.0.1:{server.server_address[1]}&scheme=http&region=us-east-1"
    done = job("doctor", place, "--set", "score.judge.kind=rules", "--set", "ingest.turns=all", "--json")
    assert done.stdout, done.stderr
    checks = {check["name"]: check["status"] for check in json.loads(done.stdout)["checks"]}
    assert (done.returncode, checks["storage"], checks["versions"]) == (1, "problem", "ok")


def test_an_object_store_is_tried_and_left_as_it_was(bucket: str) -> None:
    storage = Storage.open(f"{bucket}/doctor")
    storage.write("kept", b"1")
    with storage_probe.placed(storage) as name:
        assert storage_probe.faults(storage, name) == []
    assert storage.names() == ["kept"]


def test_a_bucket_that_is_not_there_is_a_problem(bucket: str, folder: Path) -> None:
    config = Score(judge=RULES)
    assert _found(config, Run.open("s3://no-such-bucket-of-ours/run"), "storage").status == "problem"


def test_a_writer_that_is_not_whole_or_absent_is_found(tmp_path: Path) -> None:
    class InPieces(Storage):
        def write(self, name: str, content: bytes) -> Any:
            os.makedirs(self.root, exist_ok=True)
            with open(self.path(name), "wb") as stream:
                for start in range(0, len(content), 1 << 12):
                    stream.write(content[start : start + (1 << 12)])
                    stream.flush()

    plain = Storage.open(str(tmp_path / "run"))
    storage = InPieces(plain.fs, plain.root)
    with storage_probe.placed(storage) as name:
        assert storage_probe.faults(storage, name) == ["a reader sees half of a file while it is replaced"]


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ("/dev/sda1 / ext4 rw 0 0\nserver:/x {parent} nfs4 rw 0 0\n", "nfs4"),
        ("server:/x / nfs rw 0 0\n/dev/sda1 {parent} ext4 rw 0 0\n", None),
        ("/dev/sda1 / ext4 rw 0 0\nbucket {parent} fuse.s3fs rw 0 0\n", "fuse.s3fs"),
        ("", None),
    ],
)
def test_network_file_systems_are_told_by_the_innermost_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: str, kind: str | None
) -> None:
    parent = tmp_path / "with space"
    (tmp_path / "mounts").write_text(mounts.format(parent=str(parent).replace(" ", "\\040")))
    monkeypatch.setattr(storage_probe, "MOUNTS", str(tmp_path / "mounts"))
    assert storage_probe.network_kind(Storage.open(str(parent / "run"))) == kind


def test_more_actors_than_cpus_are_a_problem_without_starting_ray(run: Run) -> None:
    check = _found(Score(judge=RULES, actors=10_000), run, "actors")
    assert check.status == "problem"
    assert re.search(r"score\.actors=\d+", check.fix)


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"max_workers": 2, "available_node_types": {"w": {"resources": {"CPU": 8}, "max_workers": 5}}}, 1 + 16),
        ({"max_workers": 9, "available_node_types": {"w": {"resources": {"CPU": 8}, "max_workers": 5}}}, 1 + 40),
        (
            {
                "max_workers": 3,
                "head_node_type": "head",
                "available_node_types": {
                    "head": {"resources": {"CPU": 64}},
                    "small": {"resources": {"CPU": 2}, "max_workers": 9},
                    "large": {"resources": {"CPU": 32}, "max_workers": 1},
                },
            },
            1 + 32 + 2 + 2,
        ),
        ({"max_workers": 3, "available_node_types": {"w": {"resources": {}, "max_workers": 3}}}, None),
        ({"max_workers": 3, "available_node_types": {"w": {"resources": {}, "max_workers": 0}}}, 1),
    ],
)
def test_the_largest_cluster_takes_the_best_workers_first(config: dict[str, Any], most: int | None) -> None:
    assert nodes.largest(config, 1, Pool()) == most


@pytest.mark.parametrize("name", [".env", ".env.local", "openai.key", "cert.pem", "id_rsa", "jobs/.env"])
def test_a_file_named_like_a_key_is_a_problem(folder: Path, run: Run, name: str) -> None:
    (folder / name).write_text("x")
    check = _found(Score(judge=RULES), run, "working directory")
    assert check.status == "problem"
    assert name in check.detail
    (folder / ".rayignore").write_text(Path(name).name)
    assert _found(Score(judge=RULES), run, "working directory").status == "ok"


def test_a_file_that_holds_the_key_is_a_problem_whatever_its_name(
    server: Toy, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (folder / "notes.txt").write_text(f"my key is {KEY}, do not tell")
    check = _found(_api(server.base_url), run, "working directory")
    assert (check.status, "notes.txt" in check.detail, KEY in str(check)) == ("problem", True, False)


@pytest.mark.parametrize(("mib", "status"), [(1, "ok"), (60, "warning"), (513, "problem")])
def test_the_size_of_the_upload_is_judged(folder: Path, run: Run, mib: int, status: str) -> None:
    with open(folder / "data.csv", "wb") as stream:
        stream.truncate(mib << 20)
    check = _found(Score(judge=RULES), run, "working directory")
    assert check.status == status
    assert status == "ok" or "data.csv" in check.detail


def test_a_folder_without_jobs_is_not_looked_through(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(KEY)
    monkeypatch.chdir(tmp_path)
    assert _found(Score(judge=RULES), run, "working directory").status == "ok"


def test_the_address_of_the_job_api_is_told_from_that_of_a_cluster(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    check = _found(Score(judge=RULES), run, "cluster")
    assert (check.status, "ray job submit" in check.fix) == ("warning", True)


def test_a_cluster_that_is_not_there_is_a_problem(judge: JudgeStarter, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = judge()
    gone.close()
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{gone.port}")
    assert _found(Score(judge=RULES), run, "cluster").status == "problem"


def test_the_job_prints_a_line_for_each_check_and_its_exit_code_says_whether_there_is_a_problem(
    judge: JudgeStarter, folder: Path
) -> None:
    server = judge("--key", KEY)
    run = folder.parent / "run"
    judged = ("--set", "score.judge.model=toy", "--set", f"score.judge.base_url={server.base_url}", "--json")
    well = job("doctor", run, *judged, OPENAI_API_KEY=KEY)
    report = json.loads(well.stdout)
    assert (well.returncode, report["ok"]) == (0, True), well.stderr
    assert set(report["checks"][0]) == {"name", "status", "detail", "fix"}
    ill = job("doctor", run, *judged, OPENAI_API_KEY="a-wrong-key-0123456789")
    assert (ill.returncode, json.loads(ill.stdout)["ok"]) == (1, False)
    assert "problem  key" in ill.stderr
    assert not run.exists()
    for done in (well, ill):
        assert KEY not in done.stdout + done.stderr
        assert "a-wrong-key" not in done.stdout + done.stderr


def test_a_run_that_a_driver_is_working_on_may_be_looked_at(tmp_path: Path, folder: Path) -> None:
    program = f"""
import sys
from alpagasus_ray.store import lock
from alpagasus_ray.store.run import Run
with lock.held(Run.open({str(tmp_path / "run")!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        done = job("doctor", tmp_path / "run", "--set", "score.judge.kind=rules")
        assert other.stdin is not None
        other.stdin.close()
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_an_engine_that_fits_no_node_is_a_problem_with_the_knobs_that_say_so(run: Run) -> None:
    judge = Judge(kind="vllm", model="m", vllm=Vllm(gpu=True, tensor_parallel=64))
    check = next(check for check in examine(Score(judge=judge), run) if check.name == "actors")
    assert (check.status, check.detail) == ("problem", "engines of 1 CPUs and 64 GPUs each: 1; the nodes hold 0")
    assert "tensor_parallel" in check.fix
