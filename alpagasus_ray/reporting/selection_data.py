"""What was rated and what was chosen, as plain values: ratings by judge, arms, the cut, reasons of what was left out. Pure.

`ratings`: `name`, `main` (whether the arm was picked by them), `judge`, `kind`, `dimension`, `rows`, `counts`, `reasons`,
`histogram` (score -> rows), `mean`, `seconds`, `dollars`, `outside` (of expected scores: `rows`, `mean`, `p95`, `expected`),
`doubts` (what makes the judge unfit, in words). `arms`: `arm`, `policy`, `rule` (in words), `rows`, `dropped`,
`share`, `tokens`, `counted_by`, `length` (mean, of the outputs), `length_unit`, `unscored`, `ratings`. `selection`, of the
report's arm: `arm`, `rule`, `by_score`, `by`, `cut` (the lowest score kept, of arms that go by the score), `dropped_reasons`,
`judge_reasons` (what the offline judge said of the dropped), and `rows`, `tokens`, `mean_output_length`, `histogram`,
`threshold_curve`, `categories` of `selection.json`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from alpagasus_ray.reporting.judge_doubts import REFUSED, doubts
from alpagasus_ray.store.run import Manifest

RATINGS = "ratings/"
BY_SCORE = ("threshold", "top")
MOST_REASONS = 12
NUMBER = re.compile(r"\d+([.,]\d+)*")
MARKED = ". ("
"""What follows this in a reply of the offline judge says only that it was one."""


def ratings_of(arm: Manifest | None, names: Iterable[str]) -> str | None:
    """Which ratings an arm was picked by; where it does not say, the first there are."""
    made_from = [name.removeprefix(RATINGS) for name in (arm.inputs if arm else ()) if name.startswith(RATINGS)]
    known = list(names)
    return next((name for name in (*made_from, *known) if name in known), None)


def rated(manifests: Mapping[str, Manifest], main: str | None) -> list[dict[str, Any]]:
    """All ratings, the main ones first."""
    order = sorted(manifests, key=lambda name: (name != main, name))
    return [_rated(name, manifests[name], is_main=name == main) for name in order]


def _rated(name: str, manifest: Manifest, *, is_main: bool) -> dict[str, Any]:
    judge, rubric = manifest.settings.get("judge", {}), manifest.settings.get("rubric", {})
    histogram = manifest.details.get("histogram", {})
    scored = sum(histogram.values())
    return {
        "name": name,
        "main": is_main,
        "judge": judge.get("model") or judge.get("kind") or "unknown",
        "kind": judge.get("kind"),
        "dimension": rubric.get("dimension"),
        "prompt_hash": rubric.get("prompt"),
        "rows": manifest.rows,
        "counts": manifest.counts,
        "reasons": manifest.details.get("reasons", {}),
        "histogram": histogram,
        "mean": round(sum(float(score) * rows for score, rows in histogram.items()) / scored, 4) if scored else None,
        "seconds": round(manifest.seconds, 3),
        "dollars": manifest.usage.get("cost_usd"),
        "outside": manifest.details.get("outside"),
        "doubts": list(doubts(manifest.details, judge.get("max_outside", REFUSED))) if "model" in judge else [],
    }


def arms(manifests: Mapping[str, Manifest], order: Iterable[str]) -> list[dict[str, Any]]:
    return [_arm(name, manifests[name]) for name in order]


def _arm(name: str, manifest: Manifest) -> dict[str, Any]:
    details, dropped = manifest.details, manifest.counts.get("dropped", 0)
    tokens = details.get("tokens", {})
    whole = manifest.rows + dropped
    return {
        "arm": name,
        "policy": manifest.settings["arm"]["policy"],
        "rule": rule(manifest.settings["arm"]),
        "rows": manifest.rows,
        "dropped": dropped,
        "share": round(manifest.rows / whole, 6) if whole else None,
        "tokens": tokens.get("kept"),
        "counted_by": tokens.get("counted_by"),
        "length": mean_length(details).get("kept"),
        "length_unit": mean_length(details)["unit"],
        "unscored": details.get("unscored"),
        "ratings": ratings_of(manifest, [key.removeprefix(RATINGS) for key in manifest.inputs if key.startswith(RATINGS)]),
    }


def mean_length(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Mean lengths of the outputs with their `unit`; older runs measured in words."""
    found: Mapping[str, Any] = told.get("mean_output_length") or {**told.get("mean_output_words", {}), "unit": "words"}
    return found


def rule(arm: Mapping[str, Any]) -> str:
    """How an arm was chosen, in words."""
    by = "expected score" if arm.get("by") == "expected" else "score"
    size = f"{arm['k']:,}" if arm.get("k") else "as many as the selected arm has"
    threshold = 4.5 if arm.get("threshold") is None else arm["threshold"]
    words = {
        "threshold": f"{by} of at least {threshold:g}",
        "top": f"the {size} with the highest {by}",
        "random": f"drawn at random, {size} (seed {arm.get('seed', 0)})",
        "longest": f"the longest outputs, {size}",
        "lowest": f"the lowest {by}, {size}",
        "full": "everything",
    }
    floors = ", ".join(f"{count:,} of {name}" for name, count in (arm.get("floors") or {}).items())
    return words[arm["policy"]] + (f"; at least {floors}" if floors else "")


def selection(arm: str, manifest: Manifest, told: Mapping[str, Any], reasons: Counter[str]) -> dict[str, Any]:
    """The report's arm: what `selection.json` says of it, where the cut lies, why the others were left out."""
    kept = [entry["score"] for entry in told["histogram"] if entry["kept"]]
    chosen_by_score = manifest.settings["arm"]["policy"] in BY_SCORE
    return {
        "arm": arm,
        "rule": rule(manifest.settings["arm"]),
        "by_score": chosen_by_score,
        "by": manifest.settings["arm"].get("by", "score"),
        "cut": min(kept) if kept and chosen_by_score else None,
        **{key: told[key] for key in ("rows", "tokens", "histogram", "threshold_curve", "categories")},
        "mean_output_length": mean_length(told),
        "dropped_reasons": dict(reasons.most_common(MOST_REASONS)),
        "judge_reasons": {},
    }


def rule_reasons(replies: Iterable[str | None]) -> dict[str, int]:
    """What the offline judge found wrong, most frequent first; numbers are left out, so that equal findings are counted."""
    found: Counter[str] = Counter()
    for reply in replies:
        said = (reply or "").partition("\n")[2].rpartition(MARKED)[0]
        found.update(NUMBER.sub("N", reason.strip()) for reason in said.split(";") if reason.strip())
    return dict(found.most_common(MOST_REASONS))
