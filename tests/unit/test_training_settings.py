"""The learning rate is that of transformers, memory that of the ZeRO paper, and DeepSpeed is told what is meant."""

import math
from typing import Any

import pytest
import torch
from transformers import get_scheduler

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import UsageError
from alpagasus_ray.training import settings

SEVEN_B = 6_738_415_616
SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
TOLD = {
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "managed_gradient_accumulation",
    "gradient_clipping",
    "bf16",
    "zero_optimization",
    "optimizer",
    "steps_per_print",
    "wall_clock_breakdown",
}


def rates(config: Finetune, steps: int) -> list[float]:
    return [settings.learning_rate(config, step, steps) for step in range(steps)]


def theirs(config: Finetune, steps: int) -> list[float]:
    """The rates of the updates of a training by transformers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.rate)
    name = SCHEDULERS[config.schedule]
    scheduler = get_scheduler(name, optimizer, math.ceil(steps * config.warmup), steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("schedule", SCHEDULERS)
@pytest.mark.parametrize(("steps", "warmup"), [(217, 0.03), (1219, 0.03), (50, 0.0), (10, 0.5), (7, 1.0), (1, 0.03)])
def test_the_learning_rate_is_that_of_transformers_after_a_warm_up_that_wastes_no_update(
    schedule: Any, steps: int, warmup: float
) -> None:
    config, warm = Finetune(schedule=schedule, warmup=warmup), math.ceil(steps * warmup)
    found = rates(config, steps)
    assert found[warm:] == pytest.approx(theirs(config, steps)[warm:], rel=1e-9, abs=1e-18)
    assert found[:warm] == pytest.approx([2e-5 * (step + 1) / (warm + 1) for step in range(warm)])
    assert min(found) > 0


def test_the_learning_rate_never_exceeds_what_is_asked_for_and_reaches_it() -> None:
    for schedule in SCHEDULERS:
        assert max(rates(Finetune(schedule=schedule), 217)) == 2e-5


def test_the_only_update_of_a_training_learns() -> None:
    assert rates(Finetune(), 1) == [1e-5]


def test_a_training_in_which_no_update_would_learn_is_refused() -> None:
    with pytest.raises(UsageError, match=r"none of the 1 updates .* raise finetune\.learning_rate \(now 4\.94066e-324\)"):
        settings.check_rates(Finetune(learning_rate=5e-324), 1)
    settings.check_rates(Finetune(learning_rate=5e-324, schedule="constant", warmup=0), 1)
    settings.check_rates(Finetune(), 1)


def test_adapters_have_a_learning_rate_of_their_own_unless_one_is_given() -> None:
    assert Finetune().rate == 2e-5
    assert Finetune(lora={"rank": 8}).rate == 2e-4  # type: ignore[arg-type]
    assert Finetune(lora={"rank": 8}, learning_rate=1e-5).rate == 1e-5  # type: ignore[arg-type]


class Small(torch.nn.Module):
    """One weight of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(4, 2)
        self.layer = torch.nn.Linear(2, 2)
        self.norm = torch.nn.LayerNorm(2)
        self.head = torch.nn.Linear(2, 4, bias=False)
        self.frozen = torch.nn.Linear(2, 2, bias=False).requires_grad_(requires_grad=False)


