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
        yield from (f"    note: {spelled(note)}" for note in card["notes"])
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
    """How far each human study is, and what its votes come to."""
    yield f"people: {len(report['people']):,} studies in {report['location']}"
    for study in report["people"]:
        yield from _study(study)


def _study(study: Summary) -> Iterator[str]:
    counts = study["counts"]
    yield f"  {study['study']}: {study['items']:,} items for {', '.join(map(spelled, study['asked']))}"
    yield f"    {study['page']}"
    if study["named_in"]:
        yield f"    answers to {len(study['named_in']):,} items name one of the models: their voters could know whose they are"
    for one in counts["voters"]:
        left = f", {one['missing']:,} to come" if one["missing"] else ""
        yield f"    {spelled(one['voter'])}: {one['votes']:,} votes{left}; {_steadiness(one)}"
    if "tally" in counts:
        yield from _outcome(counts)
    elif counts["voters"]:
        yield f"    alpha of the ratings {in_words(counts['alpha'])}"


def _steadiness(one: Summary) -> str:
    parts = {"the same again": one["self_consistency"], "checks seen": one["checks_passed"], "first side": one["first_side"]}
    return ", ".join(f"{what} {'no data' if of['value'] is None else format(of['value'], '.0%')}" for what, of in parts.items())


def _outcome(counts: Summary) -> Iterator[str]:
    tally, both = counts["tally"], counts["judge"]
    split = f", {tally['split']:,} split three ways or without a majority" if tally["split"] else ""
    single = f" ({tally['single']:,} by one vote alone)" if tally["single"] else ""
    yield f"    by majority {tally['win']:,} win, {tally['tie']:,} tie, {tally['lose']:,} lose{split}{single}"
    yield f"    people with each other: Fleiss' kappa {in_words(counts['fleiss'])}, alpha {in_words(counts['alpha'])}"
    if both is None:
        yield "    no judge has compared these answers"
        return
    judge = counts["judge_tally"]
    yield f"    the judge {spelled(counts['judge_name'])}: {judge['win']:,} win, {judge['tie']:,} tie, {judge['lose']:,} lose"
    yield f"    the judge with the majority: kappa {in_words(both['with_majority']['kappa'])}"
    rates = counts["rates"]
    yield f"    win rate: the judge's {in_words(rates['raw'])}, people's {in_words(rates['people'])}"
    if rates["ppi"] is not None:
        yield f"    people's over all prompts, as the judge lets it be guessed (PPI++): {in_words(rates['ppi'])}"
