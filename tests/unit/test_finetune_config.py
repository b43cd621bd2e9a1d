"""Knobs that contradict each other are refused with key, value and fix; how the work is spread changes no model."""

from typing import Any

import pytest
from pydantic import ValidationError

from alpagasus_ray.config import OPERATIONAL, Finetune
from alpagasus_ray.errors import UsageError
from alpagasus_ray.recipe import load
from alpagasus_ray.training.arms import former_settings, settings_of

OTHERWISE: dict[str, Any] = {
    "packing": False,
    "pack_tokens": 4096,
    "micro_batch": 1,
    "pad_to_max": True,
    "attention": "sdpa",
    "gradient_checkpointing": True,
    "logits": "pieces",
    "offload": "optimizer",
    "workers": 8,
    "gpu": True,
    "cpus": 4,
    "labels": {"ray-subcluster": "gpu-train"},
    "checkpoint": {"every_steps": 5},
    "max_failures": 0,
    "price_per_gpu_hour": 2.5,
    "peak_tflops": 312,
    "tensorboard": False,
    "wandb": "project",
    "heldout_every": 5,
    "checkpoints": {"selected": "/out"},
}
"""Another value of every knob that changes no model."""
LEARNED: dict[str, Any] = {
    "model": "other",
    "revision": "v2",
    "from_scratch": True,
    "template": "chat",
    "chat_template_kwargs": {"enable_thinking": False},
    "max_length": 256,
    "too_long": "drop",
    "epochs": 2,
    "steps": 10,
    "global_batch": 64,
    "learning_rate": 1e-5,
    "schedule": "linear",
    "warmup": 0.1,
    "weight_decay": 0.1,
    "max_grad_norm": None,
    "precision": "float32",
    "zero_stage": 3,
    "lora": {"rank": 8},
    "heldout": "others.jsonl",
    "keep": "best",
    "seed": 1,
}
"""Another value of every knob that makes another model (or may)."""
NEEDS: dict[str, dict[str, Any]] = {
    "keep": {"heldout": "others.jsonl", "heldout_every": 5},
    "heldout_every": {"heldout": "others.jsonl"},
    "pad_to_max": {"packing": False},
}
"""What a knob cannot be without."""


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"epochs": 2, "steps": 5}, ["`epochs` and `steps` exclude each other", "give one"]),
        ({"pack_tokens": 256}, ["`pack_tokens` = 256", "`max_length` = 512"]),
        ({"max_length": 4096}, ["`pack_tokens` = 2048", "`max_length` = 4096"]),
        ({"pad_to_max": True}, ["`pad_to_max`", "set `packing: false`"]),
        ({"attention": "eager"}, ["`attention: eager` computes padded rows", "set `packing: false`"]),
        ({"heldout_every": 5}, ["`heldout_every`", "`heldout`, which is not given"]),
        ({"keep": "best", "heldout": "o.jsonl"}, ["`keep: best` needs `heldout` and `heldout_every`", "`keep: last`"]),
        ({"offload": "all", "zero_stage": 2}, ["`offload: all` needs `zero_stage: 3`", "it is 2"]),
        ({"offload": "optimizer", "zero_stage": 1}, ["`offload: optimizer` needs `zero_stage` 2 or 3", "it is 1"]),
        ({"offload": "optimizer", "zero_stage": 0}, ["`offload: optimizer` needs `zero_stage` 2 or 3", "it is 0"]),
        ({"checkpoint": {"every_minutes": None}}, ["`checkpoint` needs `every_steps` or `every_minutes`"]),
        ({"arms": ["full", "selected", "full"]}, ["an arm is named twice in `arms`"]),
    ],
    ids=str,
)
def test_knobs_that_contradict_each_other_are_refused_with_what_to_do(knobs: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValidationError) as refusal:
        Finetune(**knobs)
    assert all(word in str(refusal.value) for word in words)


