"""What a cascade would ask and cost, and what it saves: a part of what asking about every row would."""

from collections.abc import Mapping
from typing import Any

from alpagasus_ray.config import Cascade
from alpagasus_ray.inference.backlog import Held
from alpagasus_ray.reporting.number_text import money


def scaled(report: Mapping[str, Any], cascade: Cascade, held: Held, besides_usd: float = 0.0) -> dict[str, Any]:
    """A plan of asking about all rows as one of a cascade, with what that leaves out as `saved`. What is `held` of its rounds
    is not asked again, and counts as spent, as does what was paid `besides` under the same cap."""
    share, every = cascade.share, int(report["requests"])
    asked = round(share * every)
    there = sum(held.counts.values()) + held.replies
    requests = max(0, asked - there)
    aim = "around the cut" if cascade.band else "best first"
    told = f"a cascade: {share:.2%} of the rows are asked about, {aim}; {cascade.audit:.2%} at random, to say what is missed"
    notes = [told, *report["notes"]]
    if held.rounds:
        notes.append(f"its {held.rounds} rounds so far hold {there:,} replies, which are not asked for again")
    saved: dict[str, Any] = {"requests": every - asked}
    changes: dict[str, Any] = {"left": requests if report["left"] else 0, "requests": requests}
    if "dollars" in report:
        dollars, left = report["dollars"], requests / every if every else 0.0
        low, high = (_part(dollars[end], left) for end in ("low", "high"))
        saved |= {end: _part(dollars[end], 1 - share) for end in ("low", "high")}
        own = held.usd if held.usd is None and not besides_usd else (held.usd or 0.0) + besides_usd
        spent = own if dollars["spent"] is None else max(dollars["spent"], own or 0.0)
        costs = {"low": low, "high": high}
        reached = {end: _reached(cost, requests, dollars["max_cost_usd"], spent or 0.0) for end, cost in costs.items()}
        changes["dollars"] = {**dollars, **costs, "spent": spent, "cap_reached_after": reached}
        tokens = report["tokens"]
        amounts = ("in", "out_low", "out_high")
        changes["tokens"] = {
            **tokens,
            **{name: None if tokens[name] is None else round(tokens[name] * left) for name in amounts},
        }
        changes["minutes"] = {**report["minutes"], "least": _part(report["minutes"]["least"], left)}
        if saved["low"] is not None:
            up_to = "" if saved["high"] is None else f" to ${money(saved['high'])}"
            notes.insert(1, f"what is not asked saves ${money(saved['low'])}{up_to}")
    return {
        **report,
        **changes,
        "notes": notes,
        "cascade": {"share": share, "rounds": held.rounds, "held": there, "saved": saved},
    }


def _reached(cost: float | None, requests: int, cap: float | None, spent: float) -> int | None:
    """After how many of the requests the cap is reached; None where that never is."""
    if cap is None or not cost or cost <= cap - spent:
        return None
    return max(0, int((cap - spent) / cost * requests))


def _part(value: float | None, share: float) -> float | None:
    return None if value is None else round(value * share, 6)
