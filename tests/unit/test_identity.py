"""What a stage's results are known by: the same for every version, so that a run is gone on with whatever has been added since.

`tests/data/settings.json` holds settings, their hashes and the keys of requests as they were written before `Section.stated`.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

from alpagasus_ray.config import (
    OPERATIONAL,
    Answerer,
    Arm,
    BenchModel,
    Card,
    Cascade,
    Clean,
    Combine,
    Compare,
    Distill,
    EngineConfig,
    Finetune,
    Ingest,
    Judge,
    PairJudge,
    People,
    Pick,
    Recipe,
    Report,
    Section,
    TestSet,
    Vllm,
    digest,
    identity,
)
from alpagasus_ray.config.finetune import Lora
from alpagasus_ray.config.race import Race
from alpagasus_ray.engines.base import ReplyForm
from alpagasus_ray.engines.identity import body, request_key
from alpagasus_ray.errors import SettingsChanged
from alpagasus_ray.inference.tasks.answer import AnswerTask
from alpagasus_ray.inference.tasks.pair import PairTask
from alpagasus_ray.inference.tasks.rating import RatingTask
from alpagasus_ray.judging import pair_rubric, rubric
from alpagasus_ray.recipe import load
from alpagasus_ray.stages import ingest, pick_subset
from alpagasus_ray.stages.compare import compare
from alpagasus_ray.stages.generate import generate
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Manifest, Run
from alpagasus_ray.training import arms

OLD_RUN = Path(__file__).parents[1] / "data" / "old_run"
"""A run of six examples with its sources: rated by the rules, picked, two models answered, compared."""
WRITTEN = json.loads((Path(__file__).parents[1] / "data" / "settings.json").read_text())
IN_FORM = ReplyForm(("0", "1"), "regex", score_only=True, probabilities=True)
QUESTION = [{"role": "user", "content": "Rate this."}]


def _score(given: dict[str, Any]) -> tuple[dict[str, Any], EngineConfig | None]:
    judge = Judge(**given)
    return RatingTask(judge, rubric.load(judge.rubric)).settings, judge


def _pick(given: dict[str, Any]) -> tuple[dict[str, Any], EngineConfig | None]:
    arm = Arm(**given.pop("arm"))
    arms = (Arm(name="first", policy="threshold", threshold=4.5), arm)
    return pick_subset._settings(arm, Pick(arms=arms, **given)), None


def _generate(given: dict[str, Any]) -> tuple[dict[str, Any], EngineConfig | None]:
    keeps = given.pop("keeps")
    model = Answerer(**given)
    return AnswerTask(model, (), keeps_thoughts=keeps).settings, model


def _compare(given: dict[str, Any]) -> tuple[dict[str, Any], EngineConfig | None]:
    plays = given.pop("plays")
    judge = PairJudge(**given)
    return PairTask(judge, pair_rubric.load(judge.rubric), plays).settings, judge


def _prompts(given: dict[str, Any]) -> tuple[dict[str, Any], EngineConfig | None]:
    return {"test_set": {key: value for key, value in identity(TestSet(**given)).items() if key != "path"}}, None


SETTINGS: dict[str, Callable[[dict[str, Any]], tuple[dict[str, Any], EngineConfig | None]]] = {
    "ingest": lambda given: (ingest._settings(Ingest(**given)), None),
    "score": _score,
    "pick": _pick,
    "finetune": lambda given: (arms.settings_of(Finetune(**given)), None),
    "generate": _generate,
    "prompts": _prompts,
    "compare": _compare,
    "report": lambda given: ({"report": identity(Report(**given))}, None),
}


@pytest.mark.parametrize("case", WRITTEN, ids=lambda case: f"{case['kind']}-{digest(case['given'])[:6]}")
def test_settings_and_requests_are_known_by_what_they_were_known_by_before(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    settings, engine = SETTINGS[case["kind"]](json.loads(json.dumps(case["given"])))
    assert settings == case["settings"]
    assert digest(settings) == case["hash"]
    if engine is not None:
        assert request_key(body(engine, ReplyForm()), QUESTION) == case["request"]
        if "request_in_form" in case:
            assert request_key(body(engine, IN_FORM), QUESTION) == case["request_in_form"]
    if "former" in case:
        assert arms.former_settings(Finetune(**case["given"])) == case["former"]


SECTIONS: dict[type[Section], dict[str, Any]] = {
    Ingest: {"source": "a.json"},
    Judge: {"model": "m"},
    Arm: {"name": "a", "policy": "full"},
    Pick: {},
    Clean: {},
    Cascade: {},
    Distill: {},
    Finetune: {"model": "m"},
    Lora: {},
    Answerer: {"name": "a", "api": "m"},
    TestSet: {"name": "t", "path": "p"},
    PairJudge: {"model": "m"},
    Vllm: {},
    Report: {},
    Compare: {},
    Combine: {"ratings": ("a", "b")},
    Card: {},
    People: {},
    Race: {},
    BenchModel: {"name": "a", "api": "m"},
}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_a_knob_that_is_added_changes_no_identity_until_it_is_turned(section: type[Section]) -> None:
    class Newer(section):  # type: ignore[misc, valid-type]
        knob: str = "as before"
        """A knob of a later version."""
        pace: Annotated[int, OPERATIONAL] = 1
        """One that changes no result."""

    given = SECTIONS[section]
    assert identity(Newer(**given, pace=2)) == identity(section(**given))
    assert identity(Newer(**given, knob="other")) == identity(section(**given)) | {"knob": "other"}


DEFAULTS = {
    "Ingest": {"reasoning": "keep"},
    "Arm": {
        "apart": 0.9,
        "by": "score",
        "out_of": None,
        "per": None,
        "share": None,
        "shares": {},
        "shares_of": "category",
        "spread": None,
        "thresholds": {},
        "tokens": None,
    },
    "Clean": {"near": None, "tests": None},
    "Cascade": {
        "audit": 0.02,
        "band": None,
        "calls": None,
        "cut": None,
        "first": None,
        "labels": 1000,
        "refit": None,
        "seed": 0,
    },
    "Distill": {},
    "Finetune": {"arms": [], "heldout": None, "keep": "last", "trainer": None},
    "Judge": {
        "columns": {},
        "constrained": "auto",
        "expected": False,
        "explain": True,
        "max_outside": 0.5,
        "max_tokens_field": "max_tokens",
        "ratings": None,
        "rubric": "accuracy",
        "scale": None,
        "seed": None,
        "system": "own",
        "vllm": {},
    },
    "PairJudge": {"max_tokens_field": "max_tokens", "rubric": "pairwise", "seed": None, "system": "own", "vllm": {}},
    "Answerer": {
        "answers": None,
        "api": None,
        "arm": None,
        "max_tokens_field": "max_tokens",
        "path": None,
        "prompt": "chat",
        "seed": None,
        "system": "own",
        "vllm": {},
    },
    "Vllm": {
        "chat_template": None,
        "chat_template_kwargs": {},
        "dtype": "auto",
        "extra": {},
        "lora": None,
        "quantization": None,
        "revision": None,
    },
    "Lora": {},
    "TestSet": {},
    "Report": {},
    "Combine": {"by": "median", "correct": "none", "held": None},
    "Card": {
        "cut": 4.5,
        "epsilon": 0.2,
        "gold": [],
        "limits": {},
        "per_kind": 20,
        "probes": False,
        "ratings": [],
        "repeat": False,
        "rows": 200,
        "seed": 0,
        "stored": 50,
    },
    "People": {
        "at_random": 50,
        "checks": 4,
        "cut": 4.5,
        "form": "vote",
        "language": "en",
        "near": 50,
        "pair": None,
        "per_test_set": 40,
        "ratings": "judge",
        "repeats": 10,
        "test_sets": [],
        "voters": ["voter 1", "voter 2", "voter 3"],
    },
    "Race": {
        "arms": [],
        "drop": True,
        "epochs": None,
        "heldout": None,
        "judge": None,
        "judged": 100,
        "learning_rate": None,
        "max_new_tokens": 256,
        "model": None,
        "near": 0.8,
        "points": 8,
        "seeds": 5,
        "steps": None,
        "test_sets": [],
        "tokens": None,
    },
    "BenchModel": {
        "api": None,
        "arm": None,
        "chat": False,
        "max_tokens_field": "max_tokens",
        "path": None,
        "seed": None,
        "system": "own",
        "vllm": {},
    },
}
"""Defaults that manifests do not name: results without these keys were made with these values, whatever a later version thinks
better. A new knob gets a line here; to change a default, add its field to `Section.stated` in the same step."""


OTHERS = set(
    (
        "Asking Batch Bench BenchTask Checkpoints Compare EngineConfig Endpoint Generate Import Pick Price Recipe "
        "RecordedScale Score"
    ).split()
)
"""Sections that name no result by their `identity`: their stages name settings key by key, or they change no result."""


def test_every_section_of_a_recipe_has_its_defaults_here_or_names_no_result() -> None:
    def below(section: type[Section]) -> Iterator[str]:
        for each in section.__subclasses__():
            yield each.__name__ if each.__module__.startswith("alpagasus_ray.") else ""
            yield from below(each)

    assert set(below(Section)) - {""} == DEFAULTS.keys() | OTHERS


@pytest.mark.parametrize("section", [section for section in SECTIONS if section.__name__ in DEFAULTS])
def test_a_default_that_manifests_do_not_name_never_changes(section: type[Section]) -> None:
    elided = {
        key: field.get_default(call_default_factory=True)
        for key, field in section.model_fields.items()
        if key not in section.stated and OPERATIONAL not in field.metadata and not field.is_required()
    }
    plain = {key: identity(value) if isinstance(value, Section) else value for key, value in elided.items()}
    assert json.loads(json.dumps(plain)) == DEFAULTS[section.__name__]


def _reopened(recipe: Recipe) -> list[Manifest]:
    """All stages of the run in the working directory, called again."""
    run = Run.open("run")
    made = [ingest.ingest(recipe.ingest, run), score(recipe.score, run), *pick_subset.pick_subset(recipe.pick, run)]
    made += generate(recipe.generate, run)
    return [*made, *compare(recipe.compare, run).values()]


def test_a_run_of_an_earlier_version_is_gone_on_with_and_nothing_of_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(OLD_RUN, tmp_path / "old")
    monkeypatch.chdir(folder)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    made = _reopened(load("recipe.yaml", []).recipe)
    assert len(made) == 8
    after = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert after == before


@pytest.mark.parametrize(
    "override",
    ["ingest.turns=all", "score.judge.kind=recorded", "generate.thoughts=keep", "compare.empty_answers=play"],
)
def test_a_run_of_an_earlier_version_is_refused_with_other_settings(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(OLD_RUN, tmp_path / "old")
    monkeypatch.chdir(folder)
    more = ["score.judge.ratings=examples.json"] if "recorded" in override else []
    with pytest.raises(SettingsChanged, match="made with other settings"):
        _reopened(load("recipe.yaml", [override, *more]).recipe)
