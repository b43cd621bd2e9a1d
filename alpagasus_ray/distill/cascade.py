"""Which rows a dear judge is asked about when a cheap one points: pure logic of rounds, and what is missed, with an interval.

Two aims. `keepers` looks for the rows that the judge keeps: best first, and the cheap judge is fitted anew after each share of
the rows. `band` judges only the rows around the cut; what lies above is kept and what lies below is left unasked.

A round is a rule over the cheap judge's scores, and fixed before a request of it leaves: whoever goes on after a crash, and
each worker for its own shard, comes to the same rows. A random part, the audit, is always judged and never learned from, so
that it stands for the rows that nobody asked about: it says how many of the judge's choice were missed.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation.intervals import CONFIDENCE, Interval, interval
from alpagasus_ray.selection.draws import Hashes, seeded_hashes

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Kind = Literal["audit", "labels", "best", "band"]
Aim = Literal["keepers", "band"]
RANDOM = ("audit", "labels")
LOWEST = -1e300
"""Stands for no score; JSON has no infinity."""


class Settings(NamedTuple):
    """How much is asked, as shares of all rows unless said otherwise."""

    calls: float
    """All that the dear judge is asked, the audit included."""
    refit: float = 0.1
    """The cheap judge is fitted anew each time that so many more rows are judged."""
    audit: float = 0.02
    labels: int = 1000
    """Rows drawn at random that a first student is fitted on; 0 where the cheap judge learns nothing."""
    seed: int = 0


class End(NamedTuple):
    """The first or last row of a round: its score by the cheap judge, and the number that equal scores are ordered by."""

    score: float
    tie: int


class Round(NamedTuple):
    """Rows not asked about before, from one end to the other in the order of score, highest first."""

    kind: Kind
    rows: int
    first: End
    last: End


class Pool(NamedTuple):
    """One number a row, by its id: the same in every order of reading."""

    draws: Hashes
    """The rows drawn at random are those with the lowest."""
    ties: Hashes
    """The order of rows with equal scores."""


class State(NamedTuple):
    """Where a cascade stands; flags for all rows."""

    audit: Flags
    asked: Flags
    reached: Flags
    """Rows within any round that goes by score: of the audit too, which is asked in any case."""
    accepted: Flags
    """Rows above a band: kept unasked."""


def pool(ids: Sequence[str], seed: int) -> Pool:
    """The numbers of rows with these ids."""
    return Pool(seeded_hashes(ids, "cascade", seed), seeded_hashes(ids, "cascade ties", seed))


def beginning(rows: Pool) -> State:
    """Nothing asked."""
    audit, asked, reached, accepted = (np.zeros(len(rows.draws), dtype=bool) for _ in range(4))
    return State(audit, asked, reached, accepted)


def opening(rows: Pool, settings: Settings) -> list[Round]:
    """The rounds that are drawn at random: the audit, and what the first student is fitted on.

    Raises `UsageError` where the calls do not go far enough.
    """
    count = len(rows.draws)
    audit = max(1, round(settings.audit * count))
    labels = min(settings.labels, max(0, round(settings.refit * count) - audit))
    if audit + labels >= settings.calls * count:
        raise UsageError(
            f"score.cascade: calls = {settings.calls:g} of {count:,} rows is all used up by the {audit:,} rows of the audit "
            f"and {labels:,} first labels; raise `calls`, or rate all rows"
        )
    order = np.argsort(rows.draws, kind="stable")
    ends = [End(0.0, int(rows.draws[place])) for place in order[[0, audit - 1]]]
    rounds = [Round("audit", audit, *ends)]
    if labels:
        ends = [End(0.0, int(rows.draws[place])) for place in order[[audit, audit + labels - 1]]]
        rounds.append(Round("labels", labels, *ends))
    return rounds


def best_round(rows: Pool, state: State, scores: Floats, settings: Settings) -> Round | None:
    """The best rows that were not asked about, up to the next fit or to the end of the calls; None when these are used up."""
    count = len(scores)
    asked = int(state.asked.sum())
    step = max(1, round(settings.refit * count))
    last, goal = round(settings.calls * count), (asked // step + 1) * step
    goal = last if last - goal < step // 10 else goal  # a few more rows are not worth a round of their own
    order = _order(rows, state, scores)[: max(0, goal - asked)]
    return _between("best", order, rows, scores)


def band_round(rows: Pool, state: State, scores: Floats, kept: float, settings: Settings) -> Round | None:
    """The rows around the cut, which lies where the share `kept` of the rows not asked about is above it.

    The band reaches as far up as down, and further down where the top is reached.
    """
    order = _order(rows, state, scores)
    left = min(len(order), max(0, round(settings.calls * len(scores)) - int(state.asked.sum())))
    start = min(max(0, round(kept * len(order)) - left // 2), len(order) - left)
    return _between("band", order[start : start + left], rows, scores)


def _order(rows: Pool, state: State, scores: Floats) -> NDArray[np.int64]:
    order: NDArray[np.int64] = np.lexsort((rows.ties, -_known(scores)))
    return order[~state.asked[order]]


def _between(kind: Kind, order: NDArray[np.int64], rows: Pool, scores: Floats) -> Round | None:
    if not len(order):
        return None
    known = _known(scores)
    return Round(kind, len(order), *(End(float(known[row]), int(rows.ties[row])) for row in order[[0, -1]]))


def _known(scores: Floats) -> Floats:
    """A row that the cheap judge has no score of comes last: it is asked about only where all others are."""
    return np.where(np.isnan(scores), LOWEST, scores)


def advance(rows: Pool, state: State, turn: Round, scores: Floats) -> State:
    """The state after a round; `scores` are those that the round goes by, and are not looked at where it was drawn at random.

    Needs nothing but the rows given, so it may be done for each shard alone.
    """
    if turn.kind in RANDOM:
        no_scores = np.zeros(len(rows.draws))
        members = _from(turn.first, no_scores, rows.draws) & _to(turn.last, no_scores, rows.draws)
        audit = state.audit | members if turn.kind == "audit" else state.audit
        return state._replace(audit=audit, asked=state.asked | members)
    known = _known(scores)
    from_first = _from(turn.first, known, rows.ties)
    within = from_first & _to(turn.last, known, rows.ties)
    if turn.kind == "best":  # all above its first row was asked about before, or is of the audit
        within |= ~from_first
        return state._replace(asked=state.asked | within, reached=state.reached | within)
    above = ~from_first & ~(state.asked & ~state.audit)
    return state._replace(asked=state.asked | within, reached=state.reached | within, accepted=state.accepted | above)


def _from(end: End, scores: Floats, ties: Hashes) -> Flags:
    return np.asarray((scores < end.score) | ((scores == end.score) & (ties >= np.uint64(end.tie))))


def _to(end: End, scores: Floats, ties: Hashes) -> Flags:
    return np.asarray((scores > end.score) | ((scores == end.score) & (ties <= np.uint64(end.tie))))


def learnable(state: State) -> Flags:
    """The rows that a student may be fitted on: all that were judged but the audit."""
    return state.asked & ~state.audit


def kept_share(state: State, keepers: Flags) -> float:
    """Which share of all rows the judge keeps, from those drawn at random. Only before a round that goes by score."""
    return float(keepers[state.asked].mean())


def kept(state: State, keepers: Flags) -> Flags:
    """What the cascade keeps: the judge's own choice among the rows asked about, and rows above a band, unasked."""
    return (state.asked & keepers) | (state.accepted & ~state.asked)


