"""The knobs of `jobs/pick_subset.py`: the sets of examples that are trained on, and which policies there are."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, PositiveInt, model_validator

from alpagasus_ray.config.base import OPERATIONAL, Name, OneOf, Section, Share, differ
from alpagasus_ray.config.cascade import Part
from alpagasus_ray.config.stages import TestSet


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
    share: Part | None = None
    """How many to keep, as a share of the examples that are left after duplicates and `pick.clean`, in place of `k`."""
    tokens: PositiveInt | None = None
    """The most tokens to keep, as counted by `pick.tokenizer`, beside or in place of `k`: the first examples that it holds."""
    shares: dict[str, Share] = {}
    """What part of `k`, `share` or `tokens` goes to a category, e.g. `{coding: 0.3}`; the rest goes to all others."""
    shares_of: Literal["category", "source"] = "category"
    """Whether `shares` names categories, or files that the examples came from (their names without folders)."""
    per: Literal["category", "source"] | None = None
    """For `top`: `k` or `share` is how many to keep of each category, or of each file that the examples came from."""
    thresholds: dict[str, float] = {}
    """For `threshold`: a cut of its own for a category, e.g. `{math: 4}`."""
    spread: Literal["clusters", "apart"] | None = None
    """For `top`: `clusters` takes the best of each cluster of similar examples, as many as its share of all examples; `apart`
    leaves out what is too near a better one that is kept."""
    apart: Annotated[float, Field(gt=0, le=1)] = 0.9
    """For `spread: apart`: from which cosine on two examples are too near."""
    seed: int = 0
    """Decides ties and random draws; the same on every machine."""
    floors: dict[str, PositiveInt] = {}
    """For `threshold` and `top`: keep at least so many of a category, best first, e.g. `{coding: 500}`."""

    @property
    def traits(self) -> PolicyKnobs:
        """What its policy makes of the knobs."""
        return POLICIES[self.policy]

    @property
    def has_size(self) -> bool:
        """Whether it says itself how much it takes."""
        return not self.k is self.share is self.tokens is None

    @property
    def is_budgeted(self) -> bool:
        """Whether its size is more than a number of rows, or it is to be spread: `selection/budgeted.py` chooses."""
        return bool(self.share or self.tokens or self.shares or self.per or self.thresholds or self.spread)

    def _check_size(self) -> None:
        """Knobs of size and spread that do not go together."""
        if self.k is not None and self.share is not None:
            raise ValueError("`k` and `share` both say how many to keep; give one of them")
        if self.thresholds and self.policy != "threshold":
            raise ValueError(f"policy `{self.policy}` takes no `thresholds`; only `threshold` does")
        if self.spread and self.policy != "top":
            raise ValueError(f"policy `{self.policy}` takes no `spread`; only `top` does")
        if self.per and (self.policy != "top" or self.tokens or self.shares or self.spread):
            raise ValueError("`per` goes with policy `top` and `k` or `share` alone")
        if self.spread and self.shares:
            raise ValueError("`spread` and `shares` both divide what is kept; give one of them")
        if self.is_budgeted and (self.floors or self.by == "expected"):
            raise ValueError("`floors` and `by: expected` go with a number of rows, `k`, or one threshold alone")
        if sum(self.shares.values()) > 1 + 1e-9:
            raise ValueError(f"`shares` add up to {sum(self.shares.values()):g}, more than 1")

    @model_validator(mode="after")
    def _fits_policy(self) -> "Arm":
        takes = self.traits
        if takes.needs_k and not self.has_size:
            raise ValueError(f"policy `{self.policy}` needs `k`: how many to keep; or `share` or `tokens`")
        for knob in ("threshold", "out_of"):
            if getattr(self, knob) is not None and not takes.threshold:
                raise ValueError(f"policy `{self.policy}` takes no `{knob}`; only {_those('threshold')}")
        for knob in ("k", "share", "tokens", "shares"):
            if getattr(self, knob) and not takes.k:
                raise ValueError(f"policy `{self.policy}` takes no `{knob}`; use `top` for a fixed size")
        self._check_size()
        if self.floors and not takes.floors:
            raise ValueError(f"policy `{self.policy}` takes no `floors`; only {_those('floors')}")
        if self.by == "expected" and not takes.by_score:
            raise ValueError(f"policy `{self.policy}` does not go by a score; leave `by` out")
        if sum(self.floors.values()) > (self.k or float("inf")):
            raise ValueError(f"`floors` add up to {sum(self.floors.values())}, more than k = {self.k}")
        return self


class Clean(Section):
    """What is taken out before anything is chosen."""

    tests: tuple[TestSet, ...] | None = None
    """Test sets whose prompts and references no arm may hold; by default those of `generate.test_sets`."""
    near: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Leave out examples that repeat a better rated one so nearly, e.g. `0.8` (the share of their three-word sequences that
    they have in common); not from `full`."""


CHOSEN = "selected"
"""The arm that a recipe has by default, and that the short switches make."""
CONTROL = {"name": "random", "policy": "random"}
"""As many as that, drawn at random."""


class Pick(Section):
    """`jobs/pick_subset.py`: choose the arms of the experiment."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        "top": "`alpagasus pick RUN --top 1000`, or an arm of pick.arms: {name: selected, policy: top, k: 1000}",
        "k": "`alpagasus pick RUN --top 1000`, or an arm of pick.arms: {name: selected, policy: top, k: 1000}",
        "share": "`alpagasus pick RUN --share 0.1`, or an arm of pick.arms: {name: selected, policy: top, share: 0.1}",
        "threshold": "`alpagasus pick RUN --threshold 4.5`, or an arm of pick.arms: {name: selected, policy: threshold}",
    }

    ratings: Name = "judge"
    """Which ratings to choose by: the `score.name` they were made under."""
    max_unscored: Annotated[Share, OPERATIONAL] = 0.01
    """Refuse when a larger share of the rows has no score."""
    arms: tuple[Arm, ...] = (Arm(name=CHOSEN, policy="threshold", threshold=4.5), Arm.model_validate(CONTROL))
    """Sets to write, by policy: threshold, top, random, longest, lowest, full; by default `selected`, with 4.5 or more, and
    `random`, as many."""
    tokenizer: str | None = None
    """Hugging Face tokenizer (id or directory) to count tokens and measure lengths with; without one the report estimates
    tokens, and lengths are measured in characters."""
    duplicates: Literal["keep", "drop"] = "drop"
    """Exact duplicates of an earlier example (same instruction, input, output, system and history): `drop` them from every arm
    but `full`, which is everything, or `keep` them."""

    clean: Clean | None = None
    """Take out examples that hold what the models will be tested on, and near repeats; `{}` looks for the test sets alone."""
    vectors: Annotated[str, OPERATIONAL] = "words"
    """What `spread` and the figures of an arm's breadth go by: `words`, the examples' own; `none` leaves the figures out; or a
    file of vectors that you have made: Parquet with `example_id` and `vector`, or .npz with `ids` and `vectors`."""

    @model_validator(mode="after")
    def _names_differ(self) -> "Pick":
        differ("arms", [arm.name for arm in self.arms])
        return self
