"""Cards of judges and human studies as a person reads them on a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from alpagasus_ray.reporting.number_text import money
from alpagasus_ray.terminal import spelled

Summary = Mapping[str, Any]


def card_lines(report: Summary) -> Iterator[str]:
    """A verdict with its reasons for each judge, and what the judges have in common."""
    yield f"judges: {len(report['cards']):,} cards in {report['location']}"
    for card in report["cards"]:
        yield f"  {spelled(card['line'])}"
        yield from (f"    also: {spelled(also)}" for also in card["also"])
        for reason, sections in _by_reason(card["missing"]).items():
            yield f"    not known: {', '.join(sections)}: {spelled(reason)}"
        if card["cost_usd"]:
            yield f"    its probes cost ${money(card['cost_usd'])}"
        yield f"    {card['file']}"
    together = report["together"]
    if together is not None:
        odd = together["odd_one_out"]
        without = f"; without {odd} the others agree better" if odd else ""
        judges = f"  together: {len(together['judges'])} judges of {together['rows']:,} rows"
        yield f"{judges} agree at an alpha of {in_words(together['alpha'])}{without}"


def _by_reason(missing: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for section, reason in missing.items():
        reasons.setdefault(reason, []).append(section.replace("_", " "))
    return reasons


def in_words(figure: Mapping[str, float | None], digits: int = 3) -> str:
    """A figure with its interval and n."""
    if figure["value"] is None:
        return f"no data (n = {figure['n']:,})"
    ends = "" if figure["low"] is None else f" [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"
    return f"{figure['value']:.{digits}f}{ends} (n = {figure['n']:,})"


def people_lines(report: Summary) -> Iterator[str]:
    """How far each human study is."""
    yield f"people: {len(report['people']):,} studies in {report['location']}"
    for study in report["people"]:
        yield f"  {study['study']}: {study['items']:,} items, {len(study['voters']):,} voters"
