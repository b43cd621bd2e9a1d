"""The command line: one message for one mistake, a summary for scripts, and nothing heavy before it is needed."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from alpagasus_ray import cli, commands
from alpagasus_ray.config import Ingest, Recipe
from alpagasus_ray.errors import SettingsChanged, UsageError
from alpagasus_ray.recipe import knobs, load
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.store.run import Run

ROOT = Path(__file__).parents[2]
ROWS = '{"instruction": "a", "output": "b"}\n{"instruction": "ä", "output": "c"}\n'


def _job(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text(ROWS, encoding="utf-8")
    return str(path)


@pytest.fixture
def made(tmp_path: Path, source: str) -> Run:
    """A run that has its examples."""
    run = Run.open(str(tmp_path / "run"))
    ingest(Ingest(source=source), run)
    return run


def test_nothing_heavy_is_imported_for_help_nor_by_what_is_imported_before_it_is_needed() -> None:
    heavy = (
        "torch vllm transformers deepspeed ray openai datasets matplotlib scipy sklearn statsmodels pandas krippendorff".split()
    )
    early = ("evaluation.statistics", "evaluation.ranking", "evaluation.agreement", "training.token_files")
    program = f"""
import runpy, sys
from alpagasus_ray.cli import main
for job in ("ingest", "score", "pick_subset", "finetune", "generate", "compare", "report", "run_all"):
    sys.argv = [job, "--help"]
    try:
        runpy.run_path(f"{ROOT}/jobs/{{job}}.py", run_name="__main__")
    except SystemExit as end:
        assert end.code == 0
import {", ".join(f"alpagasus_ray.{name}" for name in early)}
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_every_knob_of_the_section() -> None:
    done = _job("ingest", "--help")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    for knob in knobs(Ingest, "ingest"):
        assert f"  {knob.key}: {knob.kind} = {knob.default}" in lines
        assert f"      {knob.doc}" in lines


def test_json_prints_the_summary_as_the_last_line_of_stdout_and_messages_go_to_stderr(tmp_path: Path, source: str) -> None:
    done = _job("ingest", "--run", str(tmp_path / "run"), "--set", f"ingest.source={source}", "--json")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    report = json.loads(done.stdout)
    assert (report["stage"], report["rows"], report["location"]) == ("examples", 2, str(tmp_path / "run" / "examples"))
    assert "2 rows" in done.stderr


@pytest.mark.parametrize("work", [{"only_reads": True}, {"reading": ("plan",)}])
def test_what_a_job_only_reads_goes_to_stdout_and_beside_json_to_stderr(
    work: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"stage": "toy", "rows": 3, "location": "there"}
    spec = cli.JobSpec("toy", "ingest", "A job.", lambda call: told, {"plan": "a plan"}, **work)
    arguments = ("--run", str(tmp_path / "run"), "--plan")
    assert _main(spec, *arguments) == 0
    assert capsys.readouterr() == ("toy: 3 rows in there\n", "")
    assert _main(spec, *arguments, "--json") == 0
    assert capsys.readouterr() == (f"{json.dumps(told)}\n", "toy: 3 rows in there\n")


