"""The knobs of `jobs/pick_subset.py`: the sets of examples that are trained on, and which policies there are."""

from typing import Annotated, Literal, NamedTuple

from pydantic import PositiveInt, model_validator

from alpagasus_ray.config.base import OPERATIONAL, Name, OneOf, Section, Share, differ


class PolicyKnobs(NamedTuple):
    """What the knobs of an arm are to a policy; how it chooses is in `selection/policies.py`."""

    by_score: bool = False
    """It chooses by the ratings, which must be there."""
    leads: bool = False
    """Arms that have no size of their own take that of the first arm that leads."""
    k: bool = True
    """It keeps `k` examples."""
    needs_k: bool = False
    threshold: bool = False
    floors: bool = False
    words: str = ""
    """How it chooses, for reports: a format of `by` (the score it goes by), `size`, `threshold` and `seed`. Without it reports
    name the policy."""
    takes_duplicates: bool = False
    """Exact duplicates take part whatever `pick.duplicates` says."""

    @property
    def copies_size(self) -> bool:
        """Without a `k` it takes as many as the arm that leads."""
        return self.k and not self.needs_k


POLICIES: dict[str, PolicyKnobs] = {
    "threshold": PolicyKnobs(
        by_score=True, leads=True, k=False, threshold=True, floors=True, words="{by} of at least {threshold:g}"
    ),
    "top": PolicyKnobs(by_score=True, leads=True, needs_k=True, floors=True, words="the {size} with the highest {by}"),
    "random": PolicyKnobs(words="drawn at random, {size} (seed {seed})"),
    "longest": PolicyKnobs(words="the longest outputs, {size}"),
    "lowest": PolicyKnobs(by_score=True, words="the lowest {by}, {size}"),
    "full": PolicyKnobs(k=False, takes_duplicates=True, words="everything"),
}
"""The policies that an arm can name."""


def _those(knob: str) -> str:
    """The policies that take a knob, for messages."""
    names = [f"`{name}`" for name, takes in POLICIES.items() if getattr(takes, knob)]
    return f"{' and '.join(names)} {'do' if len(names) > 1 else 'does'}"


class Arm(Section):
    """One set of examples to train on."""

    stated = frozenset({"name", "policy", "threshold", "k", "seed", "floors"})

    name: Name
    """Directory under `subsets/`."""
    policy: Annotated[str, OneOf(POLICIES)]
    """`threshold`: score >= threshold; `top`: the k best; controls of the same size: `random`, `longest` (output),
    `lowest` (score); `full`: everything."""
    by: Literal["score", "expected"] = "score"
    """What `threshold`, `top`, `lowest` and `floors` go by: the score, ties broken by the expected score where the judge told
    it; or the expected score itself."""
    threshold: float | None = None
    """For `threshold`: the lowest score to keep; 4.5 unless given (AlpaGasus, equation 1)."""
    out_of: float | None = None
    """For `threshold`, on a scale that does not end at 5: the end of the scale that it is meant on, so that `4.5` out of 10 is
    not taken for the paper's 4.5 out of 5."""
    k: PositiveInt | None = None
    """How many to keep; `top` needs it, the controls take the size of the first `threshold` or `top` arm without it."""
    seed: int = 0
    """Decides ties and random draws; the same on every machine."""
    floors: dict[str, PositiveInt] = {}
    """For `threshold` and `top`: keep at least so many of a category, best first, e.g. `{coding: 500}`."""

    @property
    def traits(self) -> PolicyKnobs:
        """What its policy makes of the knobs."""
        return POLICIES[self.policy]

    @model_validator(mode="after")
    def _fits_policy(self) -> "Arm":
        takes = self.traits
        if takes.needs_k and self.k is None:
            raise ValueError(f"policy `{self.policy}` needs `k`: how many to keep")
        for knob in ("threshold", "out_of"):
            if getattr(self, knob) is not None and not takes.threshold:
                raise ValueError(f"policy `{self.policy}` takes no `{knob}`; only {_those('threshold')}")
        if self.k is not None and not takes.k:
            raise ValueError(f"policy `{self.policy}` takes no `k`; use `top` for a fixed size")
        if self.floors and not takes.floors:
            raise ValueError(f"policy `{self.policy}` takes no `floors`; only {_those('floors')}")
        if self.by == "expected" and not takes.by_score:
            raise ValueError(f"policy `{self.policy}` does not go by a score; leave `by` out")
        if sum(self.floors.values()) > (self.k or float("inf")):
            raise ValueError(f"`floors` add up to {sum(self.floors.values())}, more than k = {self.k}")
        return self


class Pick(Section):
    """`jobs/pick_subset.py`: choose the arms of the experiment."""

    ratings: Name = "judge"
    """Which ratings to choose by: the `score.name` they were made under."""
    max_unscored: Annotated[Share, OPERATIONAL] = 0.01
    """Refuse when a larger share of the rows has no score."""
    arms: tuple[Arm, ...] = (Arm(name="selected", policy="threshold", threshold=4.5), Arm(name="random", policy="random"))
    """The sets to write."""
    tokenizer: str | None = None
    """Hugging Face tokenizer (id or directory) to count tokens and measure lengths with; without one the report estimates
    tokens, and lengths are measured in characters."""
    duplicates: Literal["keep", "drop"] = "drop"
    """Exact duplicates of an earlier example (same instruction, input, output, system and history): `drop` them from every arm
    but `full`, which is everything, or `keep` them."""

    @model_validator(mode="after")
    def _names_differ(self) -> "Pick":
        differ("arms", [arm.name for arm in self.arms])
        return self
