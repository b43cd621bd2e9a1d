"""What comes back from a ballot: read with every check there is, counted, and told. Pure: text and the key in, values out.

A file of votes is one JSON object a line. Each line's `chain` is the SHA-256 of the chain before it (the ballot's hash before
the first), a line break and the line without its chain: a line that was changed, moved or taken out does not fit. It guards
against accidents and idle edits; whoever writes a program to compute new chains can still lie about her own votes.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from alpagasus_ray.errors import InputError
from alpagasus_ray.evaluation.agreement import VOTES, Vote, agreement
from alpagasus_ray.evaluation.corrected_rates import POINTS_OF, win_rates
from alpagasus_ray.evaluation.estimates import Estimate, Floats, Integers, alpha, jackknife, mean, proportion
from alpagasus_ray.evaluation.intervals import Counts, scores, sign_test
from alpagasus_ray.evaluation.judge_agreement import majority, voters
from alpagasus_ray.evaluation.match_rules import Winner
from alpagasus_ray.people.assign import NEAR_ROW, Kind
from alpagasus_ray.people.ballot import choices_of

CHAINED = re.compile(r'^(?P<body>\{.*),"chain":"(?P<chain>[0-9a-f]{64})"\}$')
MOST_OF_A_GARBLED = 0.4
"""How far up the scale a score may lie that counts as having seen a garbled answer for what it is, where examples are rated."""
SIDES: Mapping[int, Winner] = {0: "a", 1: "b"}
RESAMPLES = 10_000


class Cast(NamedTuple):
    """One vote that was cast: on which item of the key, how it was shown, and what was said, a and b being the models.

    `said` is `a`, `b` or `tie`, or a score where single examples are rated; of a check, `a` is the answer that is not garbled.
    """

    voter: str
    slot: str
    item: int
    kind: Kind
    said: Any
    shown_first: int
    seconds: float | None = None
    grounds: tuple[str, ...] = ()
    comment: str = ""


def read_votes(text: str, key: Mapping[str, Any], file: str = "votes") -> list[Cast]:
    """The votes of one exported file, complete or not. Raises InputError with the line for a file of another ballot, a voter or
    slot that the ballot has not, a slot voted twice, an unknown choice, and lines that were changed, moved or taken out."""
    # `splitlines` would also end a line at signs that a comment may hold, such as U+2028
    lines = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    chain, votes, seen = str(key["ballot"]), [], set()
    for number, line in enumerate(lines, start=1):
        place = f"line {number}"
        match = CHAINED.match(line)
        if match is None:
            raise InputError(file, place, "this is no vote of a ballot; give the file that `Export votes` wrote, unchanged")
        body = orjson.loads(match["body"] + "}")
        if body.get("ballot") != key["ballot"]:
            raise InputError(file, place, f"these are votes of another ballot ({str(body.get('ballot'))[:12]}…)")
        chain = hashlib.sha256(f"{chain}\n{match['body']}}}".encode()).hexdigest()
        if chain != match["chain"] or (body.get("line"), body.get("of")) != (number, len(lines)):
            raise InputError(file, place, "the file was changed since it was exported; ask for the export again")
        if body["slot"] in seen:
            raise InputError(file, place, f"there are two votes on slot {body['slot']!r}")
        seen.add(body["slot"])
        votes.append(cast(body, key, file, place))
    return votes


def cast(vote: Mapping[str, Any], key: Mapping[str, Any], file: str, place: str, layout: str | None = None) -> Cast:
    """A vote as the key reads it. `layout`: whose slots they are, where all voters were shown the same."""
    voter, choice = str(vote["voter"]), str(vote["choice"])
    slots = key["voters"].get(layout or voter)
    if slots is None:
        raise InputError(file, place, f"the ballot has no voter {voter!r}; its voters are {', '.join(key['voters'])}")
    slot = next((one for one in slots if one["slot"] == vote["slot"]), None)
    if slot is None:
        raise InputError(file, place, f"the ballot shows {voter!r} no slot {vote['slot']!r}")
    if choice not in choices_of(key):
        raise InputError(file, place, f"the choice is {choice!r}; it can be {', '.join(choices_of(key))}")
    item = key["items"][slot["item"]]
    a_first = slot["first"] == item["a_is"]
    said: Any = float(choice) if key["form"] == "rate" else _side(choice, a_first=a_first)
    extras = vote.get("seconds"), tuple(vote.get("grounds") or ()), str(vote.get("comment") or "")
    return Cast(voter, str(slot["slot"]), slot["item"], slot["kind"], said, 0 if a_first else 1, *extras)


def _side(choice: str, *, a_first: bool) -> Winner:
    if choice == "neither":
        return "tie"
    return "a" if (choice == "first") == a_first else "b"


def together(files: Mapping[str, Sequence[Cast]]) -> list[Cast]:
    """The votes of several files. Raises InputError where one voter has two of them that say different things."""
    votes: dict[tuple[str, str], Cast] = {}
    for file, cast_votes in files.items():
        for vote in cast_votes:
            if votes.setdefault((vote.voter, vote.slot), vote).said != vote.said:
                raise InputError(
                    file, f"slot {vote.slot}", f"{vote.voter!r} voted otherwise in another file; give only the last"
                )
    return list(votes.values())


def rows(votes: Iterable[Cast], key: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The votes on real items, once each, in the columns that `report.votes` reads; of ratings, those of a gold file."""
    main = [(vote, key["items"][vote.item]) for vote in votes if vote.kind == "main"]
    if key["form"] == "rate":
        most = float(choices_of(key)[-1])
        return [
            {
                "example_id": item["item_id"],
                "voter": vote.voter,
                "score": vote.said,
                "out_of": most,
                "drawn": item.get("drawn", NEAR_ROW),  # ballots of earlier versions do not say it: no sample, then
            }
            for vote, item in main
        ]
    return [
        {
            "prompt_id": item["item_id"],
            "test_set": item["test_set"],
            "a": key["a"],
            "b": key["b"],
            "voter": vote.voter,
            "vote": vote.said,
            "grounds": ", ".join(vote.grounds),
            "comment": vote.comment,
            "seconds": vote.seconds,
        }
        for vote, item in main
    ]


