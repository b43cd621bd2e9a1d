"""The dataset card of the report's arm, as the Hugging Face hub reads it: a YAML header and a text. Pure.

What only its maker can know, license and language, is left to fill in, and says so.
"""

from collections.abc import Iterator

import yaml

from alpagasus_ray.reporting.number_text import between, money, number
from alpagasus_ray.reporting.report_data import ReportData
from alpagasus_ray.reporting.selection_data import ArmEntry, Selection

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
LARGEST = "n>10M"
MOST_FILES = 20
TAGS = ("instruction-tuning", "data-selection", "alpagasus", "llm-as-a-judge")
COMMENTS = """\
# license: the license of the examples' source; `other` until you have looked it up
# language: add it, e.g. `language: [en]`
"""


def dataset_card(data: ReportData) -> str:
    """The card, from the data of a report."""
    selection = data.selection
    arm = next((entry for entry in data.arms if selection and entry.arm == selection.arm), None)
    name = data.examples.name if data.examples else "dataset"
    lines = _without_arm(data) if selection is None or arm is None else _body(data, selection, arm)
    title = f"{name}, selected" if arm is None else f"{name}: {arm.arm}"
    return f"---\n{COMMENTS}{_header(title, arm)}---\n\n# {title}\n\n" + "\n".join(lines) + "\n"


def _header(title: str, arm: ArmEntry | None) -> str:
    rows = arm.rows if arm else 0
    size = next((label for most, label in SIZES if rows < most), LARGEST)
    return yaml.safe_dump(
        {
            "pretty_name": title,
            "license": "other",
            "task_categories": ["text-generation"],
            "size_categories": [size],
            "tags": list(TAGS),
            "configs": [{"config_name": "default", "data_files": "subset.json"}],
        },
        sort_keys=False,
        allow_unicode=True,
    )


def _without_arm(data: ReportData) -> Iterator[str]:
    count = data.examples.rows if data.examples else 0
    yield f"No examples have been chosen yet; the run holds {count:,}. `alpagasus pick` chooses them."


def _body(data: ReportData, selection: Selection, arm: ArmEntry) -> Iterator[str]:
    whole = arm.rows + arm.dropped
    yield f"{arm.rows:,} instruction examples, chosen out of {whole:,} by alpagasus-ray: {_plain(arm.rule)}."
    yield from _chosen(data, selection, arm)
    yield from _trust(data, arm)
    yield from _columns(arm)
    yield from _answers(data)
    yield from _measured(data)
    yield from _limits(selection)
    yield from _provenance(data, arm)


def _chosen(data: ReportData, selection: Selection, arm: ArmEntry) -> Iterator[str]:
    yield "\n## How it was chosen\n"
    rating = next((entry for entry in data.ratings if entry.name == arm.ratings), None)
    if rating is None:
        yield f"- Rule: {_plain(arm.rule)}; no ratings were used"
    else:
        yield f"- Judge: {_plain(rating.judge)} (`{rating.kind}`), rated {_plain(str(rating.dimension))}"
        yield f"- Rubric: prompt `{rating.prompt_hash}`"
        yield f"- Rule: {_plain(arm.rule)}"
        unscored = rating.rows - rating.counts.get("scored", 0)
        yield f"- Rated: {rating.rows:,} examples, {unscored:,} of them without a score"
        if rating.dollars is not None:
            yield f"- Price of the ratings: ${money(rating.dollars)}"
    yield f"- Kept: {arm.rows:,}; left out: {arm.dropped:,}"
    for reason, count in selection.dropped_reasons.items():
        yield f"  - {count:,}: {_plain(reason)}"