def test_a_users_mistake_ends_in_one_message_without_traceback_and_code_2(tmp_path: Path) -> None:
    done = _job("ingest", "--run", str(tmp_path / "run"), "--set", "ingest.sorce=x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == ["error: unknown key `ingest.sorce` = 'x' in `ingest`; did you mean `ingest.source`?"]
    assert not (tmp_path / "run").exists()


@pytest.fixture(autouse=True)
def _handler_of_this_process() -> Iterator[None]:
    """`cli.main` takes over SIGTERM; give it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def _main(spec: cli.JobSpec, *arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(spec, arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def _spec(work: Any) -> cli.JobSpec:
    return cli.JobSpec("ingest", "ingest", "A job of this test.", work)


def _raise(error: BaseException) -> Any:
    raise error


def test_a_file_that_cannot_be_read_ends_with_code_2_and_its_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.json").touch()
    source = f"ingest.source={tmp_path / 'empty.json'}"
    assert _main(commands.INGEST, "--run", str(tmp_path / "run"), "--set", source) == 2
    assert capfd.readouterr().err.startswith(f"error: {tmp_path / 'empty.json'}, byte 0")


def test_what_nobody_foresaw_is_one_message_too_and_a_traceback_on_request(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _spec(lambda call: _raise(ZeroDivisionError("a\nb")))
    assert _main(spec, "--run", str(tmp_path)) == 1
    told = capfd.readouterr().err
    assert told == "error: unexpected ZeroDivisionError: a\nSet ALPAGASUS_DEBUG=1 for the traceback.\n"
    monkeypatch.setenv(cli.DEBUG, "1")
    assert _main(spec, "--run", str(tmp_path)) == 1
    assert "Traceback" in capfd.readouterr().err


def test_an_interrupt_is_told_and_ends_with_code_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _main(_spec(lambda call: _raise(KeyboardInterrupt())), "--run", str(tmp_path)) == 1
    assert capfd.readouterr().err == "error: interrupted\n"


def test_a_job_gets_what_recipe_and_overrides_say_and_the_run_keeps_it(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("ingest: {source: ä.json, turns: all}\n", encoding="utf-8")
    calls: list[cli.Call] = []
    work = _spec(lambda call: calls.append(call) or {"stage": "x", "rows": 0, "location": ""})
    arguments = ["--recipe", str(recipe), "--set", "ingest.rows_per_shard=7", "--run", str(tmp_path / "run")]
    assert _main(work, *arguments) == 0
    assert calls[0].recipe.ingest == Ingest(source="ä.json", turns="all", rows_per_shard=7)
    saved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8"))
    assert Recipe.model_validate(saved) == calls[0].recipe


def _check(run: Run, section: str, *overrides: str) -> None:
    cli._check_earlier(load(None, overrides), run, section)


@pytest.mark.parametrize("section", ["score", "pick"])
def test_a_recipe_that_contradicts_a_finished_stage_is_refused_by_later_jobs(made: Run, section: str) -> None:
    with pytest.raises(SettingsChanged, match=r"examples/ was made with:\s+ingest\.turns: 'first' there, 'all' now"):
        _check(made, section, "ingest.turns=all")


def test_a_recipe_that_says_the_same_or_nothing_about_a_finished_stage_may_go_on(made: Run, source: str) -> None:
    _check(made, "score")
    _check(made, "score", f"ingest.source={source}", "ingest.turns=first", "ingest.max_rejected=0.9")


def test_the_check_of_earlier_stages_leaves_the_jobs_own_stage_to_the_job(made: Run) -> None:
    _check(made, "ingest", "ingest.turns=all")


def test_a_later_job_is_refused_on_the_command_line_too(made: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert _main(commands.SCORE, "--run", made.storage.root, "--set", "ingest.format=csv") == 2
    assert "ingest.format: 'auto' there, 'csv' now" in capfd.readouterr().err
    assert not made.storage.exists("recipe.yaml")


def test_the_recipe_that_a_run_keeps_can_be_used_for_its_later_jobs(tmp_path: Path, source: str) -> None:
    run = Run.open(str(tmp_path / "run"))
    assert _main(commands.INGEST, "--run", run.storage.root, "--set", f"ingest.source={source}") == 0
    cli._check_earlier(load(run.storage.path("recipe.yaml"), []), run, "score")


def test_a_refused_call_leaves_the_recipe_that_the_run_keeps(tmp_path: Path, source: str) -> None:
    run = Run.open(str(tmp_path / "run"))
    arguments = ["--run", run.storage.root, "--set", f"ingest.source={source}"]
    assert _main(commands.INGEST, *arguments) == 0
    kept = run.storage.read("recipe.yaml")
    assert _main(commands.INGEST, *arguments, "--set", "ingest.turns=all") == 2
    assert run.storage.read("recipe.yaml") == kept


def test_a_later_call_does_not_make_the_run_forget_its_source(made: Run, source: str) -> None:
    done = {"stage": "x", "rows": 0, "location": ""}
    assert _main(_spec(lambda call: done), "--run", made.storage.root, "--set", f"ingest.source={source}") == 0
    later = cli.JobSpec("score", "score", "A later job.", lambda call: done)
    assert _main(later, "--run", made.storage.root) == 0
    assert yaml.safe_load(made.storage.read("recipe.yaml"))["ingest"]["source"] == source


def test_switches_that_exclude_each_other_are_refused_by_name() -> None:
    flags = argparse.Namespace(rescore=True, retry_failed=True, limit=None)
    with pytest.raises(UsageError, match="--rescore and --retry-failed exclude each other"):
        cli.no_flag_with(flags, "rescore", "retry-failed", "limit")
    cli.no_flag_with(flags, "rescore", "limit")
