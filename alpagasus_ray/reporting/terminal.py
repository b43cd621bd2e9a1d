"""A stage's summary as a person reads it: a few lines and a small bar chart on a terminal."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from alpagasus_ray.reporting.number_text import money
from alpagasus_ray.reporting.status_text import status_lines
from alpagasus_ray.reporting.terminal_comparisons import compared_lines
from alpagasus_ray.reporting.terminal_plan import whole_plan_lines
from alpagasus_ray.reporting.terminal_training import show_preview, trained_lines
from alpagasus_ray.terminal import say, spelled

BAR = 40
TWICE = "maybe_billed_twice"


def show(report: Mapping[str, Any], stream: TextIO) -> None:
    """Print a summary; which lines it gets depends on what it holds."""
    if report.get("preview"):
        show_preview(report, stream)
        return
    for line in _lines(report):
        say(line, stream)


def in_a_line(report: Mapping[str, Any]) -> str:
    """What a stage has come to, in a line of an overview."""
    return str(report.get("answer") or next(_lines(report)))


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    own = next((lines for key, lines in OWN_LINES.items() if key in report), _stage)
    return own(report)


def _stage(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"{report['stage']}: {report['rows']:,} rows in {report['location']}"
    counts = report.get("counts")
    if counts:
        yield "  " + ", ".join(f"{count:,} {name}" for name, count in counts.items())
    for reason, count in report.get("reasons", {}).items():
        yield f"  {count:,} x {reason}"
    yield from _bars(report.get("histogram", {}))
    usual = {TWICE: 0, "attempts": report["rows"]}
    used = [_used(name, value) for name, value in (report.get("usage") or {}).items() if usual.get(name) != value]
    if used:
        yield "  " + ", ".join(used)
    if report.get("rows_per_s"):
        yield f"  {report['seconds']:,.1f} s, {report['rows_per_s']:,.0f} rows/s"
    for arm in report.get("arms", ()):
        yield from _arm(arm)
    for answers in report.get("answers", ()):
        yield from _answers(answers)
    for comparison in report.get("comparisons", ()):
        yield from compared_lines(comparison)
    yield from trained_lines(report.get("models", ()))
    if report.get("comparison"):
        yield f"  how all models of this run compare: {report['comparison']}"
    if report.get("page"):
        yield f"  {spelled(report['answer'])}"
        yield f"  {report['page']}"
    for note in report.get("notes", ()):
        yield f"  {note}"


def _used(name: str, value: float) -> str:
    return f"${value:,.4f}" if name == "cost_usd" else f"{value:,.0f} {name.replace('_', ' ')}"


def _checks(report: Mapping[str, Any]) -> Iterator[str]:
    """One line a check, with what to do where it is not `ok`."""
    width = max((len(check["name"]) for check in report["checks"]), default=0)
    for check in report["checks"]:
        todo = f" -> {check['fix']}" if check["fix"] else ""
        yield f"{check['status']:<9}{check['name']:<{width}}  {check['detail']}{todo}"
    yield "no problem found" if report["ok"] else "there are problems: score is not ready to run"


def _bars(histogram: Mapping[str, int]) -> Iterator[str]:
    most = max(histogram.values(), default=0)
    for score, count in histogram.items():
        yield f"  {float(score):>5g} {'█' * max(1, round(BAR * count / most)):<{BAR}} {count:,}"


def _arm(arm: Mapping[str, Any]) -> Iterator[str]:
    length = arm.get("mean_output_length") or {**arm["mean_output_words"], "unit": "words"}  # words: of an older run
    tokens = arm["tokens"]
    about = "about " if tokens["counted_by"].startswith("estimate") else ""
    kept = f"{arm['rows']:,} kept, {arm['dropped']:,} dropped"
    yield f"  {arm['name']}: {kept}, {about}{tokens['kept']:,} tokens, {length['kept']} {length['unit']} an output"
    yield from (f"    {note}" for note in arm.get("notes", ()))
    if arm.get("duplicates"):
        yield f"    {arm['duplicates']:,} exact duplicates dropped; pick.duplicates=keep keeps them"
    yield f"    {arm['file']}"
    if arm.get("as_it_came"):
        yield f"    beside it, as the records came: {', '.join(arm['as_it_came'])}"


def _answers(answers: Mapping[str, Any]) -> Iterator[str]:
    counts = ", ".join(f"{count:,} {name}" for name, count in answers["counts"].items())
    mean = answers["mean_answer_length"]
    length = "" if mean["value"] is None else f", {mean['value']:,.0f} {mean['unit']} an answer"
    yield f"  {answers['model']} on {answers['test_set']}: {counts}{length}, {answers['seconds']:,.1f} s"
    for reason, count in answers["reasons"].items():
        yield f"    {count:,} x {reason}"
    yield f"    {answers['file']}"


def _plan(report: Mapping[str, Any]) -> Iterator[str]:
    """What a call would do; the first prompt stands at the end."""
    trial = "" if report["limit"] is None else f", a trial with {report['limit']:,} drawn from all"
    yield f"plan of {report['stage']}: {report['left']:,} of {report['rows']:,} rows left to ask{trial}; nothing was sent"
    if "tokens" in report:
        yield from _load(report)
        yield from _dollars(report["dollars"], report["requests"])
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


def _dollars(dollars: Mapping[str, Any], requests: int) -> Iterator[str]:
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


def _experiment(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"experiment: done in {report['seconds']:,.0f} s. {report['answer']}"
    yield f"  {report['page']}"


OWN_LINES: dict[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "checks": _checks,
    "status": status_lines,
    "plan_of_all": whole_plan_lines,
    "plan": _plan,
    "steps": _experiment,
}
"""Summaries that are told in their own way, by a key that only they have."""