def voter_reports(votes: Sequence[Cast], key: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each voter: how much is done, whether she agrees with herself on the hidden repeats, whether she saw the checks, which
    side she prefers and how long she took. A repeat whose first showing has no vote counts for nothing."""
    return [_report(voter, [vote for vote in votes if vote.voter == voter], key) for voter in sorted({v.voter for v in votes})]


def _report(voter: str, votes: Sequence[Cast], key: Mapping[str, Any]) -> dict[str, Any]:
    first = {vote.item: vote.said for vote in votes if vote.kind == "main"}
    repeats = [(vote.said, first[vote.item]) for vote in votes if vote.kind == "repeat" and vote.item in first]
    checks = [vote for vote in votes if vote.kind == "check"]
    shown = key["voters"].get(voter) or next(iter(key["voters"].values()))
    sided = [vote for vote in votes if vote.kind != "check" and vote.said in SIDES.values()]
    took_first = sum((vote.said == "a") == (vote.shown_first == 0) for vote in sided)
    return {
        "voter": voter,
        "votes": len(votes),
        "missing": len(shown) - len(votes),
        "self_consistency": proportion(sum(one == other for one, other in repeats), len(repeats)),
        "checks_passed": proportion(sum(_saw(vote, choices_of(key)) for vote in checks), len(checks)),
        "first_side": proportion(took_first, len(sided)),
        "seconds_per_item": mean([np.nan if vote.seconds is None else vote.seconds for vote in votes]),
    }


def _saw(check: Cast, choices: Sequence[str]) -> bool:
    if isinstance(check.said, str):
        return check.said == "a"
    least, most = float(choices[0]), float(choices[-1])
    return bool(check.said <= least + MOST_OF_A_GARBLED * (most - least))


def tally(votes: Iterable[Vote]) -> dict[str, Any]:
    """Outcomes by the majority of each item, from a's side; items without one are counted apart, never as a tie.

    `split` are items of which no vote has more than half, as where three people say three things; `single` those with one vote,
    which is its own majority. `winning_score` and `sign_test_p` are of the items with a majority.
    """
    by_item: defaultdict[str, list[Winner]] = defaultdict(list)
    for item, _, vote in votes:
        by_item[item].append(vote)
    most = Counter(majority(given) or "split" for given in by_item.values())
    counts = Counts(most["a"], most["tie"], most["b"])
    winning_score, win_rate = scores(counts, RESAMPLES, 0)
    return {
        "items": len(by_item),
        **counts._asdict(),
        "split": most["split"],
        "single": sum(len(given) == 1 for given in by_item.values()),
        "winning_score": {**winning_score, "n": sum(counts)},
        "win_rate": {**win_rate, "n": sum(counts)},
        "sign_test_p": sign_test(counts.win, counts.lose),
    }


def people_report(votes: Sequence[Vote], judge: Mapping[str, Winner] | None = None) -> dict[str, Any]:
    """What people said of a pair: the tally and how far they agree with each other; beside the judge's verdicts, where there
    are any (by item, as in `Vote`), also how far it agrees with them and the win rate that both together give."""
    found: dict[str, Any] = {
        "tally": tally(votes),
        "agreement": agreement(votes),
        "fleiss": fleiss(votes),
        "alpha": alpha(_table(votes), "nominal"),
        "judge": None,
        "rates": win_rates({}, _points(votes)),
    }
    if judge is not None:
        found["judge"] = voters(judge, votes)
        found["judge_tally"] = tally([Vote(item, "judge", verdict) for item, verdict in judge.items()])
        found["rates"] = win_rates({item: POINTS_OF[verdict] for item, verdict in judge.items()}, _points(votes))
    return found


def _points(votes: Sequence[Vote]) -> dict[str, float]:
    by_item: defaultdict[str, list[float]] = defaultdict(list)
    for item, _, vote in votes:
        by_item[item].append(POINTS_OF[vote])
    return {item: float(np.mean(points)) for item, points in by_item.items()}


def _table(votes: Sequence[Vote]) -> Floats:
    """Votes as numbers, (items, voters), NaN where there is none."""
    if not votes:
        return np.empty((0, 0))
    items, people = (
        {name: i for i, name in enumerate(dict.fromkeys(names))} for names in zip(*[v[:2] for v in votes], strict=True)
    )
    table = np.full((len(items), len(people)), np.nan)
    for item, voter, vote in votes:
        table[items[item], people[voter]] = VOTES.index(vote)
    return table


def fleiss(votes: Sequence[Vote]) -> Estimate:
    """Fleiss' kappa (1971) over the items with the most frequent number of votes, with a jackknife interval over items."""
    if not votes:
        return proportion(0, 0)
    table = _table(votes)
    counts = np.stack([(table == code).sum(axis=1) for code in range(len(VOTES))], axis=1)
    sizes = Counter(int(size) for size in counts.sum(axis=1) if size > 1)
    size = max(sizes, key=lambda each: (sizes[each], each), default=0)
    patterns, times = np.unique(counts[counts.sum(axis=1) == size], axis=0, return_counts=True)
    if not size or (patterns.sum(axis=0) > 0).sum() < 2:
        return proportion(0, 0)

    def statistic(weights: Integers) -> Floats:
        total = weights.sum(axis=1)
        agreeing = weights @ ((patterns**2).sum(axis=1) - size) / (total * size * (size - 1))
        chance = ((weights @ patterns / (total * size)[:, None]) ** 2).sum(axis=1)
        kappa = np.divide(agreeing - chance, 1 - chance, out=np.full(len(total), np.nan), where=chance < 1)
        return np.asarray(kappa[:, None])

    (result,) = jackknife(statistic, times)
    return result