def estimates(state: State, keepers: Flags, scored: Flags) -> dict[str, Interval]:
    """How much of the judge's choice is kept (`recall`, a share of it), and of how many rows the judge would have said
    otherwise (`flips`, a share of all rows), with 95 percent intervals.

    Only flags of rows that were asked about are looked at. The rows of the audit that no round reached are a random sample of
    all rows that were not asked about: what the judge says of them holds for the others, within the limits of Clopper and
    Pearson. Of the audit only `scored` rows count: what the judge would say of one without a score is not known.
    """
    sample = state._replace(audit=state.audit & scored)
    found = int((state.asked & keepers).sum())
    above, below = state.accepted, ~state.accepted & ~state.reached
    # the intervals of two groups hold together as often as one alone does when each leaves out half as much
    confidence = 1 - (1 - CONFIDENCE) / (2 if (above & ~state.asked).any() else 1)
    right, wrong = (_in_group(sample, above, flags, confidence) for flags in (keepers, ~keepers))
    missed = _in_group(sample, below, keepers, confidence)
    recall = [
        _share(found + got, found + got + lost) for got, lost in zip(right, (missed[0], missed[2], missed[1]), strict=True)
    ]
    rows = len(keepers)
    flips = [(bad + lost) / rows for bad, lost in zip(wrong, missed, strict=True)]
    return {"recall": interval(*recall), "flips": interval(*flips)}


