"""What a proxy answers to prompts that are held out: greedy, in the process that has trained it."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from alpagasus_ray.training import behaviour
from alpagasus_ray.training.model import Loaded
from alpagasus_ray.training.token_files import Tokens

AT_ONCE = 8
"""Prompts that are answered together."""


class Answering(NamedTuple):
    """What is answered, and how."""

    prompts: int
    """The first so many held-out rows."""
    longest: int
    """Tokens of the longest answer."""


def answers(
    loaded: Loaded, heldout: pa.RecordBatch, how: Answering, ends: Iterable[int], device: torch.device
) -> tuple[str, ...]:
    """(prompts,) the texts; `heldout` is of schema TOKENS, and `ends` are the tokens after which an answer is whole."""
    tokens, found = Tokens([heldout]), list[str]()
    prompts = [
        torch.from_numpy(tokens.ids(row)[: int(tokens.prompt_tokens[row])].astype("int64")) for row in range(how.prompts)
    ]
    pad = loaded.tokenizer.pad_token_id
    stops = sorted(ends) or [loaded.tokenizer.eos_token_id]
    was_training = bool(loaded.model.training)
    loaded.model.eval()
    # packs have an attention of their own, which knows no cache
    with behaviour.own_attention(loaded), torch.no_grad():
        for start in range(0, len(prompts), AT_ONCE):
            some = prompts[start : start + AT_ONCE]
            inputs = _padded(some, pad, device)
            made: Any = loaded.model.generate(
                **inputs, max_new_tokens=how.longest, do_sample=False, use_cache=True, eos_token_id=stops, pad_token_id=pad
            )
            found += loaded.tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    loaded.model.train(was_training)
    return tuple(text.strip() for text in found)


def _padded(prompts: list[torch.Tensor], pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Filled up on the left, so that all answers begin at one place."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
