"""The command `alpagasus`: each verb is the job of its name, its help fits a screen, and `init` writes a recipe that holds."""

import importlib
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from alpagasus_ray import __main__ as command
from alpagasus_ray import __version__, recipe
from alpagasus_ray.config import Recipe

SHIPPED = [file.stem for file in recipe.RECIPES.glob("*.yaml")]
ROWS = [{"instruction": f"Name {n} fruits.", "input": "", "output": ", ".join(["apple"] * n)} for n in range(1, 9)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([*ROWS, {"instruction": "", "input": "", "output": "no question"}]))
    return path


def ended(arguments: str) -> int:
    """The exit code of a command line."""
    try:
        return command.main(shlex.split(arguments))
    except SystemExit as end:
        return int(end.code or 0)


def test_help_fits_a_screen_and_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ("--help", ""):
        assert ended(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= 40
        assert [verb for verb in command.VERBS if not any(line.startswith(f"  {verb} ") for line in lines)] == []
    assert ended("--version") == 0
    assert capsys.readouterr().out.strip() == f"alpagasus-ray {__version__}"


def test_the_usual_knobs_are_shown_by_help_and_all_of_them_by_help_all(capsys: pytest.CaptureFixture[str]) -> None:
    every = [knob.key for name, field in Recipe.model_fields.items() for knob in recipe.knobs(field.annotation, name)]
    assert [key for key in command.USUAL if key not in every] == []
    assert ended("run x --help") == 0
    shown = capsys.readouterr().out
    assert [key for key in command.USUAL if f"  {key}: " not in shown] == []
    assert len(shown.splitlines()) < 110
    assert ended("run x --help-all") == 0
    shown = capsys.readouterr().out
    once = [key for key in every if f"  {key}: " not in shown]
    assert once
    assert {key.partition(".")[0] for key in once} <= {"bench", "compare", "generate"}, "an engine's knobs are told once"
    assert [key for key in every if shown.count(f"  {key}: ") > 1] == []


def test_a_word_that_is_no_verb_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("scor runs/mine") == 2
    assert "'score'" in capsys.readouterr().err


def test_what_may_be_typed_is_completed_in_bash(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("completion bash") == 0
    script = capsys.readouterr().out

    def offered(*words: str) -> list[str]:
        line = f"COMP_WORDS=({shlex.join(['alpagasus', *words])}); COMP_CWORD={len(words)}"
        typed = f"{line}; _alpagasus; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", script + typed], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stderr == ""
        return sorted(done.stdout.split())

    assert offered("s") == ["score", "status"]
    assert offered("score", "--res") == ["--rescore"]
    assert offered("score", "x", "-s", "score.judge.mod") == ["score.judge.mode=", "score.judge.model="]
    assert offered("pick", "x", "-s", "score.") == [], "knobs of that verb alone"
    assert offered("run", "x", "-r", "alpagasus-7") == ["alpagasus-7b"]
    assert offered("report", "doc") == ["docs"], "a run is a directory"
    assert offered("completion", "ba") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_reads_its_script_which_has_every_verb(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert ended(f"completion {shell}") == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert [verb for verb in command.VERBS if verb not in script.read_text()] == []
    if program := shutil.which(shell):
        subprocess.run([program, "-n", script], check=True)
    assert ended("completion tcsh") == 2


def test_init_writes_a_recipe_that_the_named_commands_carry_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ended(f"init runs/mine --data {data} --json") == 0
    report = json.loads(capsys.readouterr().out)
    written = Path(report["location"])
    assert written == tmp_path / "runs" / "mine.yaml"
    text = written.read_text()
    assert "layout 'alpaca': 8 examples" in text
    assert "1 records are no example" in text
    assert yaml.safe_load(text)["ingest"]["source"] == str(data)
    assert ended(f"init runs/mine --data {data}") == 2, "a recipe is never written over"
    common = f"runs/mine -r {written} -s ingest.max_rejected=0.5"
    for verb in ("ingest", "score -s score.judge.kind=rules -s score.judge.model=null --plan"):
        name, _, more = verb.partition(" ")
        assert ended(f"{name} {common} {more}") == 0, capsys.readouterr().err
    filled = text.replace("# finetune", "finetune").replace("# generate", "generate").replace("# compare", "compare")
    filled = "\n".join(line.replace("#   ", "  ", 1) if line.startswith("#   ") else line for line in filled.splitlines())
    written.write_text(filled)
    assert recipe.load(str(written), []).recipe.generate.test_sets[0].name == "mine", "what is commented out holds as well"


def test_init_tells_of_data_that_cannot_be_read_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(f"init {tmp_path}/run --data {tmp_path}/nothing.json") == 2
    assert ended(f"init {tmp_path}/run") == 2
    assert "--data is missing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_ships_is_found_by_its_name(tmp_path: Path) -> None:
    assert "alpagasus-7b" in SHIPPED
    for name in SHIPPED:
        assert recipe.load(name, []).written == recipe.load(str(recipe.RECIPES / f"{name}.yaml"), []).written


def test_a_mistake_in_a_recipe_is_told_with_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(
        "score:\n  judge:\n    modle: x\npick:\n  arms:\n    - {name: a, policy: top}\n    - {name: b, policy: best}\n"
    )
    assert ended(f"score {tmp_path}/run -r {wrong}") == 2
    told = capsys.readouterr().err
    assert f"({wrong}, line 3)" in told
    assert f"({wrong}, line 7)" in told
    wrong.write_text("score:\n  concurrency: 3\n")
    assert ended(f"score {tmp_path}/run -r {wrong} -s score.concurrency=-1") == 2
    assert "line" not in capsys.readouterr().err, "what the command line says is not the file's mistake"


ROOT = Path(__file__).parents[2]
SHOWN = [
    line.partition("#")[0].strip()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for line in page.read_text(encoding="utf-8").splitlines()
    if line.startswith(("alpagasus ", "$ alpagasus "))
]


def test_the_pages_show_commands() -> None:
    assert len(SHOWN) >= 9


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_that_the_pages_show_is_one(line: str) -> None:
    _, verb, *arguments = shlex.split(line.removeprefix("$ "))
    spec = getattr(importlib.import_module(command.VERBS[verb].module), command.VERBS[verb].job)
    parsed = command._of_verb(verb, spec).parse_args(arguments)
    recipe.load(parsed.recipe if parsed.recipe in SHIPPED else None, parsed.set)
