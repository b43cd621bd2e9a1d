"""What docs/python.md shows is what comes out: each block with `>>>` is run, in order, against a judge on loopback."""

import doctest
import json
import re
from pathlib import Path

import pytest

from alpagasus_ray.api import scorers
from alpagasus_ray.judging import rubric
from judge_server import message_hash
from loopback import JudgeStarter

DOCS = Path(__file__).parents[2] / "docs" / "python.md"
BLOCK = re.compile(r"```python\n(>>>.*?)```", re.DOTALL)
SCORES = {
    ("Name a fruit.", "An apple."): "4.5",
    ("Name a planet.", "Mars."): "5",
    ("Name a star.", "The sun, which is the star that is nearest to us."): "3",
}


def score_file(folder: Path) -> Path:
    """What the page's judge says, as its server reads it."""
    asked = rubric.load("accuracy")
    texts = {
        asked.messages({"instruction": question, "input": "", "output": answer})[-1]["content"]: score
        for (question, answer), score in SCORES.items()
    }
    file = folder / "scores.json"
    file.write_text(json.dumps({message_hash(text): score for text, score in texts.items()}))
    return file


@pytest.fixture
def _here(judge: JudgeStarter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's reader: an empty directory and a server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPAGASUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_BASE_URL", judge("--scores", str(score_file(tmp_path))).base_url)


@pytest.mark.usefixtures("_here")
def test_every_example_of_the_page_prints_what_the_page_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorers, "_known", {})
    text = "\n".join(BLOCK.findall(DOCS.read_text(encoding="utf-8")))
    examples = doctest.DocTestParser().get_doctest(text, {}, DOCS.name, str(DOCS), 0)
    assert len(examples.examples) > 15
    failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples).failed
    assert failed == 0, capsys.readouterr().out
    drifted = doctest.DocTestParser().get_doctest(text.replace("4.5", "4.0"), {}, DOCS.name, str(DOCS), 0)
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False).run(drifted).failed > 0
