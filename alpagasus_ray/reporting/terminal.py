"""Summaries of jobs as a person reads them on a terminal: of a stage, of what `doctor` checked, of how far a run is.

A summary is what a job prints with `--json`; which lines it gets depends on the keys it has.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from alpagasus_ray.progress import clock
from alpagasus_ray.reporting.number_text import money
from alpagasus_ray.reporting.score_steps import score_steps
from alpagasus_ray.reporting.terminal_bench import bench_lines, fetched_lines
from alpagasus_ray.reporting.terminal_plan import card_plan_lines, score_plan_lines, whole_plan_lines
from alpagasus_ray.reporting.terminal_race import race_lines, race_plan_lines
from alpagasus_ray.reporting.terminal_training import elsewhere_lines, show_preview, trained_lines
from alpagasus_ray.reporting.terminal_trust import card_lines, people_lines
from alpagasus_ray.terminal import say, spelled

BAR = 40
TWICE = "maybe_billed_twice"
PARTS = {"arms": "arms", "models": "models", "answers": "sets of answers", "comparisons": "comparisons"}
"""What a stage of several parts has, by their key: rows of different parts are no sum that says anything."""
WELL = ("examples", "scored", "not_asked", "labels", "kept", "dropped", "whole", "cut", "answered", "judged", "duplicates")
"""Outcomes that nobody has to be warned of."""

Summary = Mapping[str, Any]


def show(report: Summary, stream: TextIO) -> None:
    """Print a summary."""
    if report.get("preview"):
        show_preview(report, stream)
        return
    for line in lines(report):
        say(line, stream)


def in_a_line(report: Summary) -> str:
    """A stage's summary in one line, for an overview."""
    return str(report.get("answer") or next(lines(report)))


def lines(report: Summary) -> Iterator[str]:
    """A summary as lines of text."""
    own = next((own for key, own in OWN_LINES.items() if key in report), _stage)
    return own(report)


def _stage(report: Summary) -> Iterator[str]:
    parts = next((f"{len(report[key]):,} {noun}" for key, noun in PARTS.items() if key in report), f"{report['rows']:,} rows")
    yield f"{report['stage']}: {parts} in {report['location']}"
    counts = report.get("counts")
    if counts:
        yield "  " + ", ".join(f"{count:,} {name}" for name, count in counts.items())
    for reason, count in report.get("reasons", {}).items():
        yield f"  {count:,} x {reason}"
    yield from _bars(report.get("histogram", {}), report.get("scale"))
    usual = {TWICE: 0, "attempts": report["rows"]}
    used = [_used(name, value) for name, value in (report.get("usage") or {}).items() if usual.get(name) != value]
    if used:
        yield "  " + ", ".join(used)
    if report.get("rows_per_s"):
        rate = report["rows_per_s"]
        yield f"  {report['seconds']:,.1f} s, {rate:,.{0 if rate >= 10 else 1}f} rows/s"
    for arm in report.get("arms", ()):
        yield from _arm(arm)
    for answers in report.get("answers", ()):
        yield from _answers(answers)
    for comparison in report.get("comparisons", ()):
        yield from _comparison(comparison)
    yield from trained_lines(report.get("models", ()))
    yield from elsewhere_lines(report)
    if report.get("comparison"):
        yield f"  how all models of this run compare: {report['comparison']}"
    if report.get("page"):
        yield f"  {spelled(report['answer'])}"
        yield f"  {report['page']}"
    for note in report.get("notes", ()):
        yield f"  {note}"


def _used(name: str, value: float) -> str:
    return f"${money(value)}" if name == "cost_usd" else f"{value:,.0f} {name.replace('_', ' ')}"


def _checks(report: Summary) -> Iterator[str]:
    """One line a check, with what to do where it is not `ok`."""
    width = max((len(check["name"]) for check in report["checks"]), default=0)
    for check in report["checks"]:
        todo = f" -> {check['fix']}" if check["fix"] else ""
        yield f"{check['status']:<9}{check['name']:<{width}}  {check['detail']}{todo}"
    yield "no problem found" if report["ok"] else "there are problems: score is not ready to run"


def _bars(histogram: Mapping[str, int], scale: Mapping[str, float | None] | None = None) -> Iterator[str]:
    """A line for each score, also for steps of the scale that nobody was given."""
    counts = {round(float(score), 6): count for score, count in histogram.items()}
    most = max(counts.values(), default=0)
    for score in (score_steps(counts, scale) or counts) if counts else ():
        count = counts.get(round(score, 6), 0)
        length = max(1, round(BAR * count / most)) if count else 0
        yield f"  {score:>5g} {'█' * length:<{BAR}} {count:,}"


