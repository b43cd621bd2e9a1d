"""What `pick` has found out about an arm, in words, for the terminal and the page: by whose score, how clean, how broad.

From the details of an arm's manifest; each is there only where the run has it.
"""

from collections.abc import Iterator, Mapping
from typing import Any


def picked_notes(details: Mapping[str, Any]) -> Iterator[str]:
    """One line for each of them."""
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
