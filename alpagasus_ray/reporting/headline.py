"""The question of a report and its answer, in words and numbers: what the first screen says. Pure.

`first`: `question`; `verdict` (`shown`, `reversed`, `not shown`, `no data`) and `word` (the same in a word) of the badge,
which is the weakest answer of `questions`: against the baseline, and against as many at random (`questions.py`); `sentence`
(what the answer against the baseline stands on); `cheaper` (for how much less, or null); `arm` and `baseline` (`name`, `rows`);
`judge`; `pooled` (statistics of the pair over all test sets, or null) and `test_sets`; `others` (the other pairs and judges,
each with `a`, `b`, `voter`, counts, `winning_score`, `verdict`; arms that differ by their seed are one); `ratios` (`what`,
`arm`, `baseline`, `times`: how many times as much the baseline took); `rating_cost` (`seconds`, `dollars`); `heldout` and
`exact` (of both, or null); `claim`; `notes`.

| word | what it needs |
|---|---|
| Yes | the 95% interval and the exact sign test exclude parity, and at least 80% of the prompts are judged |
| No, the other way round | the same, on the other side of parity |
| Not shown | anything less; of the badge also: one of the two answers is missing or not shown |
| No data | nothing is judged |
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from alpagasus_ray.errors import UsageError

PARITY = 1.0
LARGEST_P = 0.05
"""Of the exact test; the interval has the confidence that goes with it."""
LEAST_JUDGED = 0.8
"""Share of the prompts below which those that have a verdict may be another kind of prompts."""
SHOWN, REVERSED, NOT_SHOWN, NO_DATA = "shown", "reversed", "not shown", "no data"
RATIOS = {
    "examples": "training examples",
    "steps": "updates",
    "tokens": "training tokens",
    "training_minutes": "minutes of training",
    "minutes": "minutes in all",
    "dollars": "dollars",
}
IN_THE_ANSWER = {
    "examples": ("examples", "as many examples"),
    "training_minutes": ("training time", "as much training time"),
    "dollars": ("money", "as much money"),
}
WORDS = {SHOWN: "Yes", REVERSED: "No, the other way round", NOT_SHOWN: "Not shown", NO_DATA: "No data"}
COUNTS = ("prompts", "judged", "win", "tie", "lose", "no_verdict")


class Sides(NamedTuple):
    """Whom the question is about."""

    arm: str | None
    baseline: str | None


class Known(NamedTuple):
    """The names that a question can be about."""

    sizes: Mapping[str, int]
    """Rows of each arm, in the order of the experiment."""
    models: Sequence[str]
    pairs: Sequence[tuple[str, str]]
    """Models that were compared, by arm where they have one."""


def sides(arm: str | None, baseline: str | None, known: Known) -> Sides:
    """The arm and the baseline: as the recipe says, else the first arm against `full` or the largest, compared ones first.
    Raises `UsageError` for a name that the run does not have."""
    names = list(dict.fromkeys([*known.sizes, *known.models, *(name for pair in known.pairs for name in pair)]))
    for key, value in (("arm", arm), ("baseline", baseline)):
        if value is not None and value not in names:
            there = f"it has {', '.join(names)}" if names else "it has no arm or model yet"
            raise UsageError(f"report.{key} is {value!r}, which this run does not have; {there}")
    arm = arm or _first(known)
    return Sides(arm, baseline or _opponent(arm, known, names))


def _first(known: Known) -> str | None:
    compared = [pair for pair in known.pairs if pair[0] != pair[1]] or list(known.pairs)
    among = {name for pair in compared for name in pair}
    of_the_run = next(iter(known.sizes), None)
    return compared[0][0] if compared and of_the_run not in among else of_the_run or next(iter(known.models), None)


def _opponent(arm: str | None, known: Known, names: Iterable[str]) -> str | None:
    met = [name for pair in known.pairs if arm in pair for name in pair if name != arm]
    for others in (met, [name for name in known.sizes if name != arm]):
        if others:
            return "full" if "full" in others else max(others, key=lambda name: known.sizes.get(name, 0))
    return next((name for name in names if name != arm), arm if (arm, arm) in known.pairs else None)


def verdict(entry: Mapping[str, Any] | None) -> str:
    """What the statistics of a pair (`evaluation.statistics.summarize`, or `seeds.combined`) allow to say."""
    if entry is None or entry["winning_score"]["value"] is None:
        return NO_DATA
    if doubts(entry):
        return NOT_SHOWN
    return SHOWN if entry["winning_score"]["value"] > PARITY else REVERSED


def doubts(entry: Mapping[str, Any]) -> list[str]:
    """Why a difference is not shown; empty where it is."""
    found, low, high = [], entry["winning_score"]["low"], entry["winning_score"]["high"]
    what = "comparisons" if entry.get("seeds", 1) > 1 else "prompts"
    whole = entry[what]
    if entry["judged"] < LEAST_JUDGED * whole:
        found.append(f"only {entry['judged']:,} of {whole:,} {what} are judged, and {LEAST_JUDGED:.0%} have to be")
    p = entry["sign_test_p"]
    if low is None or high is None:
        found.append("all prompts went the same way, which leaves no interval to go by")
    elif low <= PARITY <= high:
        found.append("the interval includes parity")
    elif p is None or p >= LARGEST_P:
        found.append(f"the interval excludes parity, the exact sign test does not (p {'no data' if p is None else f'{p:.3f}'})")
    return found


def question(found: Sides, sizes: Mapping[str, int]) -> str:
    if found.arm is None:
        return "What is in this run?"
    if found.baseline is None:
        return f"Is {found.arm} worth training on?"
    if found.arm not in sizes or found.baseline not in sizes:
        return f"Does {found.arm} beat {found.baseline}?"
    mine, other = sizes[found.arm], sizes[found.baseline]
    against = f"all {other:,}" if found.baseline == "full" else f"the {other:,} of {found.baseline}"
    return f"Does training on the {mine:,} {found.arm} examples beat training on {against}?"


def sentence(found: Sides, entry: Mapping[str, Any] | None, sizes: Mapping[str, int]) -> str:
    """The numbers that the answer stands on, and what they allow to say."""
    if found.arm is None or found.baseline is None:
        return "There is nothing to compare yet; jobs/run_all.py makes all of an experiment."
    if entry is None:
        return f"No verdicts compare {found.arm} with {found.baseline}; jobs/compare.py makes them."
    if not entry["judged"]:
        return f"Of {entry['prompts']:,} prompts none has a verdict in both orders; jobs/compare.py --retry-failed asks again."
    mine, other = (f"the model trained on {name}" if name in sizes else str(name) for name in found)
    wins = f"{mine[0].upper()}{mine[1:]} wins {entry['win']:,} of {entry['judged']:,} prompts against {other}"
    counts = f"{wins}, ties {entry['tie']:,} and loses {entry['lose']:,}"
    return f"{counts}: a winning score of {_certain(entry)}"


def of_seeds(arm: str, entry: Mapping[str, Any]) -> str:
    """The sentence of an arm against several controls that differ by their seed."""
    return (
        f"The model trained on {arm} wins {entry['win']:,} of {entry['judged']:,} comparisons against those trained on "
        f"{entry['seeds']} random draws, ties {entry['tie']:,} and loses {entry['lose']:,}: a mean winning score of "
        f"{_certain(entry)} By seed from {entry['least']:.3f} to {entry['most']:.3f}."
    )


def _certain(entry: Mapping[str, Any]) -> str:
    score, why = entry["winning_score"], "; ".join(doubts(entry))
    interval = "" if score["low"] is None else f" (95%: {score['low']:.3f} to {score['high']:.3f}; parity is 1)"
    return f"{score['value']:.3f}{interval}." + (f" {why[0].upper()}{why[1:]}: a difference is not shown." if why else "")


def ratios(mine: Mapping[str, Any] | None, other: Mapping[str, Any] | None, sizes: tuple[int | None, int | None]) -> list[Any]:
    """How many times as much the baseline took; where nothing was trained, of examples alone."""
    if not mine or not other:
        mine, other = {"examples": sizes[0]}, {"examples": sizes[1]}
    found = []
    for key, what in RATIOS.items():
        here, there = mine.get(key), other.get(key)
        if here is not None and there is not None:
            times = round(there / here, 4) if here else None
            found.append({"key": key, "what": what, "arm": here, "baseline": there, "times": times})
    return found


def cheaper(found: Sides, told: Iterable[Mapping[str, Any]]) -> str | None:
    """For how much less, in a sentence."""
    known = {entry["key"]: times(entry["times"]) for entry in told if entry["times"] is not None}
    words = [
        alike if known[key] == "1" else f"{known[key]} times the {what}"
        for key, (what, alike) in IN_THE_ANSWER.items()
        if key in known
    ]
    if not words or found.baseline is None:
        return None
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    return f"Training on {found.baseline} took {listed}."


def times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def others(
    told: Iterable[Mapping[str, Any]], main: Mapping[str, Any] | None, seeds: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """The pairs and judges beside the main one; `seeds` are the controls (`controls.against`), told as one where there are
    several."""
    several = [entry for entry in seeds if len(entry["pairs"]) > 1]
    as_one = {(entry["voter"], *pair) for entry in several for pair in entry["pairs"]}
    found = [
        (entry, entry["groups"]["pooled"][0])
        for entry in told
        if entry is not main and (entry["voter"], entry["a"], entry["b"]) not in as_one
    ]
    return [
        {
            **{name: entry[name] for name in ("a", "b", "voter")},
            **{name: pooled[name] for name in (*COUNTS, "winning_score")},
            "verdict": verdict(pooled),
        }
        for entry, pooled in [*found, *((entry, entry["pooled"]) for entry in several)]
    ]


def notes(main: Mapping[str, Any] | None, told: Iterable[Mapping[str, Any]], stale: Sequence[str]) -> list[str]:
    """What a reader of the answer has to know."""
    found = []
    if main and main["label"] == "rules":
        found.append("Judged by mechanical rules, a baseline: no language model read the answers.")
    alone = dict.fromkeys(entry["a"] for entry in told if entry["same_model"])
    found += [f"{a} is compared with itself: what differs from a tie there is the judge's doing." for a in alone]
    missing = main["groups"]["pooled"][0]["no_verdict"] if main else 0
    if missing:
        who = (
            "1 prompt has no verdict in both orders and counts"
            if missing == 1
            else f"{missing:,} prompts have no verdict in both orders and count"
        )
        found.append(f"{who} for nobody.")
    if stale:
        more = f", and {len(stale) - 1:,} more of the kind" if len(stale) > 1 else ""
        found.append(f"{stale[0]}{more}: what is told here is not all of what the run now holds.")
    return found
