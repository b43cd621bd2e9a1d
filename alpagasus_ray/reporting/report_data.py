"""All figures of a report as plain JSON values, `report.json`: the page shows nothing that is not in it.

| key | what |
|---|---|
| `title` | heading |
| `settings` | `rule`, `resamples`, `seed` of the statistics |
| `first` | the question and the answer (`answer.py`) |
| `verdicts`, `radars`, `ranking`, `agreement` | what judges and people said (`judged.py`) |
| `objective` | answers beside references: `model`, `arm`, `test_set`, and `evaluation.objective.exact_match` |
| `ratings`, `arms`, `selection` | what was rated and chosen (`selected.py`) |
| `examples` | `rows`, `rejected`, `duplicates`, `source`, `reasons` of what was rejected; null without any |
| `table` | `shown` and `of`: how many examples the page holds, of how many |
| `answers` | `model`, `test_set`, `rows`, `counts`, `reasons`, `mean_length` (`value`, `unit`) |
| `sides` | `shown` and `of`: how many prompts are shown side by side, over all pairs |
| `trainings` | what trainings took, and their curves (`trained.py`) |
| `costs`, `kinds`, `total`, `chain`, `versions`, `stale` | what stages took and came from (`chain.py`) |

Null is what nobody knows, and an empty list what there is none of. Pure; the parts that read a run hand their figures in.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alpagasus_ray.evaluation.exact_match import exact_match
from alpagasus_ray.evaluation.intervals import sign_test
from alpagasus_ray.reporting import headline, questions
from alpagasus_ray.reporting.arms_table import HELDOUT
from alpagasus_ray.reporting.controls import Controls
from alpagasus_ray.reporting.headline import Sides
from alpagasus_ray.reporting.text import mean_answer_length
from alpagasus_ray.store.run import Manifest

Answered = tuple[str, str, str | None, Sequence[Mapping[str, Any]]]
"""Model, test set, arm of the model, rows with `prompt_id`, `reply`, `reference`."""


class Parts(NamedTuple):
    """What the first screen is made of."""

    verdicts: Sequence[Mapping[str, Any]]
    trainings: Sequence[Mapping[str, Any]]
    ratings: Sequence[Mapping[str, Any]]
    answered: Sequence[Answered]
    arm_of: Mapping[str, str]
    """Arm of each model that has one."""
    sizes: Mapping[str, int]
    stale: Sequence[str]
    controls: Controls | None = None
    """The random arms beside the arm."""
    against_controls: Sequence[Mapping[str, Any]] = ()
    """What each judge said of the arm and its controls (`controls.against`)."""


def first(found: Sides, parts: Parts, claim: str | None) -> dict[str, Any]:
    """The first screen; see `answer.py`."""
    main = main_verdict(found, parts)
    pooled = main["groups"]["pooled"][0] if main else None
    by_arm = {entry["arm"]: entry for entry in parts.trainings}
    mine, other = by_arm.get(found.arm), by_arm.get(found.baseline)
    sizes = (parts.sizes.get(found.arm or ""), parts.sizes.get(found.baseline or ""))
    told = headline.ratios(mine, other, sizes)
    asked = questions_of(found, parts)
    badge = questions.weakest(asked)
    rating = next((entry for entry in parts.ratings if entry["main"]), None)
    return {
        "question": questions.badge_question(asked),
        "verdict": badge,
        "word": headline.WORDS[badge],
        "questions": asked,
        "sentence": headline.sentence(found, pooled, parts.sizes),
        "cheaper": headline.cheaper(found, told),
        "arm": {"name": found.arm, "rows": sizes[0]},
        "baseline": {"name": found.baseline, "rows": sizes[1]},
        "judge": main["voter"] if main else None,
        "pooled": pooled,
        "test_sets": main["groups"]["test_sets"] if main else [],
        "others": headline.others(parts.verdicts, main, parts.against_controls),
        "ratios": told,
        "rating_cost": rating and {"name": rating["name"], "seconds": rating["seconds"], "dollars": rating["dollars"]},
        "heldout": _heldout(mine, other),
        "exact": _exact(found, parts),
        "claim": claim,
        "notes": headline.notes(main, parts.verdicts, parts.stale) + _seen_before(mine, other),
    }


def questions_of(found: Sides, parts: Parts) -> list[dict[str, Any]]:
    """Both questions: against the baseline, and against as many at random; see `questions.py`."""
    about = questions.About(parts.sizes, [entry["arm"] for entry in parts.trainings])
    main = main_verdict(found, parts)
    controls = parts.controls
    if found.arm is None or controls is None:
        return [questions.against_one(found, _compared(main), about)]
    by_voter = {entry["voter"]: entry for entry in parts.against_controls}
    judged = by_voter.get(main["voter"] if main else "") or next(iter(parts.against_controls), None)
    at_random = questions.against_random(found.arm, controls, judged, about)
    if found.baseline not in controls.names:
        return [questions.against_one(found, _compared(main), about), at_random]
    whole = Sides(found.arm, questions.FULL)
    if questions.FULL not in parts.sizes:
        return [at_random]
    return [questions.against_one(whole, _compared(main_verdict(whole, parts)), about), at_random]


def _compared(entry: Mapping[str, Any] | None) -> questions.Compared | None:
    return None if entry is None else questions.Compared(entry["voter"], entry["groups"]["pooled"][0])


def main_verdict(found: Sides, parts: Parts) -> Mapping[str, Any] | None:
    """The verdicts that the answer stands on: the first judge's of the two."""
    for entry in parts.verdicts:
        if [parts.arm_of.get(entry[side], entry[side]) for side in ("a", "b")] == [found.arm, found.baseline]:
            return entry
    return None


