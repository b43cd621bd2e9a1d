"""The two questions of a report, side by side: is the arm better than all, and better than as many at random? Pure.

A list of one or two entries: `key` (`baseline`, `random`), `against` (whom, in words), `question`, `verdict` and `word`
(`answer.py`), `sentence` (what it stands on), `behind` (how many prompts and training seeds), `baseline` (`name`, `arms`,
`rows`), `judge`, `pooled` (statistics, or null) and `seeds` (`arm`, `baseline`: how many trainings, null where none are known).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alpagasus_ray.reporting import headline
from alpagasus_ray.reporting.controls import Controls
from alpagasus_ray.reporting.headline import Sides

FULL = "full"


class Compared(NamedTuple):
    """Verdicts that a question is answered by."""

    voter: str
    pooled: Mapping[str, Any]


class About(NamedTuple):
    """What is known of the arms."""

    sizes: Mapping[str, int]
    trained: Sequence[str]
    """Arms with a model of this run, a training each."""


def against_one(sides: Sides, found: Compared | None, about: About) -> dict[str, Any]:
    """The question about the arm and one other."""
    pooled = found and found.pooled
    name, rows = sides.baseline, about.sizes.get(sides.baseline or "")
    whom = f"all {rows:,}" if name == FULL and rows is not None else name or "another arm"
    return {
        "key": "baseline",
        "against": whom,
        "question": headline.question(sides, about.sizes),
        **_answered(headline.sentence(sides, pooled, about.sizes), found),
        "baseline": {"name": name, "arms": [name] if name else [], "rows": rows},
        **_behind(sides.arm, name, [name] if name else [], found, about),
    }


def against_random(arm: str, controls: Controls, found: Mapping[str, Any] | None, about: About) -> dict[str, Any]:
    """The question whether the choice matters, and not the size alone; `found` is an entry of `controls.against`."""
    compared = None if found is None else Compared(found["voter"], found["pooled"])
    told = controls if found is None else Controls(tuple(found["arms"]))
    name = told.label if told.names else None
    return {
        "key": "random",
        "against": "as many at random",
        "question": f"Does training on the {about.sizes[arm]:,} {arm} examples beat training on as many drawn at random?",
        **_answered(_sentence(arm, controls, compared, about, name), compared),
        "baseline": {"name": name, "arms": list(told.names), "rows": about.sizes.get(told.names[0]) if told.names else None},
        **_behind(arm, name, told.names, compared, about),
    }


def badge_question(told: Sequence[Mapping[str, Any]]) -> str:
    """What the badge answers."""
    question = str(told[0]["question"])
    if len(told) == 1 or not told[0]["baseline"]["arms"]:
        return question
    return f"{question.removesuffix('?')}, and training on as many drawn at random?"


def weakest(told: Sequence[Mapping[str, Any]]) -> str:
    """What all answers together allow to say: no more than the weakest of them, and an answer that is missing shows nothing."""
    found = {entry["verdict"] for entry in told}
    if headline.REVERSED in found:
        return headline.REVERSED
    if found <= {headline.NO_DATA}:
        return headline.NO_DATA
    return headline.SHOWN if found == {headline.SHOWN} else headline.NOT_SHOWN


def summary(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """The answers in sentences: whom against, the word, what it stands on and what is behind it."""
    if len(told) == 1:
        return [" ".join(part for part in (told[0]["sentence"], told[0]["behind"]) if part)]
    return [
        " ".join(part for part in (f"Against {entry['against']}: {entry['word']}.", entry["sentence"], entry["behind"]) if part)
        for entry in told
    ]


def _answered(sentence: str, found: Compared | None) -> dict[str, Any]:
    verdict = headline.verdict(found and found.pooled)
    return {
        "verdict": verdict,
        "word": headline.WORDS[verdict],
        "sentence": sentence,
        "judge": found.voter if found else None,
        "pooled": found and found.pooled,
    }


def _sentence(arm: str, controls: Controls, found: Compared | None, about: About, name: str | None) -> str:
    if not controls.names:
        others = f" ({', '.join(controls.other_sizes)}: of another size)" if controls.other_sizes else ""
        return (
            f"This run has no arm of as many examples at random{others}: whether the choice matters, or its size alone, is not "
            f"known. `pick.arms` with {{name: random, policy: random}} draws one."
        )
    if found is None:
        return headline.sentence(Sides(arm, " or ".join(controls.names)), None, about.sizes)
    if found.pooled["seeds"] == 1 or not found.pooled["judged"]:
        return headline.sentence(Sides(arm, name), found.pooled, about.sizes)
    return headline.of_seeds(arm, found.pooled)


def _behind(
    arm: str | None, name: str | None, baselines: Sequence[str], found: Compared | None, about: About
) -> dict[str, Any]:
    """How many prompts and training seeds an answer stands on."""
    trained = sum(one in about.trained for one in baselines)
    seeds = {"arm": int(arm in about.trained) or None, "baseline": trained or None}
    if found is None:
        return {"seeds": seeds, "behind": ""}
    return {"seeds": seeds, "behind": f"Behind it: {_prompts(found.pooled)}; {_seeds(arm, name, seeds)}."}


def _prompts(pooled: Mapping[str, Any]) -> str:
    if pooled.get("seeds", 1) > 1:
        return f"{pooled['prompts']:,} prompts, {pooled['judged']:,} of {pooled['comparisons']:,} comparisons judged"
    return f"{pooled['judged']:,} of {pooled['prompts']:,} prompts judged"


def _seeds(arm: str | None, name: str | None, seeds: Mapping[str, int | None]) -> str:
    mine, other = seeds["arm"], seeds["baseline"]
    if mine is None or other is None:
        return "of how many training seeds is not known, as not both were trained in this run"
    words = f"{mine} training seed of {arm} and {other} of {name}"
    return f"{words}: what another seed would change is not known" if other == 1 else words
