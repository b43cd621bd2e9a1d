"""What the games of two models say, in plain JSON values: pure functions from matches to numbers.

Everything is told from a's side, and of the judged prompts alone: those on which both orders have a verdict, so that each
model stood first equally often. A number that there is nothing to compute from is None, never 0. Knows nothing of judges,
files or pages; models of more than one pair are ranked in `ranking.py`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from alpagasus_ray.evaluation.intervals import Counts, rounded, scores, share, sign_test
from alpagasus_ray.evaluation.length_control import length_report
from alpagasus_ray.evaluation.match_rules import SIGNS, Games, Match, Outcome, Rule, decide, played

GROUP_RESAMPLES = 2_000
"""Draws for a group, where fewer prompts make the interval wide anyway."""
SCORE_RATIO = (
    "a's mean score over b's mean score in percent, over all games with scores of prompts judged in both orders; by skill: "
    "the mean of this percentage over the skills. The convention of the Vicuna blog and of WizardLM; the AlpaGasus paper "
    "does not define its capacity."
)


def summarize(matches: Sequence[Match], rule: Rule, resamples: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Counts, scores with intervals, and what may have distorted them: position, length and scale.

    `sign_test_p` is the two-sided exact p value of wins against losses, ties left out.
    """
    # a prompt judged in one order alone is left out: the model that stood first has an advantage, which the other order takes
    # away
    judged = _judged(matches, rule)
    found = Counter(outcome for _, outcome in judged)
    counts = Counts(found["win"], found["tie"], found["lose"])
    winning_score, win_rate = scores(counts, resamples, seed)
    games = [both for match in matches if (both := played(rule, match))]
    return {
        "prompts": len(matches),
        "judged": len(judged),
        **counts._asdict(),
        "no_verdict": len(matches) - len(judged),
        "winning_score": winning_score,
        "win_rate": win_rate,
        "resamples": resamples,
        "sign_test_p": sign_test(counts.win, counts.lose),
        "position": position(games),
        "length": length_report(judged),
        "score_ratio": score_ratio(matches),
    }


def grouped(matches: Sequence[Match], rule: Rule, resamples: int = 10_000, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """`summarize` of all matches together and of each test set, category, skill and difficulty that there is.

    Each entry says its `group` and, but for the pooled one, its `test_set`; categories, skills and difficulties are told
    apart by test set. The largest group comes first, the lowest difficulty. Groups are drawn at most `GROUP_RESAMPLES` times.
    """
    fewer = min(resamples, GROUP_RESAMPLES)

    def groups(name: Callable[[Match], str | int | None]) -> list[dict[str, Any]]:
        return [
            {"group": str(group), "test_set": test_set, **summarize(members, rule, fewer, seed)}
            for (test_set, group), members in _split(matches, name)
        ]

    return {
        "pooled": [{"group": "all", "test_set": None, **summarize(matches, rule, resamples, seed)}],
        "test_sets": groups(lambda match: match.test_set),
        "categories": groups(lambda match: match.category or None),
        "skills": groups(lambda match: match.skill or None),
        "difficulties": groups(lambda match: match.difficulty),
    }


def position(games: Sequence[Games]) -> dict[str, Any]:
    """What the order of the answers did, over prompts judged in both orders.

    Such a prompt is `consistent` (the same winner in both orders, or two ties), `flipped` (a wins in one, b in the other) or
    `half` (a tie in one order alone). `first_slot_wins` and `second_slot_wins` count decisive games. As the two games of a
    prompt are not independent, `slot_bias_p` is the two-sided exact p value over prompts: those whose games lean to the
    first slot against those whose games lean to the second.
    """
    # 1 where a won, -1 where b did, whichever stood first
    signs = [(SIGNS[both.ab.winner], SIGNS[both.ba.winner]) for both in games]
    consistent = sum(ab == ba for ab, ba in signs)
    flipped = sum(ab * ba < 0 for ab, ba in signs)
    # in the order ba the first slot is b's
    first = sum((ab > 0) + (ba < 0) for ab, ba in signs)
    second = sum((ab < 0) + (ba > 0) for ab, ba in signs)
    return {
        "both_judged": len(signs),
        "consistent": consistent,
        "flipped": flipped,
        "half": len(signs) - consistent - flipped,
        "consistency": share(consistent, len(signs)),
        "flip_rate": share(flipped, len(signs)),
        "first_slot_wins": first,
        "second_slot_wins": second,
        "first_slot_share": share(first, first + second),
        "slot_bias_p": sign_test(sum(ab > ba for ab, ba in signs), sum(ab < ba for ab, ba in signs)),
    }


def score_ratio(matches: Iterable[Match]) -> dict[str, Any]:
    """Mean score of a in percent of that of b; see `SCORE_RATIO`."""
    every: list[tuple[float, float]] = []
    skills: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for match in matches:
        scored = _scored(match)
        every += scored
        if match.skill and scored:
            skills[match.test_set, match.skill] += scored
    ratios = [ratio for pairs in skills.values() if (ratio := _percent(pairs)) is not None]
    return {
        "percent": rounded(_percent(every)),
        "games": len(every),
        "by_skill_percent": rounded(sum(ratios) / len(ratios)) if ratios else None,
        "definition": SCORE_RATIO,
    }


def _judged(matches: Iterable[Match], rule: Rule) -> list[tuple[Match, Outcome]]:
    return [(match, outcome) for match in matches if (outcome := decide(rule, match)) is not None]


def _scored(match: Match) -> list[tuple[float, float]]:
    """Scores of a and b in the games that have them, if both orders were judged."""
    games = (match.ab, match.ba)
    if None in games:
        return []
    return [(game.score_a, game.score_b) for game in games if game and game.score_a is not None and game.score_b is not None]


def _percent(scored: Sequence[tuple[float, float]]) -> float | None:
    ours, theirs = (sum(side) for side in zip(*scored, strict=True)) if scored else (0.0, 0.0)
    # a ratio of sums, not a mean of ratios: a single answer scored 0 would make one of those infinite
    return 100 * ours / theirs if theirs else None


def _split(
    matches: Iterable[Match], name: Callable[[Match], str | int | None]
) -> list[tuple[tuple[str, str | int], list[Match]]]:
    """The matches of each group, by test set and name, in the order of `grouped`."""
    groups: defaultdict[tuple[str, str | int], list[Match]] = defaultdict(list)
    for match in matches:
        group = name(match)
        if group is not None:
            groups[match.test_set, group].append(match)
    return sorted(groups.items(), key=_rank)


def _rank(entry: tuple[tuple[str, str | int], list[Match]]) -> tuple[int, str, str]:
    (test_set, group), members = entry
    return (group, test_set, "") if isinstance(group, int) else (-len(members), test_set, group)
