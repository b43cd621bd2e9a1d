"""What models answered, and how their answers stand beside references. Pure: from manifests and rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from alpagasus_ray.evaluation.exact_match import exact_match
from alpagasus_ray.evaluation.intervals import sign_test
from alpagasus_ray.reporting.measures import Entry, ExactMatch, read
from alpagasus_ray.reporting.run_reader import AnswerRow
from alpagasus_ray.store.run import Manifest


class Answers(NamedTuple):
    """One model's answers to the prompts of a test set."""

    model: str
    test_set: str
    arm: str | None
    """The arm that the model was trained on in this run."""
    rows: Sequence[AnswerRow]


@dataclass(frozen=True)
class MeanLength(Entry):
    """Null where no answer says anything."""

    value: float | None
    unit: str


@dataclass(frozen=True)
class AnswersEntry(Entry):
    """The answers of one model to a test set, counted."""

    model: str
    test_set: str
    rows: int
    counts: Mapping[str, int]
    """Prompts by status."""
    reasons: Mapping[str, int]
    """Prompts without an answer by reason."""
    mean_length: MeanLength


@dataclass(frozen=True)
class AnsweredBy(Entry):
    """Whose answers an entry is about."""

    model: str
    arm: str | None
    test_set: str


@dataclass(frozen=True)
class ModelExactMatch(ExactMatch, AnsweredBy):
    """The answers of one model to a test set with references."""


@dataclass(frozen=True)
class ExactComparison(Entry):
    """The answers of two models, over the test sets that both answered."""

    arm: ExactMatch
    baseline: ExactMatch
    only_arm: int
    """Prompts that only the arm's model answers exactly."""
    only_baseline: int
    sign_test_p: float | None
    """Of the two, by prompt."""


def answers_entry(model: str, test_set: str, manifest: Manifest) -> AnswersEntry:
    """The answers of a stage, from its manifest."""
    return AnswersEntry(
        model=model,
        test_set=test_set,
        rows=manifest.rows,
        counts=manifest.counts,
        reasons=manifest.details.get("reasons", {}),
        mean_length=MeanLength(**mean_answer_length(manifest.details)),
    )


def mean_answer_length(details: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mean length of a stage's answers, `value` (None where no answer says anything) and `unit`; older runs measured in
    words."""
    length: Mapping[str, Any] = details.get("mean_answer_length") or {
        "value": details.get("mean_answer_words"),
        "unit": "words",
    }
    return length


def exact_matches(answers: Sequence[Answers]) -> list[ModelExactMatch]:
    """An entry for each model and test set with references."""
    entries = [read(ModelExactMatch, _exact(one.rows), model=one.model, arm=one.arm, test_set=one.test_set) for one in answers]
    return [entry for entry in entries if entry.prompts]


def exact_comparison(arm: str | None, baseline: str | None, answers: Sequence[Answers]) -> ExactComparison | None:
    """The models of two arms; None where either has no answer to a prompt with a reference."""
    by_test_set = [{one.test_set: one.rows for one in answers if one.arm == name} for name in (arm, baseline)]
    common = [test_set for test_set in by_test_set[0] if test_set in by_test_set[1]]
    rows = [[row for test_set in common for row in side[test_set]] for side in by_test_set]
    mine, other = (read(ExactMatch, _exact(side)) for side in rows)
    if not mine.prompts or not other.prompts:
        return None
    right = [{(test_set, prompt) for test_set in common for prompt in _right(side[test_set])} for side in by_test_set]
    only_arm, only_baseline = len(right[0] - right[1]), len(right[1] - right[0])
    return ExactComparison(mine, other, only_arm, only_baseline, sign_test(only_arm, only_baseline))


def _exact(rows: Sequence[AnswerRow]) -> dict[str, Any]:
    return exact_match([(row.reply, row.reference) for row in rows])


def _right(rows: Sequence[AnswerRow]) -> set[str]:
    """Ids of the prompts that are answered exactly."""
    return {row.prompt_id for row in rows if _exact([row])["exact"]}
