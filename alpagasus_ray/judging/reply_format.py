"""The form that a judge's replies are to have: from the recipe and the rubric's scale to what an engine is asked for."""

from alpagasus_ray.config import Judge
from alpagasus_ray.engines.base import ReplyForm
from alpagasus_ray.engines.score_grammar import begin_alike
from alpagasus_ray.errors import UsageError
from alpagasus_ray.judging.rubric import Rubric, Scale

MOST_SCORES = 101


def reply_form(judge: Judge, rubric: Rubric) -> ReplyForm:
    """What the judge's engine is asked for. A `UsageError` tells why a scale does not allow it."""
    if not judge.is_model:
        return ReplyForm()
    constrained = judge.constrained
    if constrained == "auto":
        # vLLM in the job takes a grammar for nothing; an API may refuse the field, so there it has to be asked for
        steps = _count(rubric.scale) is not None
        constrained = "regex" if judge.in_job and steps else "off"
    if constrained == "off" and not judge.expected:
        return ReplyForm(score_only=not judge.explain)
    scores = _scores(rubric, "constrained" if constrained != "off" else "expected")
    if judge.expected and judge.is_remote:
        _check_first_token(scores, rubric)
    return ReplyForm(scores, constrained, not judge.explain, judge.expected)


def _count(scale: Scale) -> int | None:
    """How many scores a scale has; None where that is any number, or too many to name."""
    if scale.step is None:
        return None
    count = round((scale.max - scale.min) / scale.step) + 1
    return count if count <= MOST_SCORES else None


def _scores(rubric: Rubric, knob: str) -> tuple[str, ...]:
    scale, count = rubric.scale, _count(rubric.scale)
    if count is None or scale.step is None:
        raise UsageError(
            f"score.judge.{knob} needs scores that can be named, and rubric {rubric.name!r} has a scale of {scale}; give its "
            f"`scale` a `step` with at most {MOST_SCORES} of them, or set score.judge.{knob} to "
            f"{'off' if knob == 'constrained' else 'false'}"
        )
    values = (scale.min + number * scale.step for number in range(count))
    # sums of steps such as 0.1 are a hair off, and the last would be missing
    return tuple(f"{value:g}" for value in values if value <= scale.max + 1e-9)


def _check_first_token(scores: tuple[str, ...], rubric: Rubric) -> None:
    """An API tells the probabilities along the one reply that it gave: how probable 4.5 was after it answered `3` it does not
    say, so that only scores of one token each have one."""
    alike = begin_alike(scores)
    if alike is not None:
        raise UsageError(
            f"score.judge.expected: an API tells how probable each first token was, and the scores {alike[0]} and {alike[1]} "
            f"of rubric {rubric.name!r} begin with the same; take a rubric in whole points, e.g. --set "
            "score.judge.rubric=accuracy-integer, or kind `vllm`, which looks at every beginning"
        )
