"""Benchmarks of models of an API, from task file to page: real server, real lm-eval, real sandbox; and what is refused."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from alpagasus_ray.config import Bench, BenchModel, Generate, Report
from alpagasus_ray.errors import SettingsChanged, StageFailed, UsageError
from alpagasus_ray.reporting import terminal
from alpagasus_ray.reporting.run_reader import finished_stages
from alpagasus_ray.stages.bench import bench, plan
from alpagasus_ray.stages.report import report
from alpagasus_ray.stages.status import status
from alpagasus_ray.store.run import Manifest, Run
from servers import serving
from toy_runs import ROOT

pytest.importorskip("lm_eval", reason="lm-eval is not installed (make install)")

SUMS = {
    "name": "sums",
    "about": "Sums of two numbers, after two solved ones.",
    "columns": ["sum", "result"],
    "shots": 2,
    "measure": "exact_match",
    "cluster": "of",
    "harness": {
        "output_type": "generate_until",
        "description": "Add up.\n\n",
        "doc_to_text": "{{sum}} =",
        "doc_to_target": "{{result}}",
        "generation_kwargs": {"until": ["\n", " ", ";", ".", "!"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}
Answer = Callable[[str, str], str | int]
"""From the model's name and the question to a reply, or to the status of an error."""


class Server(HTTPServer):
    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.asked = answer, list[dict[str, Any]]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        told = self.server.answer(body["model"], body["messages"][-1]["content"])
        if isinstance(told, str):
            self.server.asked.append(body)
        choice = {"message": {"content": told}, "finish_reason": "stop"}
        content = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 20, "completion_tokens": 2}}).encode()
        self.send_response(200 if isinstance(told, str) else told)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def answering(answer: Answer) -> Iterator[Server]:
    server = Server(answer)
    with serving(server):
        yield server


def adds(model: str, question: str) -> str:
    """`good` always adds up; `poor` is wrong in every third sum."""
    first, second = map(int, re.findall(r"\d+", question))
    return f"{first + second + (model == 'poor' and first % 3 == 0)}! As everybody knows"


