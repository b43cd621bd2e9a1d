"""The games of a run, both orders of a prompt side by side, as statistics and reports take them."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from alpagasus_ray.evaluation.match_rules import Game, Match
from alpagasus_ray.store.run import MANIFEST, Manifest, Run, StageDir, versus

PREFIX = "verdicts"


class Comparison(NamedTuple):
    """The finished verdicts of one judge on two models."""

    judge: str | None
    """The judge's `compare.name`."""
    a: str
    b: str
    test_sets: tuple[str, ...]
    label: str
    """What the judge is: a model's name, `rules`, `imported (…)`."""

    @property
    def pair(self) -> str:
        return versus(self.a, self.b)


def comparisons(run: Run) -> list[Comparison]:
    """All finished verdicts of the run, the unnamed judge's first."""
    test_sets: dict[tuple[str | None, str, str, str], list[str]] = {}
    for judge, manifest in _finished(run):
        a, b, test_set, label = (manifest.details[key] for key in ("a", "b", "test_set", "judge"))
        test_sets.setdefault((judge, a, b, label), []).append(test_set)
    return [Comparison(judge, a, b, tuple(sorted(sets)), label) for (judge, a, b, label), sets in test_sets.items()]


def _finished(run: Run) -> Iterable[tuple[str | None, Manifest]]:
    names = (name.split("/") for name in run.storage.all_names() if name.startswith(PREFIX) and name.count("/") == 3)
    for top, pair, test_set, file in sorted(names):
        judge = top.removeprefix(PREFIX).removeprefix("-") or None
        manifest = run.verdicts(judge, pair, test_set).manifest() if file == MANIFEST else None
        if manifest is not None:
            yield judge, manifest


def matches(run: Run, comparison: Comparison) -> list[Match]:
    """The games of a comparison, a match for each prompt; a game without a verdict is none."""
    stages = (run.verdicts(comparison.judge, comparison.pair, test_set) for test_set in comparison.test_sets)
    return [match for stage in stages for match in matches_of(stage)]


def matches_of(stage: StageDir, manifest: Manifest | None = None) -> list[Match]:
    """The matches of one directory of verdicts."""
    return [_match(rows) for rows in _by_prompt(stage, manifest).values()]


def _by_prompt(stage: StageDir, manifest: Manifest | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows of a directory of games, by prompt and order."""
    prompts: dict[str, dict[str, dict[str, Any]]] = {}
    for table in stage.tables(manifest or stage.finished()):
        for row in table.to_pylist():
            prompts.setdefault(row["prompt_id"], {})[row["order"]] = row
    return prompts


def _match(rows: Mapping[str, Mapping[str, Any]]) -> Match:
    row = next(iter(rows.values()))
    about = {name: row[name] for name in ("prompt_id", "test_set", "category", "skill", "difficulty", "words_a", "words_b")}
    match = Match(**about, ab=_game(rows.get("ab")), ba=_game(rows.get("ba")))
    return match._replace(length_a=row.get("length_a"), length_b=row.get("length_b"))  # files of earlier versions lack these


def _game(row: Mapping[str, Any] | None) -> Game | None:
    return None if row is None or row["winner"] is None else Game(row["winner"], row["score_a"], row["score_b"])


REVIEW = ("status", "winner", "score_a", "score_b", "reply", "error")


def games(run: Run, comparison: Comparison) -> list[dict[str, Any]]:
    """Every prompt with both answers and the judge's review in each order."""
    rows = []
    for test_set in comparison.test_sets:
        reviews = _by_prompt(run.verdicts(comparison.judge, comparison.pair, test_set))
        answers = _by_prompt(run.pairs(comparison.a, comparison.b, test_set))
        rows += [_side_by_side(answers[prompt]["ab"], orders) for prompt, orders in reviews.items()]
    return rows


def _side_by_side(pair: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    kept = ("prompt_id", "test_set", "category", "skill", "instruction", "input")
    orders = {order: {name: row[name] for name in REVIEW} for order, row in rows.items()}
    return {
        **{name: pair[name] for name in kept},
        "reference": pair.get("reference"),
        "answer_a": pair["first"],
        "answer_b": pair["second"],
        "ab": orders.get("ab"),
        "ba": orders.get("ba"),
    }
