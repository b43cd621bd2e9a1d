"""Rate an instruction dataset with an LLM judge, keep the best of it, finetune on it and show whether that was right."""

from typing import TYPE_CHECKING, Any

from alpagasus_ray.version import __version__

if TYPE_CHECKING:
    from alpagasus_ray.api import Histogram, Rated, Rater, Run, Scorer, Selection, rate, scorer

__all__ = ["Histogram", "Rated", "Rater", "Run", "Scorer", "Selection", "__version__", "rate", "scorer"]


def __getattr__(name: str) -> Any:
    """The Python interface, loaded when it is first used: to import the package takes no time."""
    if name in __all__:
        from alpagasus_ray import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