def _in_group(state: State, group: Flags, flags: Flags, confidence: float) -> tuple[float, float, float]:
    """How many rows of a group that were not asked about are flagged: estimate, lower and upper limit."""
    from scipy.stats import beta

    unasked = int((group & ~state.asked).sum())
    if not unasked:
        return 0.0, 0.0, 0.0
    sample = int((group & state.audit).sum())
    hits = int((group & state.audit & flags).sum())
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, sample - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, sample - hits)) if hits < sample else 1.0
    value = hits / sample if sample else 0.5
    return value * unasked, low * unasked, high * unasked


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


Refit = Callable[[Flags], Floats]
"""From the rows that may be learned from to the cheap judge's scores of all rows."""


def replay(rows: Pool, keepers: Flags, settings: Settings, refit: Refit, aim: Aim = "keepers") -> list[State]:
    """A whole cascade over verdicts that are there already: the state after each of its rounds."""
    states = [beginning(rows)]
    for turn in opening(rows, settings):
        states.append(advance(rows, states[-1], turn, np.empty(0)))
    share = kept_share(states[-1], keepers)
    while True:
        scores = refit(learnable(states[-1]))
        if aim == "keepers":
            following = best_round(rows, states[-1], scores, settings)
        else:
            following = band_round(rows, states[-1], scores, share, settings)
        if following is None:
            return states[1:]
        states.append(advance(rows, states[-1], following, scores))


def in_words(state: State, keepers: Flags, scored: Flags) -> str:
    """What a cascade came to, in one line."""
    asked, rows = int(state.asked.sum()), len(keepers)
    audit, without = int(state.audit.sum()), int((state.audit & ~scored).sum())
    but = f"; {without:,} of the {audit:,} rows of the audit have no score, and say nothing" if without else ""
    recall, flips = (estimates(state, keepers, scored)[name] for name in ("recall", "flips"))
    return (
        f"asked about {asked:,} of {rows:,} rows ({asked / rows:.0%}); estimated to have found {_interval(recall)} of what the "
        f"judge would keep; the judge would say otherwise of {_interval(flips)} of the rows{but}"
    )


def _interval(share: Interval) -> str:
    return f"{share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%})"


def to_json(rounds: Sequence[Round]) -> str:
    """For `rounds.json`, which is written before the last of the rounds is asked."""
    return json.dumps([turn._asdict() | {"first": turn.first._asdict(), "last": turn.last._asdict()} for turn in rounds])


def from_json(text: str) -> list[Round]:
    """The rounds of a `rounds.json`."""
    entries: list[dict[str, Any]] = json.loads(text)
    return [Round(**(entry | {"first": End(**entry["first"]), "last": End(**entry["last"])})) for entry in entries]
