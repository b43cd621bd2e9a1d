"""What the documentation promises of itself: blocks print what they show, messages are found, every page is in the site."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import blocks
import messages
from alpagasus_ray import api
from alpagasus_ray.errors import UsageError
from loopback import JudgeStarter
from toy_runs import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks.BLOCK.search((DOCS / page).read_text())])
def test_blocks_print_what_they_show(page: str) -> None:
    different = list(blocks.differing((DOCS / page).read_text()))
    assert not different, f"python docs/scripts/blocks.py docs/{page} writes what they print now"


@pytest.fixture(scope="module")
def patterns() -> list[str]:
    """What finds each message of the package, whatever is filled in."""
    return [".*".join(map(re.escape, message.text.split("…"))) for message in messages.messages()]


@pytest.mark.parametrize("knobs", [{}, {"top": 0}, {"share": 2}, {"top": 3, "per": "colour"}])
def test_a_message_is_found_by_its_words(knobs: dict[str, Any], patterns: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        api.Rated([{"output": "x"}], [1.0], [None], None, None).pick(**knobs)  # type: ignore[arg-type]
    assert any(re.fullmatch(pattern, str(raised.value), re.DOTALL) for pattern in patterns)


def test_every_error_that_the_package_raises_with_words_is_on_the_page() -> None:
    page = " ".join(messages.page().split())
    for module, words in {
        "cli": "is not of the form key=value",
        "config/finetune": "exclude each other: give one",
        "inference": "the budget is used up",
        "store": "another driver is working on",
        "raycluster": "RAY_ADDRESS",
        "training": "finetune.packing",
        "feasibility": "refuses the key",
    }.items():
        assert words in page, f"a message of {module}"


def test_every_page_is_in_the_navigation_once() -> None:
    def named(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry if isinstance(entry, list) else entry.values()
        return [page for value in values for page in named(value)]

    pages = named(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(pages) == sorted([*PAGES, "index.md", "contributing.md"]), "the navigation stands in mkdocs.yml"


def test_the_python_of_the_readme_does_what_it_says(
    judge: JudgeStarter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("OPENAI_BASE_URL", judge().base_url), ("OPENAI_API_KEY", "a-key"), ("ALPAGASUS_CACHE", str(tmp_path))):
        monkeypatch.setenv(name, value)
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    rows = [{"instruction": f"Say {number}.", "output": str(number), "topic": number} for number in range(6)]
    asked = block.replace("top=9000", "top=2").replace("max_cost_usd=5", "max_cost_usd=5, price={'input': 1, 'output': 1}")
    exec(asked, {"rows": rows})
    written = [json.loads(line) for line in (tmp_path / "best.jsonl").read_text().splitlines()]
    assert len(written) == 2
    assert all(row == {**rows[row["topic"]], "score": row["score"]} for row in written)


def test_the_readme_is_short_and_its_picture_small() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.split()) <= 1200
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+\.png)\)", readme)
    assert (ROOT / picture).stat().st_size < 200_000