@pytest.mark.parametrize(
    "knobs",
    [
        {"max_length": 7},
        {"zero_stage": 4},
        {"epochs": 0},
        {"steps": 0},
        {"learning_rate": 0},
        {"warmup": 1.1},
        {"workers": 0},
        {"workers": [4, 2]},
        {"workers": [0, 2]},
        {"price_per_gpu_hour": -1},
        {"peak_tflops": 0},
        {"lora": {"rank": 0}},
        {"lora": {"dropout": 1.0}},
        {"precision": "fp16"},
        {"max_grad_norm": 0},
        {"no_such_knob": 1},
        {"arms": ["../elsewhere"]},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refusal:
        Finetune(**knobs)
    assert next(iter(knobs)) in str(refusal.value)


def test_a_recipe_tells_section_and_knob_of_what_it_refuses() -> None:
    with pytest.raises(UsageError) as refusal:
        load(None, ["finetune.zero_stage=7"])
    assert "finetune.zero_stage" in str(refusal.value)
    with pytest.raises(UsageError) as refusal:
        load(None, ["finetune.epochs=2", "finetune.steps=5"])
    assert "finetune" in str(refusal.value)
    assert "`epochs` and `steps` exclude each other" in str(refusal.value)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"pad_to_max": True, "packing": False},
        {"packing": False, "max_length": 4096},
        {"pack_tokens": 512, "max_length": 512},
        {"offload": "all", "zero_stage": 3},
        {"offload": "optimizer", "zero_stage": 2},
        {"workers": [2, 8]},
        {"workers": [3, 3]},
        {"checkpoint": {"every_steps": 10, "every_minutes": None}},
        {"epochs": 0.5},
        {"lora": {"targets": ["q_proj", "v_proj"]}},
    ],
    ids=str,
)
def test_what_goes_together_is_taken(knobs: dict[str, Any]) -> None:
    assert Finetune.model_validate(knobs)


def test_these_are_all_knobs() -> None:
    operational = {name for name, field in Finetune.model_fields.items() if OPERATIONAL in field.metadata}
    assert operational == set(OTHERWISE)
    assert set(Finetune.model_fields) - operational - set(LEARNED) == {"arms", "trust_remote_code", "trainer"}


@pytest.mark.parametrize("knob", OTHERWISE)
def test_how_the_work_is_spread_and_timed_changes_no_model(knob: str) -> None:
    before = Finetune(**NEEDS.get(knob, {}))
    after = Finetune.model_validate(before.model_dump() | {knob: OTHERWISE[knob]})
    assert getattr(before, knob) != getattr(after, knob)
    assert settings_of(before) == settings_of(after)


@pytest.mark.parametrize("knob", LEARNED)
def test_what_is_learned_is_told_by_the_settings(knob: str) -> None:
    needed = NEEDS.get(knob, {})
    assert settings_of(Finetune(**needed)) != settings_of(Finetune(**needed, **{knob: LEARNED[knob]}))


def test_what_is_kept_depends_on_how_often_it_is_measured_where_the_best_is_kept() -> None:
    often, seldom = (settings_of(Finetune(heldout="others.jsonl", heldout_every=every, keep="best")) for every in (5, 10))
    assert often != seldom


def test_a_model_of_an_earlier_version_is_known_by_what_that_version_wrote() -> None:
    """`settings` of manifests before there was `form`: 2e-5 was the rate of adapters too."""
    old = former_settings(Finetune(lora={"rank": 8}))  # type: ignore[arg-type]
    assert old["learning_rate"] == 2e-5
    assert settings_of(Finetune(lora={"rank": 8}))["learning_rate"] == 2e-4  # type: ignore[arg-type]
    known = "model revision from_scratch template chat_template_kwargs max_length too_long epochs steps global_batch"
    known += " learning_rate schedule warmup weight_decay max_grad_norm precision zero_stage lora trust_remote_code seed"
    assert set(old) == set(known.split())


def test_which_other_arms_are_trained_changes_no_model() -> None:
    assert settings_of(Finetune(arms=("full",))) == settings_of(Finetune(arms=("full", "selected"))) == settings_of(Finetune())


def test_three_epochs_are_the_same_whether_they_are_given_or_not() -> None:
    assert settings_of(Finetune()) == settings_of(Finetune(epochs=3)) != settings_of(Finetune(steps=3))


def test_the_defaults_are_those_of_the_papers_7b() -> None:
    """AlpaGasus and its repository: 128 examples an update, 2e-5, 512 tokens, 3 epochs, 3% warm-up, cosine, no decay."""
    found = settings_of(Finetune())
    assert (found["global_batch"], found["learning_rate"], found["max_length"], found["epochs"]) == (128, 2e-5, 512, 3.0)
    assert (found["warmup"], found["schedule"], found["weight_decay"]) == (0.03, "cosine", 0.0)
