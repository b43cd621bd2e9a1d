"""Whether a judge may stand in for a person: the alternative annotator test (Calderon, Reichart, Dror, arXiv 2501.10970). Pure.

Each person is left out once. On the items that she and others marked, she and the judge are each measured against the
others; the judge keeps an item where it fits them at least as well as she does, and she keeps it where she fits at least as
well. A one-sided t test asks whether she keeps by less than `epsilon` more items than the judge: what the judge saves is
worth that much to the user. The paper suggests 0.2 where the people are experts and 0.1 where they are a crowd. The p values
of all people are corrected as Benjamini and Yekutieli (2001) do, since the tests share their marks.

`omega` is the share of people whom the judge may replace (it passes from 0.5 on), `rho` the mean share of items it keeps.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from alpagasus_ray.evaluation.estimates import Estimate, Floats, estimate
from alpagasus_ray.evaluation.intervals import rounded, tails

EXPERTS, CROWD = 0.2, 0.1
LEAST_OMEGA = 0.5
FEWEST_PEOPLE = 3
FEWEST_ITEMS = 30
"""Items of one person below which a t test is not to be trusted; she is left out of the test and counted."""
SIGNIFICANCE = 0.05
RESAMPLES = 2_000

Marks = Mapping[Any, Any]
"""A mark for each item, by anything that names one."""
Fit = Literal["equal", "near"]
"""`equal`: the share of others with the same mark. `near`: minus the root mean squared distance to the others' marks."""


class Kept(NamedTuple):
    """For one person, over the items that she shares with others and the judge: 1 where she, or the judge, keeps the item."""

    voter: str
    items: tuple[Hashable, ...]
    by_judge: Floats
    by_person: Floats


def alternative_annotator(
    people: Mapping[str, Marks], judge: Marks, fit: Fit = "equal", epsilon: float = EXPERTS, seed: int = 0
) -> dict[str, Any]:
    """The test's outcome: `passes`, `omega`, `rho` with an interval that draws items anew, and each person's own figures.

    `passes` is None, with `why_not`, where there are fewer than three people with 30 items each.
    """
    kept = [_kept(voter, people, judge, fit) for voter in sorted(people)]
    enough = [one for one in kept if len(one.items) >= FEWEST_ITEMS]
    settings = {"epsilon": epsilon, "fit": fit, "left_out": [one.voter for one in kept if len(one.items) < FEWEST_ITEMS]}
    if len(enough) < FEWEST_PEOPLE:
        why_not = f"{len(enough)} people marked {FEWEST_ITEMS} items or more together with others; it needs {FEWEST_PEOPLE}"
        return {"passes": None, "why_not": why_not, "omega": estimate(len(enough), None), "rho": estimate(0, None), **settings}
    p_values = [_p_value(one, epsilon) for one in enough]
    rejected = _rejected(p_values)
    omega = float(np.mean(rejected))
    return {
        "passes": omega >= LEAST_OMEGA,
        "why_not": None,
        "omega": estimate(len(enough), omega),
        "rho": _rho(enough, seed),
        **settings,
        "people": [
            {
                "voter": one.voter,
                "items": len(one.items),
                "judge_keeps": rounded(float(one.by_judge.mean())),
                "person_keeps": rounded(float(one.by_person.mean())),
                "p": rounded(p),
                "replaceable": bool(can),
            }
            for one, p, can in zip(enough, p_values, rejected, strict=True)
        ],
    }


def _kept(voter: str, people: Mapping[str, Marks], judge: Marks, fit: Fit) -> Kept:
    own = people[voter]
    items, by_judge, by_person = [], [], []
    for item, mark in own.items():
        others = [marks[item] for name, marks in people.items() if name != voter and item in marks]
        if others and item in judge:
            judges, hers = _fit(judge[item], others, fit), _fit(mark, others, fit)
            items.append(item)
            by_judge.append(float(judges >= hers))
            by_person.append(float(hers >= judges))
    return Kept(voter, tuple(items), np.array(by_judge), np.array(by_person))


def _fit(mark: Any, others: Sequence[Any], fit: Fit) -> float:
    if fit == "equal":
        return float(np.mean([mark == other for other in others]))
    return -float(np.sqrt(np.mean([(mark - other) ** 2 for other in others])))


def _p_value(kept: Kept, epsilon: float) -> float:
    """Of the hypothesis that the person keeps at least epsilon more items than the judge."""
    from scipy.stats import ttest_1samp

    ahead = kept.by_person - kept.by_judge
    if np.ptp(ahead) == 0:  # no variance, no t: the answer is plain
        return 0.0 if ahead[0] < epsilon else 1.0
    return float(ttest_1samp(ahead, epsilon, alternative="less").pvalue)


def _rejected(p_values: Sequence[float]) -> list[bool]:
    from scipy.stats import false_discovery_control

    return [bool(p <= SIGNIFICANCE) for p in false_discovery_control(p_values, method="by")]


def _rho(kept: Sequence[Kept], seed: int) -> Estimate:
    """Mean over people of the share of items that the judge keeps; an item is drawn anew with the marks of everybody."""
    row = {item: number for number, item in enumerate(dict.fromkeys(item for one in kept for item in one.items))}
    shares, known = np.zeros((len(row), len(kept))), np.zeros((len(row), len(kept)))
    for column, one in enumerate(kept):
        rows = [row[item] for item in one.items]
        shares[rows, column], known[rows, column] = one.by_judge, 1
    value = float((shares.sum(axis=0) / known.sum(axis=0)).mean())
    if shares.sum() in (0, known.sum()):
        return estimate(len(row), value)
    weights = np.random.default_rng(seed).multinomial(len(row), np.full(len(row), 1 / len(row)), size=RESAMPLES)
    with np.errstate(invalid="ignore"):
        drawn = np.nanmean((weights @ shares) / (weights @ known), axis=1)
    return estimate(len(row), value, *map(float, np.quantile(drawn, tails())))
