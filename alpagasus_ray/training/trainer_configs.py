"""The recipe's training as other trainers are told it: axolotl, LLaMA-Factory, TRL.

From `finetune` to the plain values of their configuration files, with what of it they cannot do or do otherwise. The keys are
those that axolotl 0.19, LLaMA-Factory 0.9.5 and TRL 1.16 document. Pure functions: knows nothing of runs, and nothing of how
the examples become rows (`trainer_rows.py`). File names are relative, so that a directory can be taken to any machine.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import UsageError
from alpagasus_ray.training.schedule import Order
from alpagasus_ray.training.settings import zero

CONFIG, ROWS, DEEPSPEED, MODEL = "config.yaml", "train.jsonl", "deepspeed.json", "model"
"""Names in the directory of an arm: the configuration, the examples, DeepSpeed's settings, what the trainer writes."""
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
"""Names of the schedules in `transformers`."""


class Batch(NamedTuple):
    """How an update is divided: `micro` x `accumulation` x `workers` examples."""

    micro: int
    accumulation: int
    workers: int


class Files(NamedTuple):
    """What one arm's training is for another trainer."""

    config: dict[str, Any]
    """Of `config.yaml`."""
    others: dict[str, Any]
    """JSON files beside it, by name."""
    command: str
    """What to call in the directory."""
    updates: int
    """How many updates the trainer makes of so many examples."""
    notes: tuple[str, ...]
    """What it cannot do, or does otherwise than this package."""


