"""The dataset card of the report's arm, as the Hugging Face hub reads it: a YAML header and a text. Pure.

What only its maker can know, license and language, is left to fill in, and says so.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from alpagasus_ray.reporting.text import money

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
LARGEST = "n>10M"
TAGS = ("instruction-tuning", "data-selection", "alpagasus", "llm-as-a-judge")
COMMENTS = """\
# license: the license of the examples' source; `other` until you have looked it up
# language: add it, e.g. `language: [en]`
"""


def dataset_card(found: Mapping[str, Any]) -> str:
    """The card, from the findings of a report."""
    chosen = found["selection"]
    arm = next((entry for entry in found["arms"] if chosen and entry["arm"] == chosen["arm"]), None)
    name = found["examples"]["name"] if found["examples"] else "dataset"
    lines = _without_arm(found) if arm is None else _body(found, arm)
    title = f"{name}, selected" if arm is None else f"{name}: {arm['arm']}"
    return f"---\n{COMMENTS}{_header(title, arm)}---\n\n# {title}\n\n" + "\n".join(lines) + "\n"


def _header(title: str, arm: Mapping[str, Any] | None) -> str:
    rows = arm["rows"] if arm else 0
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


def _without_arm(found: Mapping[str, Any]) -> Iterator[str]:
    count = found["examples"]["rows"] if found["examples"] else 0
    yield f"No examples have been chosen yet; the run holds {count:,}. `jobs/pick_subset.py` chooses them."


def _body(found: Mapping[str, Any], arm: Mapping[str, Any]) -> Iterator[str]:
    whole = arm["rows"] + arm["dropped"]
    yield f"{arm['rows']:,} instruction examples, chosen out of {whole:,} by alpagasus-ray: {_plain(arm['rule'])}."
    yield from _chosen(found, arm)
    yield from _columns(arm)
    yield from _evidence(found)
    yield from _limits(found)
    yield from _provenance(found, arm)


def _chosen(found: Mapping[str, Any], arm: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## How it was chosen\n"
    rating = next((entry for entry in found["ratings"] if entry["name"] == arm["ratings"]), None)
    if rating is None:
        yield f"- Rule: {_plain(arm['rule'])}; no ratings were used"
    else:
        yield f"- Judge: {_plain(rating['judge'])} (`{rating['kind']}`), rated {_plain(str(rating['dimension']))}"
        yield f"- Rubric: prompt `{rating['prompt_hash']}`"
        yield f"- Rule: {_plain(arm['rule'])}"
        unscored = rating["rows"] - rating["counts"].get("scored", 0)
        yield f"- Rated: {rating['rows']:,} examples, {unscored:,} of them without a score"
        if rating["dollars"] is not None:
            yield f"- Price of the ratings: ${money(rating['dollars'])}"
    yield f"- Kept: {arm['rows']:,}; left out: {arm['dropped']:,}"
    for reason, count in found["selection"]["dropped_reasons"].items():
        yield f"  - {count:,}: {_plain(reason)}"


def _columns(arm: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## How to load it\n"
    yield "`subset.json` is a list of objects with `instruction`, `input` and `output` (Alpaca's layout), in source order;"
    yield "conversations have `system` and `history` (pairs of instruction and output) besides.\n"
    yield "```python"
    yield "from datasets import load_dataset\n"
    yield 'examples = load_dataset("json", data_files="subset.json", split="train")'
    yield "```"
    if arm["tokens"] is not None:
        yield f"\nTokens of all texts: {arm['tokens']:,} ({_plain(str(arm['counted_by']))})."


def _evidence(found: Mapping[str, Any]) -> Iterator[str]:
    first = found["first"]
    yield "\n## What training on it gave\n"
    for asked in first["questions"]:
        said = " ".join(part for part in (f"{asked['question']} {asked['word']}.", asked["sentence"], asked["behind"]) if part)
        yield f"- {_plain(said)}"
    if len(first["questions"]) > 1:
        yield f"\nBoth together: {first['word']}."
    if first["cheaper"]:
        yield f"\n{_plain(first['cheaper'])}"
    for note in [first["claim"], *first["notes"]]:
        if note:
            yield f"\n> {_plain(note)}"


def _limits(found: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## Known limits\n"
    yield "- Ratings are one judge's opinion. A judge's errors and tastes, for length above all, are in the choice."
    yield "- Nothing was changed or checked by hand: what was wrong, private or harmful in a chosen example still is."
    if found["selection"]["categories"]:
        low = min(found["selection"]["categories"], key=lambda entry: entry["share"])
        yield f"- Categories are not kept alike; least of {_plain(str(low['category'] or 'none'))}: {low['share']:.0%}."
    else:
        yield "- The examples have no categories, so what the choice does to the mix of tasks was not measured."
    yield "- The license of the source holds for the examples too."


def _provenance(found: Mapping[str, Any], arm: Mapping[str, Any]) -> Iterator[str]:
    yield "\n## Where it came from\n"
    yield "| stage | settings | content |"
    yield "|---|---|---|"
    names = {"examples", f"ratings/{arm['ratings']}", f"subsets/{arm['arm']}"}
    for link in found["chain"]:
        if link["stage"] in names:
            yield f"| {link['stage']} | `{link['settings_hash']}` | `{link['content_hash']}` |"
    for link in found["chain"]:
        if link["stage"] == "examples":
            files = ", ".join(f"`{entry['name']}` ({entry['hash']})" for entry in link["inputs"][:20])
            yield f"\nSource files: {files or 'not recorded'}."


def _plain(text: str) -> str:
    """A text of the run as a part of a line: no line breaks, nothing that Markdown or HTML would take for its own."""
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")
