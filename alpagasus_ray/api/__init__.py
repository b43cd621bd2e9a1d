"""The Python interface: rate examples with a judge, look at the ratings, pick the best, and take the records along.

    import alpagasus_ray as ag
    rated = ag.rate(rows, judge="gpt-4o-mini", max_cost_usd=5)
    best = rated.pick(top=1000)
    best.to_jsonl("best.jsonl")

It is the code of the jobs: the same worker, ledger, limits, retries and cap. By default `rate` does everything in this
process, and no Ray is started. `Run` is the command's verbs as methods, `Rater` a step of somebody's own Ray Data pipeline,
`scorer` makes a column of one's own that `pick` can go by.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alpagasus_ray.api.rated import Histogram, Rated, Selection
    from alpagasus_ray.api.rater import Rater
    from alpagasus_ray.api.rating import rate
    from alpagasus_ray.api.run import Run
    from alpagasus_ray.api.scorers import Scorer, scorer

__all__ = ["Histogram", "Rated", "Rater", "Run", "Scorer", "Selection", "rate", "scorer"]
PLACES = {"Rater": "rater", "rate": "rating", "Run": "run", "Scorer": "scorers", "scorer": "scorers"}
"""The modules of what is not in `rated`."""


def __getattr__(name: str) -> Any:
    """Each part is loaded when it is first used: a call of `rate` does not wait for the jobs of `Run`."""
    if name in __all__:
        return getattr(import_module(f"{__name__}.{PLACES.get(name, 'rated')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
