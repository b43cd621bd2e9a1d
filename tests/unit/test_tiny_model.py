"""The quickstart's tiny model: its files are what their script makes, its tokenizer knows every text."""

import runpy
from pathlib import Path

import pytest

from toy_runs import ROOT

FOLDER = ROOT / "examples/tiny_model"
pytest.importorskip("transformers", reason="transformers is not installed (make install)")


def test_the_files_are_made_by_their_script_byte_for_byte(tmp_path: Path) -> None:
    runpy.run_path(str(FOLDER / "make.py"))["main"](tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in FOLDER.glob("*.json")}


@pytest.mark.parametrize("text", ["Grüße, 你好 🙂", "def f():\n\treturn 1", "### Response:", "</s> is no end here", ""])
def test_every_text_comes_back(text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    ids = tokenizer(text, split_special_tokens=True).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids[1:]) == text
