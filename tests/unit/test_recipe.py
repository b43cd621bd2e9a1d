"""Recipes: every mistake is told with its key, value and fix; every knob is documented; identity is what it says."""

import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import (
    OPERATIONAL,
    Arm,
    Finetune,
    Ingest,
    Judge,
    Pick,
    Recipe,
    Score,
    Section,
    deciding,
    digest,
    identity,
)
from alpagasus_ray.errors import UsageError
from alpagasus_ray.recipe import knobs, load
from toy_runs import ROOT

ARMS = "pick.arms=[{name: best, policy: threshold, threshold: 4.5}, {name: few, policy: top, k: 9}]"


def _refused(*overrides: str) -> str:
    with pytest.raises(UsageError) as refusal:
        load(None, overrides)
    return str(refusal.value)


def _recipe(folder: Path, text: str | bytes) -> str:
    path = folder / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_without_a_recipe_the_defaults_hold() -> None:
    assert load(None, []) == (Recipe(), {})


def test_an_empty_recipe_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(_recipe(tmp_path, "# nothing yet\n"), []).recipe == Recipe()


@pytest.mark.parametrize(
    ("override", "key", "value", "nearest"),
    [
        ("scor.limit=5", "scor", "{'limit': 5}", "score"),
        ("ingest.formatt=csv", "ingest.formatt", "'csv'", "ingest.format"),
        ("score.judge.modle=gpt", "score.judge.modle", "'gpt'", "score.judge.mode` or `score.judge.model"),
        (
            "pick.arms=[{name: a, policy: top, k: 3, treshold: 1}]",
            "pick.arms.0.treshold",
            "1",
            "pick.arms.0.threshold` or `pick.arms.0.thresholds",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_its_value_and_the_nearest_known_key(
    override: str, key: str, value: str, nearest: str
) -> None:
    told = _refused(override)
    assert f"unknown key `{key}` = {value}" in told
    assert f"did you mean `{nearest}`?" in told


def test_an_unknown_key_like_no_other_is_told_what_keys_there_are() -> None:
    told = _refused("ingest.zzz=1")
    assert all(name in told for name in Ingest.model_fields)


def test_every_mistake_of_a_recipe_is_told_at_once() -> None:
    told = _refused("ingest.formatt=csv", "score.concurrency=0")
    assert "ingest.formatt" in told
    assert "score.concurrency" in told


@pytest.mark.parametrize(
    ("override", "key", "value", "allowed"),
    [
        ("ingest.rows_per_shard=0", "ingest.rows_per_shard", "0", "greater than 0"),
        ("ingest.turns=second", "ingest.turns", "'second'", "'first' or 'all'"),
        ("ingest.max_rejected=1.5", "ingest.max_rejected", "1.5", "less than or equal to 1"),
        ("ingest.max_rejected=.nan", "ingest.max_rejected", "nan", "finite"),
        ("ingest.name=a/b", "ingest.name", "'a/b'", "A-Za-z0-9"),
        ("ingest.columns={instrution: q}", "ingest.columns.instrution", "'instrution'", "'instruction', 'input', 'output'"),
        ("score.name=..", "score.name", "'..'", "A-Za-z0-9"),
        ("score.judge.temperature=hot", "score.judge.temperature", "'hot'", "number"),
        ("score.judge.kind=gpt", "score.judge.kind", "'gpt'", "'api', "),
        ("score=5", "score", "5", "dictionary"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_what_is_allowed(override: str, key: str, value: str, allowed: str) -> None:
    told = _refused(override)
    assert key in told
    assert f"= {value}:" in told
    assert allowed in told


def test_a_bad_value_of_a_union_is_named_by_the_key_that_the_user_wrote() -> None:
    assert "`ingest.source` = 5" in _refused("ingest.source=5")


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), ("null", None), ("a=b", "a=b"), ("", None), ("[1, x]", [1, "x"]), ("{a: low}", {"a": "low"}), ("'1'", "1")],
)
def test_set_reads_values_as_yaml(text: str, value: Any) -> None:
    assert load(None, [f"score.judge.extra.asked={text}"]).recipe.score.judge.extra == {"asked": value}


def test_set_makes_the_sections_on_its_way() -> None:
    assert load(None, ["score.judge.temperature=0.5"]).recipe.score == Score(judge=Judge(temperature=0.5))


def test_set_reaches_into_lists_by_place() -> None:
    arms = load(None, [ARMS, "pick.arms.0.threshold=4", "pick.arms.1={name: all, policy: full}"]).recipe.pick.arms
    assert (arms[0].threshold, arms[1].policy) == (4, "full")


def test_set_reaches_into_the_arms_that_a_recipe_has_by_default() -> None:
    assert load(None, ["pick.arms.0.threshold=4"]).recipe.pick.arms[0].threshold == 4


def test_the_last_set_wins_over_those_before_and_over_the_file(tmp_path: Path) -> None:
    path = _recipe(tmp_path, "ingest: {turns: all, rows_per_shard: 7}\n")
    made = load(path, ["ingest.rows_per_shard=8", "ingest.rows_per_shard=9"])
    assert made.recipe.ingest == Ingest(turns="all", rows_per_shard=9)


def test_written_holds_only_what_the_user_wrote(tmp_path: Path) -> None:
    path = _recipe(tmp_path, "ingest: {turns: all}\n")
    assert load(path, ["score.limit=3"]).written == {"ingest": {"turns": "all"}, "score": {"limit": 3}}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["score.limit"], "key=value"),
        (["=5"], "key=value"),
        (["score.limit=[1"], "not valid YAML"),
        (["score.limit.x=1", "score.limit.x.y=2"], "nothing inside"),
        ([ARMS, "pick.arms.2.k=1"], "give 0 to 1"),
        ([ARMS, "pick.arms.first.k=1"], "`first` is no place"),
        ([ARMS, "pick.arms.-1={}"], "`-1` is no place"),
    ],
)
def test_a_set_that_cannot_be_followed_names_itself_and_why(overrides: list[str], told: str) -> None:
    message = _refused(*overrides)
    assert overrides[-1].partition("=")[0] in message
    assert told in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("ingest: [", "not valid YAML"),
        (b"ingest: \xff", "not valid YAML"),
        ("- ingest", "holds a list, not sections"),
        ("ingest", "holds a str, not sections"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_by_name(tmp_path: Path, content: str | bytes, told: str) -> None:
    path = _recipe(tmp_path, content)
    with pytest.raises(UsageError, match=told) as refusal:
        load(path, [])
    assert path in str(refusal.value)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.yaml: No such file"):
        load(str(tmp_path / "nowhere.yaml"), [])


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        ("[{name: a, policy: top}]", "needs `k`"),
        ("[{name: a, policy: full}, {name: b, policy: full}, {name: a, policy: random}]", "two arms have the name 'a'"),
        ("[{name: a, policy: top, k: 3, floors: {coding: 2, math: 2}}]", "add up to 4, more than k = 3"),
        ("[{name: a, policy: top, k: 3, threshold: 4}]", "takes no `threshold`"),
        ("[{name: a, policy: threshold, k: 3}]", "takes no `k`"),
        ("[{name: a, policy: random, floors: {coding: 2}}]", "takes no `floors`"),
        ("[{name: a}]", "pick.arms.0.policy"),
        ("[{policy: full}]", "pick.arms.0.name"),
    ],
)
def test_arms_that_contradict_themselves_are_refused(arms: str, told: str) -> None:
    assert told in _refused(f"pick.arms={arms}")