def _heldout(mine: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> dict[str, Any] | None:
    measured = [entry and entry[HELDOUT] for entry in (mine, other)]
    if not measured[0] or not measured[1]:
        return None
    return {"arm": measured[0], "baseline": measured[1], "difference": round(measured[0]["loss"] - measured[1]["loss"], 5)}


def _seen_before(*sides: Mapping[str, Any] | None) -> list[str]:
    """What makes a held-out loss too low."""
    measured = [(side["arm"], side[HELDOUT].get("in_arm")) for side in sides if side and side[HELDOUT]]
    return [
        f"{count:,} of the held-out examples are in {arm} too: its held-out loss is too low."
        for arm, count in measured
        if count
    ]


def _exact(found: Sides, parts: Parts) -> dict[str, Any] | None:
    """Answers beside references, over the test sets that both models have answered; p is that of a sign test by prompt."""
    sides = [{test_set: rows for _, test_set, arm, rows in parts.answered if arm == name} for name in found]
    both = [test_set for test_set in sides[0] if test_set in sides[1]]
    pairs = [[(row["reply"], row["reference"]) for test_set in both for row in side[test_set]] for side in sides]
    told = [exact_match(side) for side in pairs]
    if not told[0]["prompts"] or not told[1]["prompts"]:
        return None
    right = [{(name, key) for name in both for key in _right(side[name])} for side in sides]
    alone = [len(right[0] - right[1]), len(right[1] - right[0])]
    return {
        "arm": told[0],
        "baseline": told[1],
        "only_arm": alone[0],
        "only_baseline": alone[1],
        "sign_test_p": sign_test(*alone),
    }


def _right(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    return {row["prompt_id"] for row in rows if exact_match([(row["reply"], row["reference"])])["exact"]}


def objective(answered: Sequence[Answered]) -> list[dict[str, Any]]:
    """Of each model and test set with references."""
    told = [
        {"model": model, "arm": arm, "test_set": test_set, **exact_match([(row["reply"], row["reference"]) for row in rows])}
        for model, test_set, arm, rows in answered
    ]
    return [entry for entry in told if entry["prompts"]]


def examples(manifest: Manifest | None) -> dict[str, Any] | None:
    if manifest is None:
        return None
    return {
        "rows": manifest.rows,
        "rejected": manifest.counts.get("rejected", 0),
        "duplicates": manifest.counts.get("duplicates", 0),
        "name": manifest.settings.get("name"),
        "source": manifest.settings.get("source"),
        "reasons": manifest.details.get("reasons", {}),
    }


def answers(manifests: Mapping[tuple[str, str], Manifest]) -> list[dict[str, Any]]:
    return [
        {
            "model": model,
            "test_set": test_set,
            "rows": manifest.rows,
            "counts": manifest.counts,
            "reasons": manifest.details.get("reasons", {}),
            "mean_length": mean_answer_length(manifest.details),
        }
        for (model, test_set), manifest in manifests.items()
    ]
