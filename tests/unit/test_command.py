"""The command `alpagasus`: each verb is the job of its name, its help fits a screen, and `init` writes a recipe that holds."""

import ast
import importlib
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from alpagasus_ray import __main__ as command
from alpagasus_ray import __version__, recipe
from alpagasus_ray.config import Ingest, Recipe
from alpagasus_ray.config.pick import POLICIES
from alpagasus_ray.feasibility import check_cap
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.store.run import Run
from report_runs import rate

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
    # the knobs of an engine are told once
    assert {key.partition(".")[0] for key in once} <= {"bench", "compare", "generate", "race"}
    assert [key for key in every if shown.count(f"  {key}: ") > 1] == []


def test_a_word_that_is_no_verb_is_refused_with_the_nearest_or_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    for word, verb in {"scroe": "score", "finetune": "train", "generate": "answer"}.items():
        assert ended(f"{word} runs/mine") == 2
        assert f"no verb '{word}'; did you mean `alpagasus {verb}`?" in capsys.readouterr().err
    assert ended("xyz runs/mine") == 2
    assert "'score'" in capsys.readouterr().err


def test_a_switch_that_is_mistyped_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for typed, meant in {"--limt 5": "--limit", "--limt=5": "--limit", "--recpie x": "--recipe"}.items():
        assert ended(f"score runs/mine {typed}") == 2
        assert f"did you mean {meant}?" in capsys.readouterr().err
    assert ended("score runs/mine --xyz") == 2
    assert "did you mean" not in capsys.readouterr().err


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
    told = " ".join(report["notes"])
    assert "alpagasus plan" in told
    assert "alpagasus run" in told
    assert "layout 'alpaca': 8 examples" in text
    assert "1 records are no example" in text
    assert yaml.safe_load(text)["ingest"]["source"] == str(data)
    assert ended(f"init runs/mine --data {data}") == 2, "a recipe is never written over"
    assert "did you forget" not in capsys.readouterr().err
    common = f"runs/mine -r {written} -s ingest.max_rejected=0.5"
    for verb in ("plan", "ingest", "score -s score.judge.kind=rules -s score.judge.model=null --plan"):
        name, _, more = verb.partition(" ")
        assert ended(f"{name} {common} {more}") == 0, capsys.readouterr().err
    filled = text.replace("# finetune", "finetune").replace("# generate", "generate").replace("# compare", "compare")
    filled = "\n".join(line.replace("#   ", "  ", 1) if line.startswith("#   ") else line for line in filled.splitlines())
    written.write_text(filled)
    assert recipe.load(str(written), []).recipe.generate.test_sets[0].name == "mine", "what is commented out holds as well"


def test_what_is_given_to_init_stands_in_the_recipe_whatever_the_columns_are_named(tmp_path: Path) -> None:
    data, other = tmp_path / "q.json", tmp_path / "other.yaml"
    data.write_text(json.dumps([{"q": f"Say {n}.", "a": str(n)} for n in range(9)]))
    other.write_text("ingest:\n  columns: {instruction: q, output: a}\nfinetune:\n  model: x\n  epochs: 2\n")
    assert ended(f"init {tmp_path}/none --data {data}") == 2
    columns = "ingest.columns={instruction: q, output: a}"
    assert ended(shlex.join(["init", f"{tmp_path}/set", "--data", str(data), "-s", columns, "-s", "score.concurrency=3"])) == 0
    assert ended(f"init {tmp_path}/file -r {other} -s ingest.source={data} -s 'pick.arms=[{{name: all, policy: full}}]'") == 0
    by_set, by_file = (recipe.load(f"{tmp_path}/{name}.yaml", []).recipe for name in ("set", "file"))
    assert by_set.ingest == by_file.ingest
    assert (by_set.score.concurrency, by_set.score.judge.model, by_set.score.max_cost_usd) == (3, "gpt-4o-mini", 5)
    assert ([arm.name for arm in by_file.pick.arms], by_file.finetune.model, by_file.finetune.epochs) == (["all"], "x", 2)
    assert ended(f"ingest {tmp_path}/set -r {tmp_path}/set.yaml") == 0


@pytest.mark.parametrize(
    ("given", "capped"),
    [("base_url=http://127.0.0.1:9/v1", False), ("price={input: 0, output: 0}", True), ("kind=rules", True)],
)
def test_the_cap_that_init_writes_can_be_kept(given: str, capped: bool, data: Path, tmp_path: Path) -> None:
    assert ended(shlex.join(["init", f"{tmp_path}/run", "--data", str(data), "-s", f"score.judge.{given}"])) == 0
    written = tmp_path / "run.yaml"
    assert not list(check_cap(recipe.load(str(written), []).recipe))
    assert (recipe.load(str(written), []).recipe.score.max_cost_usd == 5) == capped
    own = "\n".join(line.replace("    # base_url", "    base_url") for line in written.read_text().splitlines())
    own = own.replace("    # price", "    price")
    written.write_text(own)
    assert not list(check_cap(recipe.load(str(written), []).recipe)), "both lines of a server of one's own without their #"


def test_init_tells_of_data_that_cannot_be_read_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(f"init {tmp_path}/run --data {tmp_path}/nothing.json") == 2
    assert ended(f"init {tmp_path}/run") == 2
    assert "--data is missing" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["odd.json", "nothing.json", "broken.jsonl"])
