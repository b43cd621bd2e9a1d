"""Whether voters, people and judges, see the same winners: from rows of votes to kappas and alpha. Pure; knows no files.

An item is one comparison: a prompt with two models' answers. All measures are nominal over the votes a, b and tie, and
None where they are undefined: without common items, or where only one of the three was ever voted.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple, get_args

import numpy as np

from alpagasus_ray.errors import InputError, UsageError
from alpagasus_ray.evaluation.intervals import rounded, share
from alpagasus_ray.evaluation.match_rules import Winner

VOTES: tuple[Winner, ...] = get_args(Winner)
MEANINGS: Mapping[str, Winner] = {"a": "a", "win": "a", "b": "b", "lose": "b", "tie": "tie"}
TURNED: Mapping[Winner, Winner] = {"a": "b", "b": "a", "tie": "tie"}
ID_KEYS, VOTER_KEYS = ("prompt_id", "question_id"), ("voter", "annotator")


class Comparison(NamedTuple):
    """A prompt with the answers of two models, a and b as the pair was told to judges and voters (`compare.pairs`)."""

    prompt_id: str
    test_set: str
    a: str
    b: str

    @property
    def item(self) -> str:
        """Name of what was judged, the same for every voter who saw these two answers."""
        return f"{self.test_set}/{self.prompt_id}: {self.a} vs {self.b}"

    @property
    def canonical(self) -> "Comparison":
        """The same, its models in the order of the alphabet: one for each two models, whichever was told first."""
        a, b = sorted((self.a, self.b))
        return self._replace(a=a, b=b)


class Vote(NamedTuple):
    """What one voter said of one item; a and b are the models of its `Comparison`."""

    item: str
    voter: str
    vote: Winner


def read_votes(rows: Iterable[Mapping[str, Any]], comparisons: Iterable[Comparison], file: str = "votes") -> list[Vote]:
    """The votes that the rows of a file hold on these comparisons, each from the side of its comparison's a.

    A row has `prompt_id` (or `question_id`; without the test set's name before it will do), `voter` (or `annotator`) and
    `vote`: `a`, `b`, `tie`, `win` or `lose` of a, or a model's name. It needs `test_set`, or `a` and `b`, where the rest
    would fit several comparisons. `a` and `b` are those of the row where it names them, else those of the pair as it was
    told; where one judge was told the pair in one order and another in the other, a row has to name its models. Raises
    InputError with the file, the row, counted from 1, and its value, for a row that fits none or several, or has no such vote.
    """
    known = _by_id(comparisons)
    votes = []
    for number, row in enumerate(rows, start=1):
        try:
            fit = _comparisons(row, known)
            voter, (about, said) = _needed(row, *VOTER_KEYS), _said(row, fit)
            votes.append(Vote(about.item, voter, said))
        except UsageError as reason:
            raise InputError(file, f"row {number}", str(reason)) from None
    return votes


def in_one_order(votes: Iterable[Vote], comparisons: Iterable[Comparison]) -> list[Vote]:
    """The votes from one side, whichever model a voter was told first: those on the same two answers become comparable."""
    told = {comparison.item: comparison for comparison in comparisons}
    return [
        Vote(about.canonical.item, voter, said if about.canonical == about else TURNED[said])
        for about, voter, said in ((told[item], voter, said) for item, voter, said in votes)
    ]


def agreement(votes: Sequence[Vote]) -> dict[str, Any]:
    """How far the voters agree: two by two, and all together. Raises UsageError if one voted twice on an item.

    `pairs` holds Cohen's kappa (1960) and the raw share of equal votes for each two voters over their common items;
    `fleiss` the kappa of Fleiss (1971) over the items with the most frequent number of votes from 2 on, since it needs equal
    numbers; `krippendorff` the nominal alpha (Krippendorff, 2011) over all items with 2 or more votes.
    """
    by_item: defaultdict[str, dict[str, Winner]] = defaultdict(dict)
    for item, voter, vote in votes:
        if voter in by_item[item]:
            raise UsageError(f"votes: {voter!r} has two votes on {item!r}; keep one of them")
        by_item[item][voter] = vote
    voters = sorted({vote.voter for vote in votes})
    ballots = list(by_item.values())
    return {
        "items": len(ballots),
        "votes": len(votes),
        "voters": voters,
        "pairs": [pair for x, y in combinations(voters, 2) if (pair := _pair(x, y, ballots))],
        "fleiss": _fleiss(ballots),
        "krippendorff": _krippendorff(ballots),
    }


def _pair(x: str, y: str, ballots: Sequence[Mapping[str, Winner]]) -> dict[str, Any] | None:
    """Agreement of two voters, or None if they have no item in common."""
    from sklearn.metrics import cohen_kappa_score

    common = [(ballot[x], ballot[y]) for ballot in ballots if x in ballot and y in ballot]
    if not common:
        return None
    defined = len({vote for both in common for vote in both}) > 1
    kappa = float(cohen_kappa_score(*zip(*common, strict=True))) if defined else None
    equal = share(sum(one == other for one, other in common), len(common))
    return {"voters": [x, y], "items": len(common), "agreement": equal, "kappa": rounded(kappa)}


def _fleiss(ballots: Sequence[Mapping[str, Winner]]) -> dict[str, Any]:
    from statsmodels.stats.inter_rater import fleiss_kappa

    sizes = Counter(len(ballot) for ballot in ballots if len(ballot) > 1)
    size = max(sizes, key=lambda votes: (sizes[votes], votes), default=None)
    table = _table([ballot for ballot in ballots if len(ballot) == size])
    kappa = float(fleiss_kappa(table)) if _defined(table) else None
    return {"kappa": rounded(kappa), "items": len(table), "votes_per_item": size}


def _krippendorff(ballots: Sequence[Mapping[str, Winner]]) -> dict[str, Any]:
    import krippendorff

    table = _table([ballot for ballot in ballots if len(ballot) > 1])
    alpha = float(krippendorff.alpha(value_counts=table, level_of_measurement="nominal")) if _defined(table) else None
    return {"alpha": rounded(alpha), "items": len(table)}


def _table(ballots: Sequence[Mapping[str, Winner]]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """How often each item was given each of the votes, (items, 3)."""
    counts = [[list(ballot.values()).count(vote) for vote in VOTES] for ballot in ballots]
    return np.array(counts, dtype=np.int64).reshape(-1, len(VOTES))


def _defined(table: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> bool:
    """Whether there is anything to disagree about: two different votes somewhere."""
    return int((table.sum(axis=0) > 0).sum()) > 1


def _by_id(comparisons: Iterable[Comparison]) -> Mapping[str, list[Comparison]]:
    """The comparisons on each prompt id, and on the number in one that begins with its test set's name."""
    known: defaultdict[str, list[Comparison]] = defaultdict(list)
    for comparison in dict.fromkeys(comparisons):
        full = comparison.prompt_id
        for name in {full, full.removeprefix(f"{comparison.test_set}-")}:
            known[name].append(comparison)
    return known


def _comparisons(row: Mapping[str, Any], known: Mapping[str, list[Comparison]]) -> list[Comparison]:
    """The one comparison that the row can be about; both where two judges were told the same pair in two orders."""
    prompt_id = _needed(row, *ID_KEYS)
    test_set, a, b = (_text(row, key) for key in ("test_set", "a", "b"))
    found = [
        comparison
        for comparison in known.get(prompt_id, ())
        if test_set in ("", comparison.test_set) and (not (a or b) or {a, b} == {comparison.a, comparison.b})
    ]
    if len({comparison.canonical for comparison in found}) == 1:
        return found
    told = ", ".join(f"{key} {value!r}" for key, value in (("test_set", test_set), ("a", a), ("b", b)) if value)
    asked = f"prompt {prompt_id!r}" + (f" with {told}" if told else "")
    if not found:
        raise UsageError(f"no comparison of this run is on {asked}; correct the row or leave it out")
    fit = "; ".join(dict.fromkeys(comparison.item for comparison in found[:3]))
    raise UsageError(f"{asked} fits {len(found)} comparisons ({fit}); add `test_set`, or `a` and `b`")


def _said(row: Mapping[str, Any], fit: Sequence[Comparison]) -> tuple[Comparison, Winner]:
    """A vote, and the comparison whose a and b it is about."""
    written, a, b = _needed(row, "vote"), _text(row, "a"), _text(row, "b")
    meant = [(about, said) for about in fit for said in _meanings(written, about._replace(a=a, b=b) if a else about)]
    found = [(about, TURNED[said] if a == about.b != about.a else said) for about, said in meant]
    if not found:
        models = f"{fit[0].a} or {fit[0].b}"
        raise UsageError(f"the vote is {written!r}; write a, b, tie, win, lose, or the better model: {models}")
    better = {(about.a, about.b, "tie")[VOTES.index(said)] for about, said in found}
    if len(better) > 1:
        raise UsageError(
            f"the vote {written!r} can mean {' or '.join(sorted(better))}; write the better model, or add `a` and `b` and "
            "write win, lose or tie of a"
        )
    return found[0]


def _meanings(written: str, about: Comparison) -> set[Winner]:
    """All that a vote can mean: the model of this name, and one of the words for a side. They differ where models are called
    `a`, `b` or `tie`."""
    named: dict[str, Winner] = {about.b: "b", about.a: "a"}
    words = (named.get(written), MEANINGS.get(written.lower()))
    return {meant for meant in words if meant is not None}


def _needed(row: Mapping[str, Any], *keys: str) -> str:
    """The text under the first of the keys that has one."""
    found = next((text for key in keys if (text := _text(row, key))), "")
    if not found:
        raise UsageError(f"no {' or '.join(f'`{key}`' for key in keys)}; the row has {', '.join(row)}")
    return found


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value).strip()
