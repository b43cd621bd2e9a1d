"""Plans as a person reads them on a terminal: what a call of score would send and cost, and what a whole experiment takes."""

from collections.abc import Iterator, Mapping
from typing import Any

from alpagasus_ray.config import AFTER_PICK
from alpagasus_ray.reporting.number_text import money
from alpagasus_ray.terminal import spelled


def whole_plan_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """One line a step, and the sums; nothing of it was sent."""
    yield f"plan of the experiment in {report['location']}: {report['rows']:,} examples; nothing was sent or written"
    if labels := report.get("distill"):
        cost = "" if "dollars" not in labels else f"; {_dollars(labels['dollars']['low'], labels['dollars']['high'])}"
        yield f"  distill: the judge is asked about {labels['labels']:,} rows first{cost}"
    yield f"  score: {_score(report['score'])}"
    yield from (f"    {note}" for note in report["score"]["notes"][:2] if "cascade" in report["score"])
    if report["card"]["requests"]:
        yield f"  card: {_card(report['card'])}"
    if raced := report["race"]:
        yield f"  race: {_race(raced)}"
    yield from [f"  {left_out_line()}"] if "left_out" in report else _after_pick(report)
    if benchmarks := report["bench"]:
        yield f"  bench: {_bench(benchmarks)}"
    yield from _total(report["total_dollars"])


def left_out_line() -> str:
    """What an experiment that ends with the report leaves out, and what asks for it."""
    return f"left out, as the recipe does not ask for it: {', '.join(f'{name} ({key})' for name, key in AFTER_PICK.items())}"


def _after_pick(report: Mapping[str, Any]) -> Iterator[str]:
    """Trainings, answers and games."""
    for arm in report["arms"]:
        yield f"  finetune {arm['arm']}: {_arm(arm)}"
    yield f"  finetune in all: {_sums(report['arms'])}"
    models = ", ".join(report["models"])
    yield f"  generate: {report['prompts']:,} prompts each by {len(report['models'])} models ({models})"
    low, high = (report["evaluation_dollars"][end] for end in ("low", "high"))
    tokens = report["tokens_a_game"]
    each = f"{tokens['low']:,} to {tokens['high']:,} tokens each, by the length of the answers"
    yield f"  compare: {report['games']:,} games judged by {spelled(report['judge'])}, {each}; {_dollars(low, high)}"


def _total(total: Mapping[str, Any]) -> Iterator[str]:
    """The last word of a plan."""
    low, high = total["low"], total["high"]
    if total["not_counted"]:
        yield f"  not counted, as nobody can tell it yet: {', '.join(total['not_counted'])}"
    bound = f"at least ${money(low)}, and nothing bounds it" if high is None else f"${money(low)} to ${money(high)}"
    yield f"  total{' of the rest' if total['not_counted'] else ''}: {bound}"


def _score(plan: Mapping[str, Any]) -> str:
    left = f"{plan['left']:,} of {plan['rows']:,} rows left to ask, {plan['requests']:,} requests"
    dollars = plan.get("dollars")
    return left if dollars is None else f"{left}; {_dollars(dollars['low'], dollars['high'])}"


def _card(plan: Mapping[str, Any]) -> str:
    asked = ", ".join(f"{rows:,} {kind}" for kind, rows in plan["asks"].items())
    return f"{plan['requests']:,} requests to the judge {plan['judge']} ({asked}); {_dollars(*plan['dollars'].values())}"


def card_plan_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """What a card would ask of its judge."""
    yield f"plan of the judges' cards in {report['location']}; nothing was sent or written"
    if report["asks"]:
        yield f"  {_card(report)}"
    if report.get("max_cost_usd") is not None:
        yield f"  card.max_cost_usd={report['max_cost_usd']:g} holds for all of it"
    for note in report["notes"]:
        yield f"  {note}"


def _race(raced: Mapping[str, Any]) -> str:
    what = f"{raced['trainings']:,} trainings of {spelled(raced['model'])}, about {raced['tokens']:,} tokens in all"
    if raced["minutes"] is None:
        return f"{what}, minutes unknown: {spelled(raced['predicted_by'])}"
    low, high = raced["minutes"]
    dollars = "" if raced["dollars"]["low"] is None else f", {_dollars(raced['dollars']['low'], raced['dollars']['high'])}"
    return f"{what}, {low:,.1f} to {high:,.1f} minutes of a GPU{dollars}"