def test_norms_biases_and_embeddings_do_not_decay() -> None:
    of = Small()
    decays, spared = settings.weight_groups(Finetune(weight_decay=0.1), of)
    assert (decays["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert [id(weight) for weight in decays["params"]] == [id(of.layer.weight), id(of.head.weight)]
    expected = {id(weight) for weight in (of.words.weight, of.layer.bias, of.norm.weight, of.norm.bias)}
    assert {id(weight) for weight in spared["params"]} == expected
    (alone,) = settings.weight_groups(Finetune(), of)
    assert len(alone["params"]) == 6
    of.head.weight = of.words.weight  # shared vectors are looked up too
    tied, _ = settings.weight_groups(Finetune(weight_decay=0.1), of)
    assert [id(weight) for weight in tied["params"]] == [id(of.layer.weight)]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_memory_in_bf16_is_that_of_the_zero_paper_with_gradients_summed_in_float32(stage: int) -> None:
    """ZeRO, section 3.1: 2 bytes a parameter for weights, 12 for AdamW; gradients have 2, and 4 where they are summed."""
    config, workers = Finetune(zero_stage=stage), 4
    by_hand = {0: 2 + 2 + 12, 1: 2 + 4 + 12 / 4, 2: 2 + 4 / 4 + 12 / 4, 3: (2 + 4 + 12) / 4}
    assert settings.state_bytes(config, SEVEN_B, SEVEN_B, workers) == round(SEVEN_B * by_hand[stage])


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_memory_in_float32_is_16_bytes_a_parameter_before_it_is_spread(stage: int) -> None:
    config, workers = Finetune(zero_stage=stage, precision="float32"), 8
    by_hand = {0: 4 + 4 + 8, 1: 4 + 4 + 8 / 8, 2: 4 + 4 / 8 + 8 / 8, 3: (4 + 4 + 8) / 8}
    assert settings.state_bytes(config, SEVEN_B, SEVEN_B, workers) == SEVEN_B * by_hand[stage]


def test_7b_on_four_gpus_is_as_many_gib_as_the_documentation_says() -> None:
    gib = [round(settings.state_bytes(Finetune(zero_stage=n), SEVEN_B, SEVEN_B, 4) / 2**30, 1) for n in range(4)]
    assert gib == [100.4, 56.5, 37.7, 28.2]


def test_what_is_offloaded_takes_no_memory_of_the_device() -> None:
    config = Finetune(zero_stage=3, offload="optimizer")
    assert settings.state_bytes(config, SEVEN_B, SEVEN_B, 4) == SEVEN_B * (2 + 4) / 4
    everything = Finetune(zero_stage=3, offload="all")
    assert settings.state_bytes(everything, SEVEN_B, SEVEN_B, 4) == SEVEN_B * 4 / 4


def test_offloaded_states_take_18_bytes_a_parameter_of_all_hosts_together() -> None:
    config = Finetune(offload="optimizer")
    assert settings.host_bytes(config, SEVEN_B, SEVEN_B, 1) == 18 * SEVEN_B
    assert settings.host_bytes(config, SEVEN_B, SEVEN_B, 4) == math.ceil(18 * SEVEN_B / 4)
    assert settings.host_bytes(Finetune(offload="all", zero_stage=3), SEVEN_B, SEVEN_B, 4) == math.ceil(20 * SEVEN_B / 4)
    assert settings.host_bytes(Finetune(), SEVEN_B, SEVEN_B, 4) == 0


def test_adapters_have_gradients_and_optimizer_states_alone() -> None:
    trained = 20_000_000
    config = Finetune(lora={"rank": 8})  # type: ignore[arg-type]
    assert settings.state_bytes(config, SEVEN_B, trained, 4) == SEVEN_B * 2 + trained * (4 + 12) / 4


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_a_higher_stage_and_more_workers_never_need_more(workers: int) -> None:
    needs = [settings.state_bytes(Finetune(zero_stage=n), SEVEN_B, SEVEN_B, workers) for n in (1, 2, 3)]
    assert needs == sorted(needs, reverse=True)
    assert all(
        settings.state_bytes(Finetune(zero_stage=n), SEVEN_B, SEVEN_B, 2 * workers) < need
        for n, need in zip((1, 2, 3), needs, strict=True)
    )


# what DeepSpeed is told


@pytest.mark.parametrize("precision", ["bf16", "float32"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_is_told_nothing_but_what_is_meant(stage: int, precision: Any) -> None:
    config = Finetune(zero_stage=stage, precision=precision)
    told = settings.deepspeed_config(config, universal=False)
    sums_wide = precision == "bf16" and stage > 0
    assert set(told) == TOLD | ({"data_types"} if sums_wide else set())
    assert told.get("data_types", {"grad_accum_dtype": "fp32"}) == {"grad_accum_dtype": "fp32"}
    assert told["bf16"] == {"enabled": precision == "bf16"}
    assert told["zero_optimization"].pop("stage") == stage
    assert told["zero_optimization"] == ({"stage3_gather_16bit_weights_on_model_save": True} if stage == 3 else {})


def test_deepspeed_takes_every_key_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes over keys that it does not know, so what it has read is looked at."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("WORLD_SIZE", "1")
    from deepspeed.runtime.config import DeepSpeedConfig

    config = Finetune(zero_stage=3, offload="all", max_grad_norm=0.5)
    found = DeepSpeedConfig(settings.deepspeed_config(config, universal=True))
    assert found.zero_config.stage == 3
    assert found.zero_config.offload_param.device == found.zero_config.offload_optimizer.device == "cpu"
    assert found.gradient_clipping == 0.5
    assert found.bfloat16_config.enabled
    assert found.grad_accum_dtype == "fp32"
    assert found.load_universal_checkpoint
    assert found.optimizer_name == "adamw"


def test_the_optimizer_is_adamw_with_the_papers_constants() -> None:
    told = settings.deepspeed_config(Finetune(weight_decay=0.1), universal=False)["optimizer"]
    assert told["type"] == "AdamW"
    assert told["params"] == {
        "lr": 2e-5,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.1,
        "torch_adam": True,
        "fused": True,
    }


def test_gradients_are_not_scaled_down_where_the_norm_is_null() -> None:
    assert settings.deepspeed_config(Finetune(max_grad_norm=None), universal=False)["gradient_clipping"] == 0.0
    assert settings.deepspeed_config(Finetune(max_grad_norm=0.3), universal=False)["gradient_clipping"] == 0.3


@pytest.mark.parametrize(("offload", "moved"), [("none", set()), ("optimizer", {"optimizer"}), ("all", {"optimizer", "param"})])
def test_what_is_offloaded_is_in_the_hosts_memory(offload: Any, moved: set[str]) -> None:
    told = settings.deepspeed_config(Finetune(zero_stage=3, offload=offload), universal=False)
    found = {key.removeprefix("offload_") for key in told["zero_optimization"] if key.startswith("offload_")}
    assert found == moved
    assert all(told["zero_optimization"][f"offload_{part}"] == {"device": "cpu", "pin_memory": True} for part in moved)
    # DeepSpeed's own Adam works in the host's memory
    assert ("torch_adam" in told["optimizer"]["params"]) == (offload == "none")


def test_a_state_of_another_number_of_workers_is_loaded_in_the_universal_form() -> None:
    assert "checkpoint" not in settings.deepspeed_config(Finetune(), universal=False)
    assert settings.deepspeed_config(Finetune(), universal=True)["checkpoint"] == {"load_universal": True}
