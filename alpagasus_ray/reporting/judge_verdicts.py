"""Judges of pairs of answers, beside the people who voted on the same answers: sections of a card, and win rates.

The card of a judge of examples has what the same model said of pairs; a model that compares answers and rates no examples has a
card of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from alpagasus_ray.config import Recipe, Rule
from alpagasus_ray.data.schema import VERDICTS, conformed
from alpagasus_ray.errors import reason_of
from alpagasus_ray.evaluation import judge_agreement, judge_sections
from alpagasus_ray.evaluation.agreement import TURNED, Vote, read_votes
from alpagasus_ray.evaluation.agreement import Comparison as Answers
from alpagasus_ray.evaluation.corrected_rates import POINTS_OF, win_rates
from alpagasus_ray.evaluation.judge_sections import Asked
from alpagasus_ray.evaluation.match_rules import Match, Winner, decide
from alpagasus_ray.reporting import verdicts
from alpagasus_ray.reporting.judge_material import people_stages, votes
from alpagasus_ray.reporting.verdicts import Comparison
from alpagasus_ray.store.run import Run

WINNERS: Mapping[str, Winner] = {"win": "a", "tie": "tie", "lose": "b"}


class Judged(NamedTuple):
    """What one judge said of one pair of models, and what people said of the same answers."""

    about: Comparison
    matches: Sequence[Match]
    votes: Sequence[Vote]
    asked: Sequence[Asked]
    rule: Rule
    """How two games become one outcome."""

    @property
    def label(self) -> str:
        return self.about.label

    @property
    def name(self) -> str:
        """Of its card, where it has one of its own."""
        return f"verdicts-{self.about.judge}" if self.about.judge else "verdicts"

    @property
    def winners(self) -> dict[str, Winner]:
        """The judge's outcome of each prompt that has one, by the item's name."""
        return self.winners_seen_from(self.about.a, self.about.b)

    def winners_seen_from(self, a: str, b: str) -> dict[str, Winner]:
        """The same where the two models are told in this order."""
        decided = {match: decide(self.rule, match) for match in self.matches}
        said = {match: WINNERS[outcome] for match, outcome in decided.items() if outcome is not None}
        return {
            Answers(match.prompt_id, match.test_set, a, b).item: one if a == self.about.a else TURNED[one]
            for match, one in said.items()
        }


def is_any(run: Run) -> bool:
    """Whether the run holds verdicts."""
    return bool(verdicts.comparisons(run))


def rule_of(recipe: Recipe) -> Rule:
    """The rule of a recipe's report, or of its comparisons where the report names none."""
    return recipe.report.rule if "rule" in recipe.report.model_fields_set else recipe.compare.rule


def judged(run: Run, rule: Rule) -> list[Judged]:
    """All comparisons of a run, each with the votes on its pair."""
    rows = [row for name, one in people_stages(run).items() if one.settings.get("form") == "vote" for row in votes(run, name)]
    made = []
    for about in verdicts.comparisons(run):
        matches = verdicts.matches(run, about)
        made.append(Judged(about, matches, _votes(rows, about, matches), _asked(run, about), rule))
    return made


def of_pair(run: Run, a: str, b: str, rule: Rule) -> Judged | None:
    """What the first judge said of a pair, whichever model it was told first; None where nobody has compared the two."""
    for about in verdicts.comparisons(run):
        if {about.a, about.b} == {a, b}:
            return Judged(about, verdicts.matches(run, about), (), (), rule)
    return None


def _votes(rows: Sequence[Mapping[str, Any]], about: Comparison, matches: Sequence[Match]) -> list[Vote]:
    known = [Answers(match.prompt_id, match.test_set, about.a, about.b) for match in matches]
    prompts = {(one.test_set, one.prompt_id) for one in known}
    fit = [row for row in rows if {row["a"], row["b"]} == {about.a, about.b} and (row["test_set"], row["prompt_id"]) in prompts]
    return read_votes(fit, known)


def _asked(run: Run, about: Comparison) -> list[Asked]:
    stages = [run.verdicts(about.judge, about.pair, test_set) for test_set in about.test_sets]
    tables = [conformed(table, VERDICTS) for stage in stages for table in stage.tables(stage.finished())]
    table = pa.concat_tables(tables).select(["status", "error", "cost_usd", "latency_s"])
    return [
        Asked(row["status"], reason_of(row["error"]) if row["error"] else "", row["cost_usd"], row["latency_s"])
        for row in table.to_pylist()
    ]


def of_model(every: Sequence[Judged], label: str) -> list[Judged]:
    """The comparisons by one model."""
    return [one for one in every if one.label == label]


def sections(compared: Sequence[Judged], epsilon: float) -> dict[str, Any]:
    """The sections `position` and `voters` of a judge; None where there is nothing to make them of. Where it has compared two
    models more than once, people's votes on them are held against the first of these comparisons: each vote counts once."""
    matches = [match for one in compared for match in one.matches]
    once = {frozenset((one.about.a, one.about.b)): one for one in reversed(compared)}.values()
    given = [vote for one in once for vote in one.votes]
    winners = {item: winner for one in once for item, winner in one.winners.items()}
    return {
        "position": judge_sections.position(matches) if matches else None,
        "voters": judge_agreement.voters(winners, given, epsilon) if given else None,
    }


def failures(compared: Sequence[Judged]) -> dict[str, Any]:
    """The section `failures` of a judge that compares."""
    return judge_sections.failures([asked for one in compared for asked in one.asked], ("judged",))


def win_rates_of(compared: Sequence[Judged]) -> list[dict[str, Any]]:
    """For each pair the judge's win rate, and beside it what people's votes make of it."""
    return [{"a": one.about.a, "b": one.about.b, **_rates(one.winners, one.votes)} for one in compared]


def _rates(winners: Mapping[str, Winner], given: Sequence[Vote]) -> dict[str, Any]:
    points: dict[str, list[float]] = {}
    for item, _, said in given:
        points.setdefault(item, []).append(POINTS_OF[said])
    judge = {item: POINTS_OF[winner] for item, winner in winners.items()}
    return win_rates(judge, {item: sum(of) / len(of) for item, of in points.items()})
