"""What is to be told of ratings and arms besides their numbers, in words: who rated, what a cascade has missed, how clean and
how broad an arm is. From manifests; each is told only where they have it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from alpagasus_ray.config import Judge
from alpagasus_ray.reporting.number_text import money
from alpagasus_ray.store.manifest import Manifest


def score_notes(manifest: Manifest, judge: Judge) -> list[str]:
    """Of ratings."""
    notes = []
    if judge.traits.is_baseline:
        notes.append("rated by mechanical rules, a baseline: no language model read the examples")
    if judge.kind == "distilled":
        notes.append("rated by a small model of a judge: it repeats its judge's taste, and knows words, not facts")
    if "cascade" in manifest.details:
        notes.append(manifest.details["cascade"]["in_words"])
        saved = manifest.details["cascade"]["saved_usd"]
        notes += [f"what was not asked would have cost about ${money(saved)}"] if saved else []
    without = manifest.rows - manifest.counts.get("scored", 0) - manifest.counts.get("not_asked", 0)
    if without and not judge.traits.is_recorded:
        failed = {status: count for status, count in manifest.counts.items() if status not in ("scored", "not_asked")}
        told = ", ".join(f"{count:,} {status}" for status, count in failed.items())
        again = "" if "cascade" in manifest.details else "; --retry-failed asks for them again"
        notes.append(f"{without:,} rows have no score ({told}){again}")
    if manifest.stage.endswith("/trial"):
        notes.append("a trial: no ratings were made, but every reply is kept and a full run will not ask for it again")
    return notes


def picked_notes(details: Mapping[str, Any]) -> Iterator[str]:
    """Of an arm, from the details of its manifest."""
    if whose := details.get("chosen_by"):
        told = ", ".join(f"{rows:,} by the score of the {name}" for name, rows in whose.items() if rows)
        yield f"of ratings by a cascade: {told}"
    if checked := details.get("clean"):
        yield from clean_notes(checked)
    if broad := details.get("breadth"):
        covered = "nothing" if broad["coverage"] is None else f"{broad['coverage']:.3f}"
        yield (
            f"breadth: coverage {covered} (mean cosine with the nearest kept), {broad['effective_clusters']:,.0f} effective "
            f"clusters, {broad['drift']:.1%} away from the dataset's shares"
        )


def clean_notes(checked: Mapping[str, Any]) -> Iterator[str]:
    """What was looked for, and what was found."""
    prompts = sum(one["prompts"] for one in checked["tests"])
    if checked["tests"]:
        names = ", ".join(one["test_set"] for one in checked["tests"])
        found = checked["contaminated"]
        verdict = "clean" if not found else f"{found:,} examples hold one and are dropped (contamination.tsv)"
        short = checked["texts_too_short"]
        but = f"; {short:,} texts are too short to be looked for" if short else ""
        yield f"compared with {prompts:,} prompts of {names}, by word 8-grams: {verdict}{but}"
    if checked["near"] is not None:
        yield f"near repeats (similarity of {checked['near']:g} or more): {checked['near_repeats']:,} left out"
