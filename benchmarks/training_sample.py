"""What the benchmarks of trainings share: a Llama with random weights, examples drawn from Alpaca, processes to compare.

The tokenizer is made of Alpaca's own rows, so large that an example has about as many tokens as with LLaMA's: what is padding,
and what packing saves, depends on the lengths.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alpagasus_ray.config import Arm, Finetune, Pick
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import Run
from alpagasus_ray.training.token_files import Tokens, encode_arm
from measure import ROOT, copy_examples

LOOP = ROOT / "benchmarks/loop_alone.py"
TRAINER = ROOT / "benchmarks/bare_trainer.py"
ARM = "sample"
EXAMPLES = 4_000
"""How many are drawn."""
VOCABULARY = 12_000
"""Entries of the tokenizer; with so many an example has about 126 tokens."""
THREADS = 1
"""Of every process that is compared: several wait for each other wherever another program has taken a core."""
TOO_LARGE = ("OutOfMemoryError", "does not fit")
"""What is said when a model is too large: by PyTorch, and before a weight is loaded by `devices.check`."""
Shape = Mapping[str, int]


class OutOfMemory(Exception):
    """The model is too large for the GPU."""


class Sample(NamedTuple):
    """What is trained on, and what is trained."""

    run: Run
    model: str
    tokens: Tokens

    def about(self) -> str:
        """Its examples in words."""
        lengths = self.tokens.lengths
        return f"Alpaca's rows ({lengths.mean():.0f} tokens on average, 99% have at most {np.percentile(lengths, 99):.0f})"

    def config(self, **changes: Any) -> Finetune:
        """A training of it; by default one that this machine's CPUs can do."""
        told = {"model": self.model, "from_scratch": True, "global_batch": 32, "precision": "float32", "tensorboard": False}
        return Finetune.model_validate({**told, "workers": 1, "gpu": False, "cpus": THREADS, **changes})

    def alone(self, configs: Mapping[str, Finetune], updates: int, *, on_gpu: bool = False) -> dict[str, Any]:
        """Updates of the training loop in one process of its own, in turns; `loop_alone.py` says what comes back."""
        asked = {"run": self.run.storage.root, "arm": ARM, "updates": updates, "on_gpu": on_gpu, "threads": THREADS}
        sections = {name: config.model_dump(mode="json", exclude_unset=True) for name, config in configs.items()}
        return process(LOOP, {**asked, "configs": sections}, Path(self.run.storage.root) / "loop.json")


def drawn(run: Run, folder: Path, shape: Shape) -> Sample:
    """A run in `folder` with some of the examples of another, encoded."""
    made = copy_examples(run, folder)
    (subset,) = pick_subset(Pick(arms=(Arm(name=ARM, policy="random", k=EXAMPLES),)), made)
    model = str(folder / "model")
    _tokenizer(run).save_pretrained(model)
    write_shape(model, shape)
    manifest = encode_arm(Finetune(model=model), made.subset(ARM), subset, made.tokens(ARM))
    return Sample(made, model, Tokens.open(made.tokens(ARM), manifest))


def write_shape(model: str, shape: Shape) -> None:
    """The config.json of a Llama; it needs no weights, which are random."""
    from transformers import LlamaConfig

    told: dict[str, Any] = {"vocab_size": VOCABULARY, "max_position_embeddings": 2048, **shape}
    LlamaConfig(**told, pad_token_id=0, bos_token_id=1, eos_token_id=2).save_pretrained(model)


def _tokenizer(run: Run) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    marks = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    told: dict[str, Any] = {"special_tokens": marks, "initial_alphabet": alphabet, "show_progress": False}
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(_texts(run), trainers.BpeTrainer(vocab_size=VOCABULARY, **told))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = dict(zip(("pad_token", "bos_token", "eos_token"), marks, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **named)  # type: ignore[no-untyped-call]


def _texts(run: Run) -> Iterator[str]:
    examples, fields = run.examples(), ["instruction", "input", "output"]
    for shard in examples.tables(examples.finished(), fields):
        for row in shard.to_pylist():
            yield "\n".join(row.values())


def process(script: Path, asked: Mapping[str, Any], file: Path, *, nice: int = 0) -> dict[str, Any]:
    """What a script answers that is told something by a file."""
    file.write_text(json.dumps(asked))
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    command = ["nice", "-n", str(nice), sys.executable, str(script), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode and any(sign in done.stderr for sign in TOO_LARGE):
        raise OutOfMemory
    assert done.returncode == 0, done.stderr[-3000:]
    loaded: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return loaded