def batch_of(config: Finetune) -> Batch:
    """Micro-batches of at most `micro_batch` examples that make up `global_batch`. Raises `UsageError` where they cannot."""
    workers = config.workers or 1
    if not isinstance(workers, int):
        raise UsageError(f"finetune.workers = {list(workers)}: finetune.with = {config.trainer} needs one number of processes")
    each, rest = divmod(config.global_batch, workers)
    if rest:
        raise UsageError(
            f"finetune.global_batch = {config.global_batch} cannot be divided among finetune.workers = {workers}, as "
            f"finetune.with = {config.trainer} does; give a multiple of {workers}"
        )
    micro = max(size for size in range(1, config.micro_batch + 1) if each % size == 0)
    return Batch(micro, each // micro, workers)


def updates(config: Finetune, examples: int) -> int:
    """How many updates `transformers` makes: each epoch ends with one of what is left."""
    if config.steps is not None:
        return config.steps
    return math.ceil((config.epochs or 3.0) * math.ceil(examples / config.global_batch))


def files(config: Finetune, examples: int) -> Files:
    """One arm of so many examples for `config.trainer`. Raises `UsageError` for what would be another experiment there."""
    assert config.trainer is not None, "the caller has looked"
    batch, made = batch_of(config), updates(config, examples)
    shared = _shared(config, batch, made)
    told, others, command = WRITERS[config.trainer](config, shared, batch)
    if batch.workers > 1:
        others = {**others, DEEPSPEED: _deepspeed(config)}
    notes = (*_common_notes(config, made, examples), *NOTES[config.trainer](config))
    return Files({key: value for key, value in told.items() if value is not None}, others, command, made, notes)


def _shared(config: Finetune, batch: Batch, made: int) -> dict[str, Any]:
    """What all three name alike."""
    return {
        "trust_remote_code": config.trust_remote_code,
        "gradient_accumulation_steps": batch.accumulation,
        "learning_rate": config.rate,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm or 0.0,
        # a whole number: the share has another name in every version
        "warmup_steps": math.ceil(made * config.warmup),
        "max_steps": config.steps,
        "bf16": config.precision == "bf16",
        "seed": config.seed,
        "output_dir": MODEL,
        "logging_steps": 1,
        "save_total_limit": 1,
        "deepspeed": DEEPSPEED if batch.workers > 1 else None,
    }


def _hugging_face(config: Finetune, shared: Mapping[str, Any], batch: Batch) -> dict[str, Any]:
    """The arguments of `transformers`' trainer, which LLaMA-Factory and TRL take."""
    return {
        **shared,
        "model_name_or_path": config.model,
        "model_revision": config.revision,
        "per_device_train_batch_size": batch.micro,
        "num_train_epochs": None if config.steps else config.epochs or 3.0,
        "lr_scheduler_type": SCHEDULES[config.schedule],
        "optim": "adamw_torch",
        "packing": False,
        "save_strategy": "epoch",
        "report_to": "wandb" if config.wandb else "none",
    }


def _recomputes(config: Finetune) -> bool:
    """Whether activations are computed again; other trainers know all or nothing, and nothing of this machine."""
    return config.gradient_checkpointing in ("full", "attention")


Written = tuple[dict[str, Any], dict[str, Any], str]
"""Configuration, other files, command."""


def _axolotl(config: Finetune, shared: Mapping[str, Any], batch: Batch) -> Written:
    lora = config.lora
    all_linear = lora is not None and lora.targets == "all-linear"
    told = {
        **shared,
        "base_model": config.model,
        "revision_of_model": config.revision,
        "reinit_weights": config.from_scratch or None,
        "datasets": [{"path": ROWS, "ds_type": "json", **_axolotl_rows(config)}],
        "dataset_prepared_path": "prepared",
        "val_set_size": 0.0,
        "train_on_inputs": False,
        "chat_template_kwargs": config.chat_template_kwargs or None,
        "sequence_len": config.max_length,
        "excess_length_strategy": "truncate" if config.too_long == "cut" else "drop",
        "sample_packing": False,
        "pad_to_sequence_len": config.pad_to_max,
        "micro_batch_size": batch.micro,
        "num_epochs": None if config.steps else config.epochs or 3.0,
        "optimizer": "adamw_torch",
        "lr_scheduler": SCHEDULES[config.schedule],
        "tf32": False,
        "gradient_checkpointing": _recomputes(config),
        "saves_per_epoch": 1,
        "adapter": lora and "lora",
        "lora_r": lora and lora.rank,
        "lora_alpha": lora and lora.alpha,
        "lora_dropout": lora and lora.dropout,
        "lora_target_linear": all_linear or None,
        "lora_target_modules": None if lora is None or all_linear else list(lora.targets),
        "wandb_project": config.wandb,
    }
    return told, {}, f"accelerate launch --num_processes {batch.workers} -m axolotl.cli.train {CONFIG}"


def _axolotl_rows(config: Finetune) -> dict[str, Any]:
    if config.template == "chat":
        return {
            "type": "chat_template",
            "chat_template": "tokenizer_default",
            "field_messages": "messages",
            "message_field_training": "train",
            "train_on_eos": "turn",
        }
    whole = "{instruction}"  # the prompt stands there as a model is asked it, with all that is around it
    named = {"field_instruction": "prompt", "field_output": "completion", "format": whole, "no_input_format": whole}
    return {"type": {"system_prompt": "", **named}}


def _llama_factory(config: Finetune, shared: Mapping[str, Any], batch: Batch) -> Written:
    lora, is_chat = config.lora, config.template == "chat"
    told = {
        **_hugging_face(config, shared, batch),
        "stage": "sft",
        "do_train": True,
        "train_from_scratch": config.from_scratch or None,
        "finetuning_type": "full" if lora is None else "lora",
        "lora_rank": lora and lora.rank,
        "lora_alpha": lora and lora.alpha,
        "lora_dropout": lora and lora.dropout,
        "lora_target": lora and ("all" if lora.targets == "all-linear" else ",".join(lora.targets)),
        "dataset": "train",
        "dataset_dir": ".",
        "template": None if is_chat else "empty",
        "enable_thinking": config.chat_template_kwargs.get("enable_thinking"),
        "cutoff_len": config.max_length,
        "mask_history": True,
        "overwrite_cache": True,
        "disable_gradient_checkpointing": not _recomputes(config),
    }
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    }
    described = (
        {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
        if is_chat
        else {"columns": {"prompt": "prompt", "response": "completion"}}
    )
    info = {"train": {"file_name": ROWS, **described}}
    start = f"FORCE_TORCHRUN=1 NPROC_PER_NODE={batch.workers} " if batch.workers > 1 else ""
    return told, {"dataset_info.json": info}, f"{start}llamafactory-cli train {CONFIG}"


def _trl(config: Finetune, shared: Mapping[str, Any], batch: Batch) -> Written:
    if config.from_scratch:
        raise UsageError(
            "finetune.with = trl begins from a model's weights, and finetune.from_scratch asks for random ones: take axolotl "
            "or llama-factory, or leave it out"
        )
    lora = config.lora
    told = {
        **_hugging_face(config, shared, batch),
        "dtype": "float32",  # of the weights that are updated; what is computed in says `bf16`
        "datasets": [{"path": "json", "data_files": ROWS}],
        "completion_only_loss": True,
        "max_length": config.max_length,
        "gradient_checkpointing": _recomputes(config),
        "use_peft": None if lora is None else True,
        "lora_r": lora and lora.rank,
        "lora_alpha": lora and lora.alpha,
        "lora_dropout": lora and lora.dropout,
        "lora_target_modules": lora and (["all-linear"] if lora.targets == "all-linear" else list(lora.targets)),
    }
    return told, {}, f"trl sft --config {CONFIG} --num_processes {batch.workers}"


WRITERS: Mapping[str, Callable[[Finetune, Mapping[str, Any], Batch], Written]] = {
    "axolotl": _axolotl,
    "llama-factory": _llama_factory,
    "trl": _trl,
}


def _deepspeed(config: Finetune) -> dict[str, Any]:
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    return {
        **dict.fromkeys(sizes, "auto"),
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": zero(config),
    }


def _common_notes(config: Finetune, made: int, examples: int) -> Iterator[str]:
    ours = Order.of(examples, config.global_batch, config.seed, epochs=config.epochs, steps=config.steps).steps
    yield f"the order of the examples is {config.trainer}'s own, drawn by the same seed"
    if config.warmup:
        yield "the warm-up begins at 0: its first update changes nothing"
    if made != ours:
        yield f"{made:,} updates, as each epoch ends with a smaller one; this package's own training makes {ours:,}"
    if config.workers is None:
        yield f"for one process; for more set finetune.workers, so that an update keeps its {config.global_batch:,} examples"
    if config.packing:
        yield "packing is off: with it an update would no longer have as many examples as are said here"
    if config.weight_decay:
        yield "weights of embeddings decay as well"
    if config.heldout is not None:
        yield "finetune.heldout is not measured there"
    if config.lora is not None:
        yield "what comes out is an adapter: merge it with the model before you name it in finetune.checkpoints"


def _axolotl_notes(config: Finetune) -> Iterator[str]:
    if config.precision == "bf16" and config.lora is None:
        yield "axolotl keeps the weights in bf16 unless DeepSpeed (more than one process) keeps them in float32 besides"


def _llama_factory_notes(config: Finetune) -> Iterator[str]:
    yield "an example longer than max_length loses the ends of its prompt and of its response, in proportion"
    if config.too_long == "drop":
        yield "finetune.too_long = drop: LLaMA-Factory cuts such examples and drops none"
    if lost := sorted(set(config.chat_template_kwargs) - {"enable_thinking"}):
        yield f"finetune.chat_template_kwargs: {', '.join(lost)} cannot be told to LLaMA-Factory"
    if config.template == "chat":
        yield "LLaMA-Factory makes a template of its own out of the model's chat template: compare an example it prints"


def _trl_notes(config: Finetune) -> Iterator[str]:
    if config.too_long == "drop":
        yield "finetune.too_long = drop: TRL cuts such examples and drops none"


NOTES: Mapping[str, Callable[[Finetune], Iterator[str]]] = {
    "axolotl": _axolotl_notes,
    "llama-factory": _llama_factory_notes,
    "trl": _trl_notes,
}