def test_recorded_ratings_need_their_file() -> None:
    assert "needs `ratings`" in _refused("score.judge.kind=recorded")


def _leaves(section: type[Section], prefix: str) -> list[str]:
    keys = []
    for attribute, field in section.model_fields.items():
        name = field.alias or attribute
        optional = types.NoneType in typing.get_args(field.annotation)
        inner = typing.get_args(field.annotation)[0] if optional else field.annotation
        deeper = isinstance(inner, type) and issubclass(inner, Section)
        keys += [f"{prefix}.{name}"] if optional or not deeper else []
        keys += _leaves(inner, f"{prefix}.{name}") if deeper else []
    return keys


@pytest.mark.parametrize("section", list(Recipe.model_fields))
def test_the_knob_table_lists_every_field_with_a_doc_and_a_default(section: str) -> None:
    annotation = Recipe.model_fields[section].annotation
    assert annotation is not None
    table = list(knobs(annotation, section))
    assert [knob.key for knob in table if ".<n>." not in knob.key] == _leaves(annotation, section)
    assert [knob.key for knob in table if not (knob.doc and knob.kind)] == []
    without = [knob.key for knob in table if not knob.default and ".<n>." not in knob.key]
    # null as a whole, or all of it
    whole = ("score.judge.price.", "score.combine.", "compare.judge.price.", "compare.import.", "race.judge.price.")
    assert [key for key in without if not key.startswith(whole)] == []


def test_the_knob_table_lists_the_fields_of_an_arm() -> None:
    listed = [knob.key for knob in knobs(Pick, "pick") if ".<n>." in knob.key]
    assert listed == [f"pick.arms.<n>.{name}" for name in Arm.model_fields]


