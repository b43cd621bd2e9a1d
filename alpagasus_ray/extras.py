"""What an extra of the package brings (`pip install 'alpagasus-ray[train]'`), and how it is told that it is missing.

The core asks servers, chooses, compares and reports; models in the job and training need more. Imports none of it.
"""

from collections.abc import Mapping
from importlib.util import find_spec

from alpagasus_ray.errors import UsageError

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "train": ("torch", "transformers", "deepspeed", "peft", "tensorboardX"),
    "vllm": ("vllm", "transformers"),
    "bench": ("lm_eval",),
}
"""The modules that each extra brings and its work imports; versions are in pyproject.toml."""


def missing(extra: str) -> list[str]:
    """The modules of an extra that are not installed here."""
    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def require(extra: str, what: str) -> None:
    """Raise a `UsageError` where a module of an extra is not installed here; `what` is what needs it."""
    if names := missing(extra):
        raise UsageError(f"{what} needs {' and '.join(names)}, not installed here: {advice(extra)}")


def advice(extra: str) -> str:
    """How an extra is installed."""
    return f"pip install 'alpagasus-ray[{extra}]' (in a checkout: make install, for GPUs make install EXTRA=gpu)"
