"""A race, and the plan of one, as a person reads them on a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alpagasus_ray.progress import clock
from alpagasus_ray.reporting.number_text import money

Summary = Mapping[str, Any]


def race_lines(report: Summary) -> Iterator[str]:
    """The table of a race: arms by their loss, each against the controls."""
    table = report["race"]
    yield f"race: {table['answer']}"
    rows = {one["name"]: one["rows"] for one in table["sets"]}
    yield (
        f"  {table['model']}, equal {table['equal']}, {table['seeds']} seeds, loss on {rows[table['decides']]:,} rows of "
        f"{table['decides']}; a difference is that arm minus the control, below 0 is better"
    )
    width = max(len(entry["arm"]) for entry in table["arms"])
    for entry in table["arms"]:
        yield f"  {entry['arm']:<{width}}  {entry['loss']:.4f}  {_places(entry)}{_against(entry, table['controls'])}"
    yield from (f"  {_judged(one)}" for one in report.get("judged", []))
    yield from (f"  {line}" for line in agreement_lines(table))
    yield f"  {cost_line(table)}"
    yield f"  {report['location']}"


def agreement_lines(table: Summary) -> Iterator[str]:
    """How alike this model and others rank the arms, where others were raced in this run."""
    for other in table.get("other_models", []):  # races of earlier versions have none
        if other["tau"] is None:
            yield f"{other['model']} has raced {other['arms']} of these arms: of fewer than 3 no agreement can be told"
        else:
            yield (
                f"{table['model']} and {other['model']} rank {other['arms']} arms with an agreement of "
                f"{other['tau']:.2f} (Kendall's tau, from -1 to 1; p = {other['p']:.2g}); of other models that says nothing"
            )


def _judged(found: Summary) -> str:
    counts = ", ".join(f"{found[outcome]} {outcome}" for outcome in ("win", "tie", "lose", "no_verdict"))
    return f"answers of {found['arm']} against {found['control']}, first seed, by {found['judge']}: {counts.replace('_', ' ')}"


def _places(entry: Summary) -> str:
    places = " ".join("-" if place is None else str(place) for place in entry["places"])
    return f"place by seed {places}" + (" (dropped early)" if entry["dropped"] else "")


def _against(entry: Summary, controls: Mapping[str, str]) -> str:
    told = [
        f"against {control}: {difference(entry['against'][policy])}"
        for policy, control in controls.items()
        if policy in entry["against"]
    ]
    return "".join(f"; {one}" for one in told)


def difference(found: Summary) -> str:
    """A difference with its interval, in words."""
    if found["low"] is None:
        return f"{found['value']:+.4f}, one seed"
    times = f", {found['times_the_tokens']:.2g} x the tokens" if found["times_the_tokens"] else ""
    return f"{found['value']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f}), {found['word']}{times}"


def cost_line(table: Summary) -> str:
    """What choosing has cost in all: ratings that several arms share are counted once."""
    by_ratings = {entry["ratings"]: entry for entry in table["arms"] if entry["ratings"]}
    asked = [entry["choosing_usd"] for entry in by_ratings.values()]
    dollars = "unknown dollars" if None in asked else f"${money(sum(asked))}"
    seconds = sum(entry["choosing_seconds"] for entry in by_ratings.values())
    trained = f"trainings {clock(table['training_seconds'])} on {table['device']}"
    return f"cost of choosing: ratings {dollars} and {clock(seconds)}, {trained}"


def race_plan_lines(report: Summary) -> Iterator[str]:
    """What a race would train, what it could show, what it would take."""
    plan = report["race_plan"]
    count = f"{plan['trainings']:,} trainings ({len(plan['arms'])} arms, {plan['seeds']} seeds)"
    yield f"race: {count}, {plan['left']:,} of them still to do"
    for arm in plan["arms"]:
        rows = f"{arm['rows']:,} rows ({arm['removed']:,} taken out)"
        yield f"  {arm['arm']}: {rows}, {arm['tokens']:,} tokens in {arm['steps']:,} updates"
    for one in plan["sets"]:
        yield f"  measured on {one['name']}: {one['rows']:,} rows" + (
            f", {one['left_out']:,} left out" if one["left_out"] else ""
        )
    yield f"  what it can show, {plan['spread_by']}:"
    yield from (f"    {line}" for line in _gains(plan["smallest_gains"]))
    seconds, dollars = plan["seconds_left"], plan["dollars_left"]
    yield f"  time: {'unknown until one is trained' if seconds is None else f'about {clock(seconds)} on one device'}" + (
        "" if dollars is None else f", ${money(dollars)}"
    )


def _gains(gains: Sequence[Summary]) -> Iterator[str]:
    for one in gains:
        gain = "none" if one["gain"] is None else f"{one['gain']:.4f}"
        yield f"{one['seeds']} seeds, {one['rows']:,} rows: a difference of losses of {gain} in 8 races of 10"