def _trust(data: ReportData, arm: ArmEntry) -> Iterator[str]:
    """What is known of the judge that the arm was chosen by, praise beside chance and length."""
    card = next((one for one in data.trust.cards if one.name == arm.ratings), None)
    if card is None:
        return
    yield "\n## How far its judge can be trusted\n"
    yield f"Verdict: {card.verdict}. {_plain('; '.join((*card.why, *card.also)))}.\n"
    yield "| figure | value (95%) | n |"
    yield "|---|---|---|"
    for figure in card.figures:
        yield f"| {_plain(figure.about)} | {between(figure)} | {figure.n:,} |"
    if card.beside:
        yield "\n| | random | longest | the judge | length taken out |"
        yield "|---|---|---|---|---|"
        for row in card.beside:
            told = (between(one) if one else "" for one in (row.longest, row.judge, row.given_length))
            yield f"| {_plain(row.about)} | {number(row.random)} | {' | '.join(told)} |"
    if card.missing:
        yield f"\nNot known: {', '.join(section.replace('_', ' ') for section in card.missing)}."


def _columns(arm: ArmEntry) -> Iterator[str]:
    yield "\n## How to load it\n"
    yield "`subset.json` is a list of objects with `instruction`, `input` and `output` (Alpaca's layout), in source order;"
    yield "conversations have `system` and `history` (pairs of instruction and output) besides.\n"
    yield "```python"
    yield "from datasets import load_dataset\n"
    yield 'examples = load_dataset("json", data_files="subset.json", split="train")'
    yield "```"
    if arm.tokens is not None:
        yield f"\nTokens of all texts: {arm.tokens:,} ({_plain(str(arm.counted_by))})."


def _answers(data: ReportData) -> Iterator[str]:
    first = data.first
    if first.questions:
        yield "\n## What training on it gave\n"
    for question in first.questions:
        parts = (f"{question.question} {question.word}.", question.sentence, question.behind)
        yield f"- {_plain(' '.join(part for part in parts if part))}"
    if len(first.questions) > 1:
        yield f"\nBoth together: {first.word}."
    if first.cheaper:
        yield f"\n{_plain(first.cheaper)}"
    for note in [first.claim, data.trust.note, *first.notes]:
        if note:
            yield f"\n> {_plain(note)}"


def _measured(data: ReportData) -> Iterator[str]:
    """What the arms gave in a race and in benchmarks, where there was one."""
    for panel in data.panels:
        heading = {"race": "What a race of the arms gave", "benchmarks": "Benchmarks of the models"}.get(panel.id)
        if heading and panel.points:
            yield f"\n## {heading}\n"
            yield from (f"- {_plain(point)}" for point in panel.points)


def _limits(selection: Selection) -> Iterator[str]:
    yield "\n## Known limits\n"
    yield "- Ratings are one judge's opinion. A judge's errors and tastes, for length above all, are in the choice."
    yield "- Nothing was changed or checked by hand: what was wrong, private or harmful in a chosen example still is."
    if selection.categories:
        low = min(selection.categories, key=lambda entry: entry.share)
        yield f"- Categories are not kept alike; least of {_plain(str(low.category or 'none'))}: {low.share:.0%}."
    else:
        yield "- The examples have no categories, so what the choice does to the mix of tasks was not measured."
    yield "- The license of the source holds for the examples too."


def _provenance(data: ReportData, arm: ArmEntry) -> Iterator[str]:
    yield "\n## Where it came from\n"
    yield "| stage | settings | content |"
    yield "|---|---|---|"
    names = {"examples", f"ratings/{arm.ratings}", f"subsets/{arm.arm}"}
    for origin in data.chain:
        if origin.stage in names:
            yield f"| {origin.stage} | `{origin.settings_hash}` | `{origin.content_hash}` |"
    for origin in data.chain:
        if origin.stage == "examples":
            files = ", ".join(f"`{source.name}` ({source.hash})" for source in origin.inputs[:MOST_FILES])
            yield f"\nSource files: {files or 'not recorded'}."


def _plain(text: str) -> str:
    """A text of the run as a part of a line: no line breaks, nothing that Markdown or HTML would take for its own."""
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")
