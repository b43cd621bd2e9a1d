"""Answers to test sets by an API's model and from files: real Ray, a real server on loopback, the command line."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from alpagasus_ray.config import Answerer, Generate, TestSet
from alpagasus_ray.errors import BudgetReached, InputError, SettingsChanged, UsageError
from alpagasus_ray.stages.generate import generate
from alpagasus_ray.store.run import Run
from loopback import JudgeStarter, LoopbackJudge
from toy_runs import ROOT, job, toy_run

DEMO = str(ROOT / "examples/test_set/prompts.jsonl")


def _api(server: LoopbackJudge, **changes: Any) -> Answerer:
    return Answerer(**{"name": "model", "api": "toy", "base_url": server.base_url, **changes})


def _answers(run: Run, model: str, test_set: str) -> list[dict[str, Any]]:
    stage = run.answers(model, test_set)
    return pa.concat_tables(stage.tables(stage.finished())).to_pylist()  # type: ignore[no-any-return]


def _set(folder: Path, name: str, *prompts: str) -> TestSet:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"id": f"{name}-{n}", "instruction": text}) + "\n" for n, text in enumerate(prompts)))
    return TestSet(name=name, path=str(path))


def test_every_prompt_of_every_test_set_is_answered_once_with_what_the_set_says_of_it(
    judge: JudgeStarter, tmp_path: Path, shared: Path
) -> None:
    server = judge()
    run = Run.open(str(tmp_path / "run"))
    files = {"vicuna": "vicuna", "koala": "koala", "wizardlm": "wizardlm", "self_instruct": "sinstruct"}
    sets = tuple(TestSet(name=n, path=str(shared / f"test_sets/{f}_test_set.jsonl")) for n, f in files.items())
    config = Generate(models=(_api(server),), test_sets=sets)
    manifests = generate(config, run)
    assert [manifest.rows for manifest in manifests] == [80, 180, 218, 252]
    assert all(set(manifest.counts) == {"answered"} for manifest in manifests)
    prompts = {name: pa.concat_tables(run.prompts(name).tables(run.prompts(name).finished())) for name in files}
    for name, table in prompts.items():
        answers = _answers(run, "model", name)
        assert [{key: row[key] for key in table.column_names} for row in answers] == table.to_pylist()
        assert all(row["reply"] and row["finish_reason"] == "stop" for row in answers)
    assert manifests[0].details["category"]["coding"] == 7
    assert len(manifests[2].details["skill"]) == 29
    different = {(row["instruction"], row["input"]) for table in prompts.values() for row in table.to_pylist()}
    assert len(set(server.billed())) == len(different)
    assert len(server.billed()) <= 730, "a prompt that two test sets share may be asked for each"
    exported = json.loads(run.answers("model", "wizardlm").storage.read("answers.json"))
    assert {"instruction", "output", "generator", "dataset", "skill", "difficulty"} <= set(exported[0])
    before = len(server.taken())
    assert generate(config, run) == manifests
    assert len(server.taken()) == before, "a finished stage asks nothing"


def test_empty_prompts_are_rows_with_a_reason_and_nothing_is_sent_for_them(judge: JudgeStarter, tmp_path: Path) -> None:
    server, run = judge(), Run.open(str(tmp_path / "run"))
    config = Generate(models=(_api(server),), test_sets=(_set(tmp_path, "toy", "Say a.", "  ", "Say b."),))
    [manifest] = generate(config, run)
    assert manifest.counts == {"answered": 2, "failed": 1}
    assert [row["error"] for row in _answers(run, "model", "toy")] == [None, "empty prompt", None]
    assert len(server.taken()) == 2


def test_what_failed_is_asked_again_alone_and_another_model_or_limit_is_another_result(
    judge: JudgeStarter, tmp_path: Path
) -> None:
    server, run = judge(), Run.open(str(tmp_path / "run"))
    server.control(faults=[{"kind": "400", "match": "Say b"}])
    config = Generate(models=(_api(server),), test_sets=(_set(tmp_path, "toy", "Say a.", "Say b.", "Say c."),))
    assert generate(config, run)[0].counts == {"answered": 2, "failed": 1}
    server.control(faults=[])
    assert generate(config, run)[0].counts == {"answered": 2, "failed": 1}
    assert generate(config, run, "retry-failed")[0].counts == {"answered": 3}
    assert len(server.billed()) == 3
    with pytest.raises(SettingsChanged, match="max_tokens: 1024 there, 7 now"):
        generate(config.model_copy(update={"max_new_tokens": 7}), run)
    # an operational knob is no other result
    assert generate(config.model_copy(update={"concurrency": 2}), run)[0].counts == {"answered": 3}


def test_a_cap_holds_over_all_test_sets_of_a_model(judge: JudgeStarter, tmp_path: Path) -> None:
    server, run = judge("--latency", "0.05", "--usage-from-text"), Run.open(str(tmp_path / "run"))
    model = _api(server, price={"input": 100, "output": 100}, max_tokens=20)
    sets = tuple(_set(tmp_path, name, *(f"Say {name} {n}." for n in range(60))) for name in ("one", "two"))
    config = Generate(models=(model,), test_sets=sets, max_cost_usd=0.1, concurrency=4)
    with pytest.raises(BudgetReached, match=r"generate.max_cost_usd.* = 0.1 are spent") as stopped:
        generate(config, run)
    report = stopped.value.report
    assert report is not None
    assert report["spent_usd"] <= 0.1
    assert 0 < report["rows_left"] < 120
    done = generate(config.model_copy(update={"max_cost_usd": 10.0}), run)
    assert [manifest.counts for manifest in done] == [{"answered": 60}, {"answered": 60}]
    assert len(server.billed()) == 120


def test_the_alpaca_prompt_is_sent_to_the_letter(judge: JudgeStarter, tmp_path: Path) -> None:
    server, run = judge(), Run.open(str(tmp_path / "run"))
    sets = (TestSet(name="demo", path=DEMO),)
    generate(Generate(models=(_api(server, prompt="alpaca"), _api(server, name="chat")), test_sets=sets), run)
    mine, chats = ({row["request_hash"] for row in _answers(run, name, "demo")} for name in ("model", "chat"))
    assert not mine & chats
    assert len(server.billed()) == len(set(server.billed())) == 144


def test_answers_of_a_teacher_are_imported_by_id_or_text(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    sets = (_set(tmp_path, "toy", "Say a.", "Say b.", "Say c."),)
    file = tmp_path / "teacher.json"
    records = [{"instruction": "Say a.", "output": "A", "generator": "teacher"}, {"prompt_id": "toy-2", "answer": "C"}]
    file.write_text(json.dumps(records))
    [manifest] = generate(Generate(models=(Answerer(name="teacher", answers=str(file)),), test_sets=sets), run)
    assert manifest.counts == {"answered": 2, "failed": 1}
    assert [row["reply"] for row in _answers(run, "teacher", "toy")] == ["A", None, "C"]
    assert manifest.details["reasons"] == {"not in the file": 1}
    numbered = tmp_path / "toy.answers.jsonl"
    numbered.write_text('{"question_id": 1, "text": "B"}\n')
    with pytest.raises(InputError, match=r"name the files by `.test_set.`"):
        generate(Generate(models=(Answerer(name="other", answers=str(numbered)),), test_sets=sets), run)
    place = str(tmp_path / "{test_set}.answers.jsonl")
    [manifest] = generate(Generate(models=(Answerer(name="other", answers=place),), test_sets=sets), run)
    assert [row["reply"] for row in _answers(run, "other", "toy")] == [None, "B", None]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], "`generate.models` is empty"),
        (["generate.models=[{name: a, api: toy}]"], "`generate.test_sets` is empty"),
        (["generate.models=[{name: a}]"], "a model has one of `path`, `arm`, `api`, `answers`; none of them is given"),
        (["generate.models=[{name: a, api: b, path: c}]"], "`path` and `api` is given"),
        (["generate.models=[{name: a, api: b}, {name: a, api: c}]"], "two models have the name 'a'"),
        (
            ["generate.models=[{name: a, arm: selected}]", f"generate.test_sets=[{{name: demo, path: {DEMO}}}]"],
            "holds no checkpoint",
        ),
        (
            ["generate.models=[{name: a, api: b}]", "generate.test_sets=[{name: t, path: nowhere.json}]"],
            "nothing found at nowhere.json",
        ),
        (["generate.max_new_tokens=2000"], "less than or equal to 1024"),
        (
            [
                "generate.models=[{name: a, api: b}]",
                f"generate.test_sets=[{{name: t, path: {DEMO}, columns: {{skill: craft}}}}]",
            ],
            "no `craft` for the skill",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_message_and_exit_code_2(tmp_path: Path, settings: list[str], words: str) -> None:
    options = [part for setting in settings for part in ("--set", setting)]
    done = job("generate", toy_run(tmp_path, 2).storage.root, *options, OPENAI_API_KEY="none")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_summary_names_models_test_sets_counts_and_files(judge: JudgeStarter, tmp_path: Path) -> None:
    server = judge()
    models = f"[{{name: toy, api: toy, base_url: '{server.base_url}'}}]"
    options = ["--set", f"generate.models={models}", "--set", f"generate.test_sets=[{{name: demo, path: {DEMO}}}]", "--json"]
    done = job("generate", tmp_path / "run", *options)
    assert done.returncode == 0, done.stderr
    [answers] = json.loads(done.stdout.splitlines()[-1])["answers"]
    assert (answers["model"], answers["test_set"], answers["rows"]) == ("toy", "demo", 72)
    assert answers["counts"] == {"answered": 72}
    assert Path(answers["file"]).is_file()
    assert "toy on demo: 72 answered" in done.stderr


def test_a_misspelt_model_binds_nobody(judge: JudgeStarter, tmp_path: Path) -> None:
    server, run = judge("--key", "sk-0123456789abcdef"), Run.open(str(tmp_path / "run"))
    sets = (_set(tmp_path, "toy", "Say a."),)
    with pytest.raises(UsageError):
        generate(
            Generate(models=(_api(server, api_key_env="NOT_SET_FILE", base_url="https://api.openai.com/v1"),), test_sets=sets),
            run,
        )
    open_server = judge()
    assert generate(Generate(models=(_api(open_server),), test_sets=sets), run)[0].counts == {"answered": 1}
