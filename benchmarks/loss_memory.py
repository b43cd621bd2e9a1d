"""Memory at the peak of the loss of many tokens over a large vocabulary, and its gradients.

    python benchmarks/loss_memory.py whole|pieces TOKENS VOCABULARY WIDTH [BYTES OF A PIECE]

Prints JSON: `peak`, the most bytes of this process beside hidden states, the output layer and the gradients of both, which
either way has to have; `seconds`; `loss`, and the norms of both gradients. On the CPU, in float32, one thread.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear

from alpagasus_ray.training import head


def most() -> int:
    """The most memory that this process has had since it was last reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measured(way: str, tokens: int, vocabulary: int, width: int, piece: int | None = None) -> dict[str, Any]:
    """One forward and one backward pass."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width).requires_grad_()
    weight = (torch.randn(vocabulary, width) / width**0.5).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,))
    needed = [torch.ones_like(weight), torch.ones_like(hidden)]  # what the gradients will take
    (linear(hidden[:2], weight[:8]).sum() * 0).backward()  # type: ignore[no-untyped-call]
    weight.grad = hidden.grad = None
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = most()
    del needed
    started = time.monotonic()
    if way == "pieces":
        loss = head.in_pieces(hidden, weight, None, targets, piece).sum()
    else:
        loss = cross_entropy(linear(hidden, weight).float(), targets, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]
    norms = [float(part.grad.norm()) for part in (weight, hidden) if part.grad is not None]
    return {"peak": most() - before, "seconds": time.monotonic() - started, "loss": loss.item(), "norms": norms}


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], *map(int, sys.argv[2:]))))
