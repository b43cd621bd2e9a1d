"""Make the tiny model of the quickstart again, byte for byte: the shape of a Llama without weights, and a tokenizer of its own.

    python examples/tiny_model/make.py

The tokenizer is a byte-level BPE of 2,048 tokens, learned from the sample dataset and the demo's prompts, so that it knows
every text. It learns nothing useful in a minute of training; it shows every step of the way.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
TEXTS = (HERE.parent / "sample/examples.jsonl", HERE.parent / "test_set/prompts.jsonl")
BEGIN, END = "<s>", "</s>"
VOCABULARY = 2048
SHAPE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "dtype": "float32",
}
TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": BEGIN,
    "eos_token": END,
    "model_max_length": SHAPE["max_position_embeddings"],
    "clean_up_tokenization_spaces": False,
}


def main(folder: Path = HERE) -> None:
    """Write the files of the model."""
    for name, content in (("config", SHAPE), ("tokenizer_config", TOKENIZER), ("generation_config", _generation())):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "tokenizer.json").write_text(tokenizer().to_str(pretty=False) + "\n")


def _generation() -> dict[str, Any]:
    return {name: SHAPE[name] for name in ("bos_token_id", "eos_token_id")}


def tokenizer() -> Tokenizer:
    """The tokenizer, learned anew."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    found.train_from_iterator(_texts(), trainer)
    found.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    return found


def _texts() -> Iterator[str]:
    for file in TEXTS:
        for line in file.read_text(encoding="utf-8").splitlines():
            yield from (value for value in json.loads(line).values() if isinstance(value, str))


if __name__ == "__main__":
    main()
    sys.stdout.write(f"wrote {HERE}\n")