def _bench(plan: Mapping[str, Any]) -> str:
    names = ", ".join(one["benchmark"] for one in plan["benchmarks"])
    asked = f"{names} for {', '.join(plan['models'])}; {plan['requests']:,} requests left"
    if plan["unknown"]:
        absent = "whose documents (`bench.data`) or lm-eval are not on this machine"
        asked += f", without those of {', '.join(plan['unknown'])}, {absent}"
    return f"{asked}; {_dollars(plan['dollars']['low'], plan['dollars']['high'])}"


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


def score_plan_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """What a call would do; the first prompt stands at the end."""
    trial = "" if report["limit"] is None else f", a trial with {report['limit']:,} drawn from all"
    yield f"plan of {report['stage']}: {report['left']:,} of {report['rows']:,} rows left to ask{trial}; nothing was sent"
    if "tokens" in report:
        yield from _load(report)
        yield from _score_dollars(report["dollars"], report["requests"])
        minutes = report["minutes"]
        if minutes["least"] is not None:
            yield f"  minutes: at least {minutes['least']:,.1f}, bound by {minutes['bound_by']}"
    yield f"  asks {report['asks']}"
    for note in report["notes"]:
        yield f"  {note}"
    yield "  hashes: " + ", ".join(f"{name} {value}" for name, value in report["hashes"].items() if value)
    if report["prompt"]:
        yield f"\nThe first request to {report['model']}:"
    for message in report["prompt"] or ():
        yield f"--- {message['role']} ---\n{spelled(message['content'])}"


def _load(report: Mapping[str, Any]) -> Iterator[str]:
    replies, tokens, requests = report["replies"], report["tokens"], report["requests"]
    yield f"  requests: {requests:,}; {replies['count']:,} replies so far{_means(replies)}"
    away = report["under_way"]
    if away["batches"]:
        yield f"  {away['requests']:,} requests are under way in {away['batches']:,} batches; a call collects what they bring"
    if not requests:
        return
    about = "about " if tokens["margin"] or tokens["estimate"] else ""
    margin = f" ± {tokens['margin']:.1%}" if tokens["margin"] else ""
    mean = f"{tokens['in_each']:,.0f}{margin} a request, the mean of {tokens['sampled']:,}"
    yield f"  tokens in: {about}{tokens['in']:,} ({mean})"
    yield f"    counted by {tokens['counted_by']}"
    low = "the score alone" if replies["tokens_out"] is None else f"{replies['tokens_out']:,.1f} a reply, as so far"
    high = "no bound" if tokens["out_high"] is None else f"{tokens['out_high']:,} (each {tokens['longest_reply']:,})"
    yield f"  tokens out: {tokens['out_low']:,} ({low}) to {high}"


def _means(replies: Mapping[str, Any]) -> str:
    words = {"tokens_in": "{:,.0f} tokens in", "tokens_out": "{:,.0f} out", "latency_s": "{:,.2f} s"}
    known = [text.format(replies[field]) for field, text in words.items() if replies[field] is not None]
    return f", {', '.join(known)} on average" if known else ""


def _score_dollars(dollars: Mapping[str, Any], requests: int) -> Iterator[str]:
    low, high, spent = (money(dollars[name]) for name in ("low", "high", "spent"))
    yield f"  dollars: {low if low == high else f'{low} to {high}'}; {spent} spent so far"
    price = dollars["price"]
    if price is None or not requests:
        return
    share = "" if price["share"] == 1 else f", times {price['share']:g} for the batch API"
    yield f"    at {price['input']:g} a million tokens in and {price['output']:g} out ({price['source']}){share}"
    if dollars["max_cost_usd"] is not None:
        yield f"    score.max_cost_usd={dollars['max_cost_usd']:g} {_cap(dollars, requests)}"


def _cap(dollars: Mapping[str, Any], requests: int) -> str:
    at_low, at_high = (dollars["cap_reached_after"][name] for name in ("low", "high"))
    if at_high is None:
        return "is enough"
    if at_low is None:
        return f"may be reached, after about {at_high:,} of {requests:,} requests"
    return f"is reached after about {at_high:,} to {at_low:,} of {requests:,} requests"