def test_a_first_ingest_that_is_refused_leaves_nothing_that_is_taken_for_a_run(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd.json").write_text('[{"q": "a", "x": "b"}]')
    (tmp_path / "broken.jsonl").write_bytes(b"\x00\xff\xfe\x01")
    assert ended(f"ingest {tmp_path}/run -s ingest.source={tmp_path}/{source}") == 2
    assert ended(f"status {tmp_path}/run") == 2
    assert "there is no run at" in capsys.readouterr().err


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


@pytest.fixture
def rated(tmp_path: Path) -> Run:
    """Twelve rated rows of a CSV with a column of its own, of two categories."""
    data = tmp_path / "rows.csv"
    lines = [f"Name {n} fruits.,{n % 6},T-{n},{'ab'[n % 2]}" for n in range(12)]
    data.write_text("instruction,output,ticket,category\n" + "\n".join(lines) + "\n")
    run = Run.open(str(tmp_path / "run"))
    ingest(Ingest(source=str(data)), run)
    rate(run, [n / 2 for n in range(11)] + [None])
    return run


@pytest.mark.parametrize(
    ("switches", "rows"),
    [
        ("--top 4", [7, 8, 9, 10]),
        ("--threshold 4", [8, 9, 10]),
        ("--share 0.25", [8, 9, 10]),
        ("--top 2 --per category", [7, 8, 9, 10]),
    ],
)
def test_the_best_are_picked_by_a_switch_with_as_many_at_random_and_written_as_json_lines(
    switches: str, rows: list[int], rated: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, root = tmp_path / "out" / "best.jsonl", rated.storage.root
    for _ in range(2):  # the second call finds the arms made
        assert ended(f"pick {root} {switches} -s pick.max_unscored=0.1 --jsonl {target}") == 0, capsys.readouterr().err
        records = [json.loads(line) for line in target.read_text().splitlines()]
        assert [record["ticket"] for record in records] == [f"T-{n}" for n in rows]
        assert [record["score"] for record in records] == [n / 2 for n in rows]
        target.unlink()
    assert rated.subset("random").finished().rows == len(rows)
    kept = yaml.safe_load(rated.storage.read("recipe.yaml"))["pick"]["arms"]
    assert [arm["name"] for arm in kept] == ["selected", "random"], "the run keeps what was picked by"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--top 3 --share 0.5", "--top and --share exclude each other"),
        ("--top 3 -s 'pick.arms=[{name: a, policy: full}]'", "--top 3 and pick.arms both say"),
        ("--threshold 4 --per category", "--per category is for --top and --share"),
        ("--top 0", "--top 0: `pick.arms.0.k`"),
        ("--share 2", "--share 2: "),
        ("--top 6 --per category", "'b' has 5 to choose from"),
        ("-s pick.top=3", "`alpagasus pick RUN --top 1000`, or an arm of pick.arms: {name: selected, policy: top, k: 1000}"),
    ],
)
def test_switches_of_pick_that_say_nothing_or_two_things_are_refused(
    given: str, told: str, rated: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(f"pick {rated.storage.root} -s pick.max_unscored=0.1 {given}") == 2
    assert told in capsys.readouterr().err


def test_the_help_of_pick_names_every_policy_and_cuts_no_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("pick --help") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert [policy for policy in POLICIES if policy not in told.partition("pick.arms")[2]] == []
    assert "…" not in told.partition("usual knobs")[2]


def test_a_recipe_of_a_near_name_is_named_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("score: {}")
    for given, meant in {
        f"{tmp_path}/mien.yaml": f"{tmp_path}/mine.yaml",
        "alpagasus-7": "alpagasus-7b",
        "xyz": "ship",
    }.items():
        assert ended(f"score {tmp_path}/run -r {given}") == 2
        assert meant in capsys.readouterr().err


def test_a_recipe_that_was_forgotten_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert ended(f"ingest {run} -s ingest.source={data} -s ingest.max_rejected=0.5") == 0
    assert ended(f"score {run}") == 2
    assert "score.judge.model` is not set" in (told := capsys.readouterr().err)
    assert f"did you forget -r {run}/recipe.yaml?" in told
    (tmp_path / "run.yaml").write_text("score: {judge: {model: toy}}")
    for verb in ("score", "plan"):
        assert ended(f"{verb} {run}") == 2
        assert f"did you forget -r {run}.yaml?" in capsys.readouterr().err
    assert ended(f"pick {run} -r {run}.yaml") == 2
    assert "did you forget" not in capsys.readouterr().err


ROOT = Path(__file__).parents[2]
ADVISED = re.compile(
    r"(?<![\w-])alpagasus (?P<verb>[a-z]+)(?![-\w])(?: (?:RUN|\{\w+\}))?(?P<flags>(?: --[a-z-]+)*)(?=[ `;,:)]|$)"
)
SUBMITTED = "ray job submit"
OF_A_JOB = {"python jobs/{}.py", "knobs: those of all jobs; python jobs/<job>.py --help lists them"}
"""What `python jobs/<job>.py --help` says of itself."""


def _texts() -> Iterator[str]:
    """What the package may tell a user: its strings, docstrings of sections left out, and the templates of the page."""
    for file in sorted((ROOT / "alpagasus_ray").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | inside:
                yield node.value
    yield from (file.read_text(encoding="utf-8") for file in (ROOT / "alpagasus_ray").rglob("*.j2"))


def test_what_a_message_advises_is_a_verb_of_the_command_with_its_flags_and_no_file_of_the_repository() -> None:
    texts = list(_texts())
    files = [text for text in texts if re.search(r"jobs/\S*\.py", text) and SUBMITTED not in text and text not in OF_A_JOB]
    assert files == [], "an installed package has no jobs/"
    advised = [match for text in texts for match in ADVISED.finditer(text.replace("{}", "RUN"))]
    assert len(advised) > 20
    assert {match["verb"] for match in advised} <= {*command.VERBS, command.COMPLETION}
    for verb, flags in ((match["verb"], match["flags"].split()) for match in advised if match["flags"]):
        assert set(flags) <= {"--help-all", *(f"--{flag}" for flag in command._spec(verb).flags)}, verb


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
