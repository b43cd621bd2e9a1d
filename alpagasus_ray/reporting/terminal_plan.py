"""The plan of a whole experiment as a person reads it on a terminal: what judging, training and the evaluation will take."""

from collections.abc import Iterator, Mapping
from typing import Any

from alpagasus_ray.reporting.number_text import money
from alpagasus_ray.terminal import spelled


def whole_plan_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """One line a step, and the sums; nothing of it was sent."""
    yield f"plan of the experiment in {report['location']}: {report['rows']:,} examples; nothing was sent or written"
    yield f"  score: {_score(report['score'])}"
    for arm in report["arms"]:
        yield f"  finetune {arm['arm']}: {_arm(arm)}"
    yield f"  finetune in all: {_sums(report['arms'])}"
    models = ", ".join(report["models"])
    yield f"  generate: {report['prompts']:,} prompts each by {len(report['models'])} models ({models})"
    low, high = (report["evaluation_dollars"][end] for end in ("low", "high"))
    tokens = report["tokens_a_game"]
    each = f"{tokens['low']:,} to {tokens['high']:,} tokens each, by the length of the answers"
    yield f"  compare: {report['games']:,} games judged by {spelled(report['judge'])}, {each}; {_dollars(low, high)}"
    yield from _total(report["total_dollars"])


def _total(total: Mapping[str, Any]) -> Iterator[str]:
    """The last word of a plan."""
    low, high = total["low"], total["high"]
    if total["not_counted"]:
        yield f"  not counted, as nobody can tell it yet: {', '.join(total['not_counted'])}"
    bound = f"at least ${money(low)}, and nothing bounds it" if high is None else f"${money(low)} to ${money(high)}"
    yield f"  total: {bound}"


def _score(judged: Mapping[str, Any]) -> str:
    asked = f"{judged['left']:,} of {judged['rows']:,} rows left to ask, {judged['requests']:,} requests"
    dollars = judged.get("dollars")
    return asked if dollars is None else f"{asked}; {_dollars(dollars['low'], dollars['high'])}"


def _arm(arm: Mapping[str, Any]) -> str:
    size = {"picked": "", "known": "about ", "at most": "at most "}[arm["size"]]
    if arm["minutes"] is None:
        return f"{size}{arm['rows']:,} examples, minutes unknown: {spelled(arm['predicted_by'])}"
    hours = f"{arm['minutes']:,.1f} minutes on {arm['workers']} workers"
    dollars = "" if arm["dollars"] is None else f", ${money(arm['dollars'])}"
    return f"{size}{arm['rows']:,} examples, {arm['steps']:,} updates, about {hours}{dollars}"


def _sums(arms: list[Mapping[str, Any]]) -> str:
    hours, dollars = ([arm[key] for arm in arms] for key in ("worker_hours", "dollars"))
    if None in hours:
        return "unknown, as one of them is"
    cost = "" if None in dollars else f", ${money(sum(dollars))}"
    bound = "at most " if any(arm["size"] == "at most" for arm in arms) else "about "
    return f"{bound}{sum(hours):,.2f} hours of a worker (a GPU each where there are some){cost}"


def _dollars(low: float | None, high: float | None) -> str:
    if low == high:
        return f"${money(low)}" if low is not None else "dollars unknown"
    return f"${money(low)} to ${money(high)}"