@pytest.mark.parametrize("section", [Ingest, Judge, Score, Pick, Finetune])
def test_identity_holds_every_field_that_is_not_operational(section: type[Section]) -> None:
    decisive = {field.alias or name for name, field in section.model_fields.items() if OPERATIONAL not in field.metadata}
    assert set(deciding(section())) == decisive


@pytest.mark.parametrize(
    "override",
    "ingest.max_rejected=0.5 score.concurrency=3 score.actors=2 score.limit=7 score.max_failed=0.5 pick.max_unscored=0.5 "
    "score.judge.base_url=http://x/v1 score.judge.api_key_env=K score.judge.timeout_s=1 score.judge.max_attempts=1 "
    "finetune.packing=false finetune.pack_tokens=4096 finetune.workers=8 finetune.offload=optimizer finetune.max_failures=9 "
    "finetune.checkpoint.every_steps=5 finetune.price_per_gpu_hour=5.12 finetune.gradient_checkpointing=true".split(),
)
def test_how_the_work_is_carried_out_does_not_change_the_identity(override: str) -> None:
    assert _identities(override) == _identities()


@pytest.mark.parametrize(
    "override",
    [
        "ingest.source=x",
        "ingest.name=x",
        "ingest.format=csv",
        "ingest.columns={output: x}",
        "ingest.turns=all",
        "ingest.rows_per_shard=7",
        "ingest.split=test",
        "score.judge.kind=rules",
        "score.judge.model=x",
        "score.judge.rubric=helpfulness",
        "score.judge.temperature=1",
        "score.judge.top_p=0.5",
        "score.judge.max_tokens=9",
        "score.judge.extra={a: 1}",
        "pick.ratings=x",
        "pick.arms=[{name: x, policy: full}]",
        "finetune.model=x",
        "finetune.steps=7",
        "finetune.global_batch=64",
        "finetune.zero_stage=3",
        "finetune.lora={rank: 4}",
        "finetune.seed=1",
    ],
)
def test_what_decides_the_results_changes_the_identity(override: str) -> None:
    assert _identities(override) != _identities()


def _identities(*overrides: str) -> str:
    recipe = load(None, overrides).recipe
    return digest([identity(getattr(recipe, section)) for section in Recipe.model_fields])


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})


@pytest.mark.parametrize("file", sorted(ROOT.glob("recipes/*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_that_ships_is_a_recipe(file: Path) -> None:
    recipe, arms = load(str(file), []).recipe, {arm.name for arm in load(str(file), []).recipe.pick.arms}
    assert arms >= set(recipe.finetune.arms)
    assert {model.arm for model in recipe.generate.models if model.arm} <= set(recipe.finetune.arms)


@pytest.mark.parametrize("file", sorted(ROOT.glob("recipes/*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_asks_its_models_as_it_trained_them(file: Path) -> None:
    recipe = load(str(file), []).recipe
    for model in (model for model in recipe.generate.models if model.arm):
        assert model.prompt == recipe.finetune.template
        assert model.vllm.chat_template_kwargs == recipe.finetune.chat_template_kwargs


def test_no_field_can_hold_a_secret() -> None:
    names = [knob.key for knob in knobs(Recipe, "recipe")]
    assert len(names) > 30
    assert [name for name in names if re.search(r"[._](key|secret|password|token)$", name)] == []


def test_a_key_given_where_none_belongs_is_refused_without_repeating_it() -> None:
    assert "sk-secret" not in _refused("score.judge.api_key=sk-secret")


ADDRESS = "http://me:my-secret@host/v1"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (f"score.judge.base_url={ADDRESS}", "give the key by the environment (`api_key_env`"),
        (f"score.judge.endpoints=[{{base_url: '{ADDRESS}'}}]", "`score.judge.endpoints.0.base_url`"),
        ("score.judge.base_url=http://me:my-secret/v1", "the host or the port"),
        ("score.judge.base_url=ftp://me:my-secret@host/v1", "(not shown)@host"),
        ("score.judge.base_url=me:my-secret@host/v1", "(not shown)@host"),
        (f"score.judge.base_ur={ADDRESS}", "did you mean `score.judge.base_url`"),
        (f"score.judge.base_url:{ADDRESS}", "key=value"),
        (f"score.judge.base_url='{ADDRESS}", "not valid YAML"),
        (f"score.judge=[{ADDRESS}]", "score.judge"),
    ],
)
def test_an_address_with_a_password_is_refused_without_repeating_it(override: str, told: str) -> None:
    message = _refused(override)
    assert told in message
    assert "my-secret" not in message


def test_a_value_that_is_stepped_into_is_named_without_its_password() -> None:
    assert "my-secret" not in _refused(f"score.judge.base_url={ADDRESS}", "score.judge.base_url.x=1")
