"""The baseline: `transformers.Trainer` on the same examples in the same order, one process, no Ray, no DeepSpeed.

    python benchmarks/bare_trainer.py FILE

FILE is JSON: `model` (a directory without weights), `examples` (lists of ids, with how many of the first carry no loss),
`micro_batch`, `accumulation`, `steps`, `learning_rate`, `seed`, `threads`, `folder`. Prints JSON: seconds of all
updates, `cpu` seconds of them, the loss of each.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

IGNORED = -100


class Clock(TrainerCallback):
    """Seconds of all updates, by the wall and by the CPU."""

    def __init__(self) -> None:
        self.seconds = self.cpu = 0.0

    def on_train_begin(self, *_given: Any, **_told: Any) -> None:
        self.seconds, self.cpu = -time.monotonic(), -time.process_time()

    def on_train_end(self, *_given: Any, **_told: Any) -> None:
        self.seconds += time.monotonic()
        self.cpu += time.process_time()


def padded(examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows padded to the longest, as every recipe's collator does it."""
    ids = [torch.tensor(example["ids"]) for example in examples]
    labels = [row.clone() for row in ids]
    for row, example in zip(labels, examples, strict=True):
        row[: example["prompt"]] = IGNORED
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=0),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def trained(asked: dict[str, Any]) -> dict[str, Any]:
    """Train from random weights by the seed."""
    torch.set_num_threads(asked["threads"])
    torch.manual_seed(asked["seed"])
    shape = AutoConfig.from_pretrained(asked["model"])
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.config.use_cache = False
    clock = Clock()
    arguments = TrainingArguments(
        output_dir=asked["folder"],
        per_device_train_batch_size=asked["micro_batch"],
        gradient_accumulation_steps=asked["accumulation"],
        max_steps=asked["steps"],
        learning_rate=asked["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=0,
        optim="adamw_torch",
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=asked["examples"], data_collator=padded, callbacks=[clock])
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": clock.seconds, "cpu": clock.cpu, "losses": losses}


if __name__ == "__main__":
    print(json.dumps(trained(json.loads(Path(sys.argv[1]).read_text()))))
