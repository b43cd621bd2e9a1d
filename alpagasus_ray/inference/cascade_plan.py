"""What a cascade would ask and cost, and what it saves: a part of what asking about every row would."""

from collections.abc import Mapping
from typing import Any

from alpagasus_ray.config import Cascade
from alpagasus_ray.reporting.number_text import money


def scaled(report: Mapping[str, Any], cascade: Cascade) -> dict[str, Any]:
    """A plan of asking about all rows as one of a cascade, with what that leaves out as `saved`."""
    share, every = cascade.share, int(report["requests"])
    requests = round(share * every)
    aim = "around the cut" if cascade.band else "best first"
    told = f"a cascade: {share:.2%} of the rows are asked about, {aim}; {cascade.audit:.2%} at random, to say what is missed"
    notes = [told, *report["notes"]]
    saved: dict[str, Any] = {"requests": every - requests}
    changes: dict[str, Any] = {"requests": requests}
    if "dollars" in report:
        dollars = report["dollars"]
        low, high = (_part(dollars[end], share) for end in ("low", "high"))
        saved |= {end: _part(dollars[end], 1 - share) for end in ("low", "high")}
        reached = {
            end: None if rows is None or rows >= requests else rows for end, rows in dollars["cap_reached_after"].items()
        }
        changes["dollars"] = {**dollars, "low": low, "high": high, "cap_reached_after": reached}
        tokens = report["tokens"]
        amounts = ("in", "out_low", "out_high")
        changes["tokens"] = {
            **tokens,
            **{name: None if tokens[name] is None else round(tokens[name] * share) for name in amounts},
        }
        changes["minutes"] = {**report["minutes"], "least": _part(report["minutes"]["least"], share)}
        if saved["low"] is not None:
            up_to = "" if saved["high"] is None else f" to ${money(saved['high'])}"
            notes.insert(1, f"what is not asked saves ${money(saved['low'])}{up_to}")
    return {**report, **changes, "notes": notes, "cascade": {"share": share, "saved": saved}}


def _part(value: float | None, share: float) -> float | None:
    return None if value is None else round(value * share, 6)
