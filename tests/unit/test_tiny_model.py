"""The quickstart's tiny model: its files are what their script makes, its tokenizer knows every text, transformers opens it."""

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


def test_its_vocabulary_needs_no_token_for_what_is_unknown_and_like_llama_has_none_to_pad_with() -> None:
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    assert (tokenizer.unk_token, tokenizer.pad_token) == (None, None)
    assert len(tokenizer) == AutoConfig.from_pretrained(FOLDER).vocab_size == 2048
    assert (FOLDER / "tokenizer.json").stat().st_size < 200_000


def test_random_weights_of_its_shape_are_saved_and_opened_with_its_tokenizer(tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(FOLDER))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(FOLDER).save_pretrained(tmp_path)
    opened, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    asked = tokenizer("Grüße, 你好", return_tensors="pt")
    assert torch.equal(opened(**asked).logits, model.eval()(**asked).logits)