def _arm(arm: Summary) -> Iterator[str]:
    length = arm.get("mean_output_length") or {**arm["mean_output_words"], "unit": "words"}  # words: of an older run
    tokens = arm["tokens"]
    about = "about " if tokens["counted_by"].startswith("estimate") else ""
    kept = f"{arm['rows']:,} kept, {arm['dropped']:,} dropped"
    yield f"  {arm['name']}: {kept}, {about}{tokens['kept']:,} tokens, {length['kept']:,.0f} {length['unit']} an output"
    yield from (f"    {note}" for note in arm.get("notes", ()))
    if arm.get("duplicates"):
        yield f"    {arm['duplicates']:,} exact duplicates dropped; pick.duplicates=keep keeps them"
    yield f"    {arm['file']}"
    if arm.get("as_it_came"):
        yield f"    beside it, as the records came: {', '.join(arm['as_it_came'])}"


def _answers(answers: Summary) -> Iterator[str]:
    counts = ", ".join(f"{count:,} {name}" for name, count in answers["counts"].items())
    mean = answers["mean_answer_length"]
    length = "" if mean["value"] is None else f", {mean['value']:,.0f} {mean['unit']} an answer"
    yield f"  {answers['model']} on {answers['test_set']}: {counts}{length}, {answers['seconds']:,.1f} s"
    for reason, count in answers["reasons"].items():
        yield f"    {count:,} x {reason}"
    yield f"    {answers['file']}"


def _comparison(comparison: Summary) -> Iterator[str]:
    """A pair on a test set, in three lines."""
    counts = f"{comparison['win']:,} win, {comparison['tie']:,} tie, {comparison['lose']:,} lose"
    missing = f", {comparison['no_verdict']:,} without a verdict" if comparison["no_verdict"] else ""
    pair = f"{comparison['a']} against {comparison['b']} on {comparison['test_set']}"
    yield f"  {pair}, judged by {comparison['judge']}: {counts}{missing}"
    if not comparison["judged"]:
        yield "    no prompt has a verdict in both orders: no data"
        return
    score, p = comparison["winning_score"], comparison["sign_test_p"]
    certain = "" if p is None else f", sign test p = {p:.2g}"
    yield f"    winning score {score['value']:.3f} ({_interval(score)}; parity is 1){certain}"
    position = comparison["position"]
    if position["consistency"] is not None:
        same, first = _share(position["consistency"]), _share(position["first_slot_share"])
        yield f"    the same winner in both orders: {same} of the prompts; the first answer wins {first} of the decided games"


def _share(value: float | None) -> str:
    return "no data" if value is None else f"{value:.0%}"


def _interval(score: Mapping[str, float | None]) -> str:
    """The interval of a score."""
    return "too few to tell an interval" if score["low"] is None else f"95%: {score['low']:.3f} to {score['high']:.3f}"


def _status(report: Summary) -> Iterator[str]:
    """The summary of `stages/status.py`."""
    driver = report["driver"]
    yield f"{report['location']}: {f'{driver} is at work on it' if driver else 'no driver is at work on it'}"
    if not report["stages"]:
        yield "  nothing is there yet"
    for stage in report["stages"]:
        yield f"  {stage['stage']}: {', '.join(_stage_status(stage))}"
        for reason, count in stage["reasons"].items():
            yield f"    {count:,} x {reason}"
    if report["stages"]:
        cost = "" if report["dollars"] is None else f", ${money(report['dollars'])}"
        yield f"  in all {clock(report['seconds'])}{cost}"
    if "damaged" in report:
        yield from (f"  damaged: {line}" for line in report["damaged"])
        whole = "all of them are as they were written" if report["ok"] else f"{len(report['damaged']):,} are not as written"
        yield f"  {report['files']:,} files compared with their checksums: {whole}"


def _stage_status(stage: Summary) -> Iterator[str]:
    yield _progress(stage)
    for outcome, count in stage["counts"].items():
        if count and outcome not in WELL:
            yield f"{count:,} {outcome}"
    yield clock(stage["seconds"])
    if stage["dollars"] is not None:
        yield f"${money(stage['dollars'])}"


def _progress(stage: Summary) -> str:
    rows, of = ("steps", "of_steps") if stage["steps"] is not None else ("rows", "of")
    what = "updates" if rows == "steps" else "rows"
    if stage["state"] == "finished":
        return f"finished, {stage[rows]:,} {what}"
    total = "" if stage[of] is None else f" of {stage[of]:,}"
    # replies that wait for the rest of their shard are paid for, and not asked again
    waiting = f", {stage['replies']:,} more have their reply" if stage["replies"] else ""
    share = f" ({min(1.0, (stage[rows] + stage['replies']) / stage[of]):.0%})" if stage[of] else ""
    return f"unfinished, {stage[rows]:,}{total} {what}{waiting}{share}"


def _experiment(report: Summary) -> Iterator[str]:
    yield f"experiment: done in {report['seconds']:,.0f} s. {report['answer']}"
    yield f"  {report['page']}"


OWN_LINES: dict[str, Callable[[Summary], Iterator[str]]] = {
    "checks": _checks,
    "status": _status,
    "plan_of_all": whole_plan_lines,
    "race": race_lines,
    "benchmarks": bench_lines,
    "fetched": fetched_lines,
    "race_plan": race_plan_lines,
    "plan_of_card": card_plan_lines,
    "cards": card_lines,
    "people": people_lines,
    "plan": score_plan_lines,
    "steps": _experiment,
}
"""Summaries with lines of their own, by a key that only they have."""