def sums(folder: Path, count: int = 60) -> dict[str, Any]:
    rows = [{"sum": f"{n} + {n + 1}", "result": str(2 * n + 1), "of": f"page {n // 4}"} for n in range(10, 10 + count)]
    (folder / "sums").mkdir()
    for name, part in (("test", rows), ("shots", rows[:3])):
        (folder / f"sums/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (folder / "sums.yaml").write_text(yaml.safe_dump(SUMS))
    return {"name": "sums", "file": str(folder / "sums.yaml"), "data": str(folder / "sums")}


def config(task: Any, *models: dict[str, Any], **more: Any) -> Bench:
    return Bench.model_validate({"tasks": [task], "models": list(models), **more})


def api(server: Server, name: str) -> dict[str, Any]:
    return {"name": name, "api": name, "base_url": server.url, "price": {"input": 1, "output": 1}}


def asked(given: Bench, run: Run, **more: Any) -> list[Manifest]:
    return [manifest for _, _, manifest in bench(given, Generate(), run, in_process=True, **more)]


def documents(run: Run, model: str, task: str) -> list[dict[str, Any]]:
    stage = run.benchmark(model, task)
    found: list[dict[str, Any]] = pa.concat_tables(stage.tables(stage.finished())).to_pylist()
    return found


def test_two_models_are_asked_a_benchmark_of_ones_own_and_the_page_tells_their_difference(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    with answering(adds) as server:
        given = config(sums(tmp_path), api(server, "good"), api(server, "poor"))
        good, poor = asked(given, run)
        count = len(server.asked)
        assert asked(given, run) == [good, poor]
        assert len(server.asked) == count == 120, "a second call asks nothing"
    body = server.asked[0]
    assert body["stop"] == ["\n", " ", ";", "."], "of five the four that an API takes"
    assert (body["max_tokens"], body["temperature"]) == (8, 0.0)
    assert [message["role"] for message in body["messages"]] == ["system", *["user", "assistant"] * 2, "user"]
    assert good.details["score"]["value"] == 1.0, "replies are cut at the fifth text as well"
    assert poor.details["score"] == {"value": pytest.approx(2 / 3), "low": pytest.approx(0.62, abs=0.1), "n": 60} | {
        "high": pytest.approx(0.71, abs=0.1)
    }
    rows = documents(run, "poor", "sums")
    assert [row["score"] for row in rows] == [float(n % 3 != 0) for n in range(10, 70)]
    assert rows[0]["document_id"] == "00000"
    assert (rows[2]["prediction"], rows[2]["target"], rows[2]["cluster"]) == ("26", "25", "page 3")
    assert good.usage["cost_usd"] == pytest.approx(60 * 22e-6)
    page = report(Report(), run)
    told = json.loads((tmp_path / "run/report/report.json").read_text())
    (panel,) = [one for one in told["panels"] if one["id"] == "benchmarks"]
    assert "sums: good is +33.3 points from poor" in panel["points"][0]
    assert panel["tables"][0]["rows"][0][:3] == ["sums", "good", 100.0]
    assert page


def test_a_call_that_was_stopped_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    run, sent = Run.open(str(tmp_path / "run")), 0

    def breaks_down(model: str, question: str) -> str | int:
        nonlocal sent
        sent += 1
        return adds(model, question) if sent <= 25 else 401

    with answering(breaks_down) as server:
        given = config(sums(tmp_path), api(server, "good"))
        with pytest.raises(StageFailed):
            asked(given, run)
        first = [one["messages"][-1]["content"] for one in server.asked]
        (begun,) = status(run)["stages"]
        assert (begun["stage"], begun["state"], begun["replies"]) == ("benchmarks/good/sums", "unfinished", 25)
        server.answer = adds
        (manifest,) = asked(given, run)
        every = [one["messages"][-1]["content"] for one in server.asked]
    assert len(first) == 25
    assert len(every) == len(set(every)) == 60
    assert manifest.details["score"]["value"] == 1.0


def test_questions_without_a_reply_count_as_wrong_are_told_and_may_be_asked_again(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    with answering(lambda model, question: 400 if question.startswith("1") else adds(model, question)) as server:
        given = config(sums(tmp_path), api(server, "good"), max_failed=0.5)
        (manifest,) = asked(given, run)
        assert manifest.details["without_reply"] == 10
        assert manifest.details["score"]["value"] == pytest.approx(50 / 60)
        assert manifest.counts == {"answered": 50, "failed": 10}
        server.answer = adds
        before = len(server.asked)
        (manifest,) = asked(given, run, again=("failed",))
        assert len(server.asked) - before == 10
    assert manifest.details["score"]["value"] == 1.0


def test_other_shots_other_documents_and_another_task_file_are_never_mixed_with_what_is_there(tmp_path: Path) -> None:
    run, task = Run.open(str(tmp_path / "run")), sums(tmp_path)
    with answering(adds) as server:
        asked(config(task, api(server, "good")), run)
        with pytest.raises(SettingsChanged, match="shots"):
            asked(config({**task, "shots": 1}, api(server, "good")), run)
        (tmp_path / "sums/test.jsonl").write_text(json.dumps({"sum": "1 + 1", "result": "2", "of": "x"}) + "\n")
        with pytest.raises(SettingsChanged, match="documents"):
            asked(config(task, api(server, "good")), run)
    assert len(server.asked) == 60


def test_an_arm_whose_examples_hold_questions_of_the_benchmark_is_told_so(tmp_path: Path) -> None:
    from alpagasus_ray.config import Arm, Judge, Pick, Score
    from alpagasus_ray.pick_inputs.contamination import of_arm
    from alpagasus_ray.stages.pick_subset import pick_subset
    from alpagasus_ray.stages.score import score
    from toy_runs import toy_run

    run = toy_run(tmp_path, 12)
    score(Score(judge=Judge(kind="rules")), run, in_process=True)
    pick_subset(Pick(arms=(Arm(name="full", policy="full"),)), run)
    near = "Say the number 7. The number is the one that comes after six and before eight"
    questions = [
        ("a", "Say the number 3.", "yes"),
        ("b", "Name the river that flows through Paris, France, into the sea.", "no"),
        ("c", near, ""),
    ]
    found = of_arm("mine", questions, run.subset("full"))
    assert (found["documents"], found["found"], found["ids"], found["examples"]) == (3, 1, ["a"], 1)


# code


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_programs_of_a_model_are_replies_first_and_run_afterwards(tmp_path: Path) -> None:
    problems = [
        {
            "task_id": f"T/{n}",
            "entry_point": "plus",
            "prompt": f'def plus(x):\n    """x plus {n}"""\n',
            "canonical_solution": "",
            "test": f"def check(f):\n    assert f(1) == {1 + n}\n",
        }
        for n in range(6)
    ]
    (tmp_path / "humaneval").mkdir()
    (tmp_path / "humaneval/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    run = Run.open(str(tmp_path / "run"))

    def writes(_: str, question: str) -> str:
        number = int(re.findall(r"plus (\d)", question)[0])
        return f"Sure:\n```python\ndef plus(x):\n    return x + {0 if number == 2 else number}\n```\n"

    with answering(writes) as server:
        (manifest,) = asked(config("humaneval", api(server, "m"), data=str(tmp_path)), run)
    assert manifest.details["score"]["value"] == pytest.approx(5 / 6)
    wrong = [row for row in documents(run, "m", "humaneval") if not row["score"]]
    assert [(row["document_id"], row["error"]) for row in wrong] == [("T/2", "AssertionError:")]
    assert "stop" not in server.asked[0]


def test_without_a_sandbox_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "humaneval").mkdir()
    row = {"task_id": "T", "entry_point": "f", "prompt": "def f():\n", "canonical_solution": "", "test": ""}
    (tmp_path / "humaneval/test.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with answering(adds) as server, pytest.raises(UsageError, match="--unsafe-code"):
        asked(config("humaneval", api(server, "m"), data=str(tmp_path)), Run.open(str(tmp_path / "run")))
    assert server.asked == []


# what is told before anything is asked


def mmlu(folder: Path, count: int = 4) -> str:
    rows = [
        {"question": f"Which is {n}?", "subject": "letters", "choices": list("abcd"), "answer": n % 4} for n in range(count)
    ]
    (folder / "mmlu").mkdir()
    for name in ("test", "shots"):
        (folder / f"mmlu/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def told(tmp_path: Path, task: Any, model: dict[str, Any], **more: Any) -> str:
    with pytest.raises(UsageError) as error:
        asked(config(task, model, **more), Run.open(str(tmp_path / "run")))
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").rglob("replies"))
    return str(error.value)


def test_an_api_is_not_asked_how_probable_answers_are(tmp_path: Path) -> None:
    message = told(tmp_path, {"name": "mmlu", "shots": 0}, {"name": "m", "api": "gpt"}, data=mmlu(tmp_path))
    assert "an API does not tell, and bench.models m is one (gpt)" in message


def test_more_shots_than_there_are_solved_examples_are_told(tmp_path: Path) -> None:
    message = told(tmp_path, "mmlu", {"name": "m", "api": "gpt"}, data=mmlu(tmp_path))
    assert "5 shots are asked for, and there are 4 solved examples of letters" in message


def test_an_arm_that_is_not_trained_is_told(tmp_path: Path) -> None:
    assert "holds no checkpoint; finetune it first" in told(tmp_path, sums(tmp_path), {"name": "a", "arm": "a"})


@pytest.mark.parametrize(
    ("model", "more", "words"),
    [
        (
            {"vllm": {"max_model_len": 100}},
            {},
            ["3 shots the longest question and its reply take", "has 100", "fewer_shots", "cut"],
        ),
        ({"chat": True}, {}, ["`chat: true` asks by a chat template, and", "has none", "vllm.chat_template"]),
    ],
)
def test_what_a_model_cannot_be_asked_is_told_before_it_is_loaded(
    tmp_path: Path, shared: Path, model: dict[str, Any], more: dict[str, Any], words: list[str]
) -> None:
    pytest.importorskip("transformers")
    bare = tmp_path / "model"
    shutil.copytree(shared / "tiny_llama", bare, copy_function=shutil.copyfile)
    bare.chmod(0o755)
    (bare / "chat_template.jinja").unlink()
    (bare / "model.safetensors").unlink()
    message = told(
        tmp_path, {"name": "mmlu", "shots": 3}, {"name": "m", "path": str(bare), **model}, data=mmlu(tmp_path), **more
    )
    assert [word for word in words if word not in message] == [], message


def test_fewer_shots_are_taken_only_where_that_is_asked_for_and_are_the_same_for_all(tmp_path: Path, shared: Path) -> None:
    pytest.importorskip("transformers")
    from alpagasus_ray.benchmarking import documents as of
    from alpagasus_ray.benchmarking import lengths, task_files
    from alpagasus_ray.benchmarking.harness import Harness

    given = config(
        {"name": "mmlu", "shots": 3}, {"name": "m", "path": str(shared / "tiny_llama"), "vllm": {"max_model_len": 110}}
    )
    (benchmark,) = task_files.resolved(given.tasks, mmlu(tmp_path))
    ready = Harness(benchmark, of.load(benchmark))
    fewer, questions = lengths.fitting(ready, given.models[0], "fewer_shots")
    assert 0 <= fewer.shots < 3
    assert len({question.context.count("Answer:") for question in questions}) == 1
    kept, _ = lengths.fitting(ready, given.models[0], "cut")
    assert kept.shots == 3


def test_the_models_of_generate_are_asked_where_the_section_names_none(tmp_path: Path) -> None:
    from alpagasus_ray.stages.bench import models_of

    generate = Generate.model_validate({"models": [{"name": "a", "path": "x"}, {"name": "b", "api": "y"}]})
    assert [model.name for model in models_of(Bench(), generate)] == ["a"]
    with pytest.raises(UsageError, match=r"`bench\.models` is empty"):
        models_of(Bench(), Generate())


def test_a_summary_reads_as_lines(tmp_path: Path) -> None:
    from alpagasus_ray.reporting import benchmarks_data

    run = Run.open(str(tmp_path / "run"))
    with answering(adds) as server:
        asked(config(sums(tmp_path, 20), api(server, "good"), api(server, "poor")), run)
    results, differences = benchmarks_data.from_stages(finished_stages(run))
    report_of = {
        "benchmarks": [{**one, "rows": 20} for one in results],
        "differences": differences,
        "rows": 40,
        "location": "x",
    }
    lines = list(terminal.lines({**report_of, "notes": []}))
    assert lines[0] == "benchmarks: 40 documents scored in x"
    assert any("sums, poor" in line and "of 20 documents, 2 shots" in line for line in lines)


def test_empty_replies_are_scored_as_they_are_and_told(tmp_path: Path) -> None:
    from alpagasus_ray.reporting.benchmarks_data import notes, result

    run = Run.open(str(tmp_path / "run"))
    with answering(lambda model, question: "" if "5" in question else adds(model, question)) as server:
        (manifest,) = asked(config(sums(tmp_path, 20), api(server, "good")), run)
    count = manifest.counts["empty"]
    assert (count > 0, manifest.details["without_reply"], manifest.details["score"]["value"]) == (True, 0, 1 - count / 20)
    told = list(notes(result("good", "sums", manifest)))
    assert told == [f"good in sums: {count} replies are empty, and were scored as that"]


def test_a_difference_among_many_has_to_be_larger_to_be_shown() -> None:
    from alpagasus_ray.reporting.benchmarks_data import in_words

    apart = {"value": 0.04, "low": 0.001, "high": 0.08, "n": 100}
    one = {"benchmark": "x", "models": ["a", "b"], "difference": apart, "p": 0.04, "holm_p": 0.04, "tested": 1}
    one |= {"documents": 100, "smallest": 0.05, "equal_shots": True}
    assert "a is +4.0 points from b (+0.1 to +8.0): a difference, p = 0.040." in in_words(one)
    said = in_words({**one, "tested": 6, "holm_p": 0.2})
    assert "none that can be shown among as many as were tested, p = 0.040, 0.200 by Holm for 6 differences" in said


def test_a_plan_counts_what_is_left_by_a_sample_and_bounds_the_dollars(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    with answering(adds) as server:
        task = sums(tmp_path, 300)
        given = config(task, api(server, "good"), api(server, "poor"))
        told = plan(given, Generate(), run)
        assert not server.asked
        (one,) = told["benchmarks"]
        assert (one["documents"], one["requests"], told["unknown"]) == (300, 600, [])
        asked(config(task, api(server, "good")), run)
        left = plan(given, Generate(), run)
    assert left["requests"] == 300
    assert left["dollars"]["high"] == pytest.approx(told["dollars"]["high"] / 2, rel=1e-4)
    counted = sum(len(message["content"]) for body in server.asked for message in body["messages"]) / 4
    least, most = ((counted + 64 * 300 + out * 300) / 1e6 for out in (1, 8))
    assert left["dollars"]["low"] == pytest.approx(least, rel=0.2)
    assert left["dollars"]["high"] == pytest.approx(most, rel=0.2)
    away = config({"name": "gsm8k"}, api(server, "good"))
    unknown = plan(away, Generate(), run)
    assert (unknown["unknown"], unknown["dollars"]) == (["gsm8k"], {"low": None, "high": None})
    with pytest.raises(UsageError, match="which an API does not tell"):
        plan(config({"name": "mmlu", "shots": 0}, api(server, "good"), data=mmlu(tmp_path)), Generate(), run)


def test_a_model_of_the_section_has_a_name_and_one_source() -> None:
    with pytest.raises(ValueError, match="none of them is given"):
        BenchModel.model_validate({"name": "m"})


def test_the_task_file_of_the_documentation_is_asked_as_it_stands_there(tmp_path: Path) -> None:
    page = (ROOT / "docs/benchmarks-of-models.md").read_text()
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    task = sums(tmp_path, 8)
    (tmp_path / "sums.yaml").write_text(shown)
    with answering(lambda model, question: f" {adds(model, question)}".partition("!")[0]) as server:
        (manifest,) = asked(config(task, api(server, "good")), Run.open(str(tmp_path / "run")))
    assert (manifest.details["about"], manifest.details["score"]["value"]) == (
        "Sums of two numbers, after two solved ones.",
        1.0,
    )
