"""Counting tokens: by whom, how exactly, and never with a wait that has no end."""

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken.registry

from alpagasus_ray.config import Judge
from alpagasus_ray.engines import tokens
from alpagasus_ray.engines.tokens import AROUND, counter, load_tokenizer
from alpagasus_ray.errors import UsageError

PROMPT = [{"role": "system", "content": "You grade."}, {"role": "user", "content": "Ä 4<|endoftext|>"}]
BYTES = len("You grade.") + len("Ä 4<|endoftext|>".encode())
# every byte is a token
TINY = tiktoken.Encoding("tiny", pat_str=r"\w+|\W+", mergeable_ranks={bytes([n]): n for n in range(256)}, special_tokens={})


@pytest.fixture
def no_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """tiktoken as on a fresh machine whose network does not reach far."""
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    return monkeypatch


def _is_an_estimate(counts: tokens.TokenCounter) -> bool:
    assert counts.lengths([PROMPT]) == [-(-BYTES // 4) + 3 * AROUND]
    return counts.estimate and "estimate, 4 bytes" in counts.by


def test_without_a_vocabulary_the_count_is_an_estimate_and_says_so(no_vocabulary: pytest.MonkeyPatch) -> None:
    assert _is_an_estimate(counter(Judge(model="gpt-4o-mini")))


def test_a_vocabulary_that_never_arrives_is_not_waited_for(no_vocabulary: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        no_vocabulary.setenv("HTTPS_PROXY", f"http://127.0.0.1:{silent.getsockname()[1]}")
        no_vocabulary.setattr(tokens, "FETCH_S", 0.1)
        assert _is_an_estimate(counter(Judge(model="gpt-4o-mini")))


def test_tiktoken_counts_the_models_it_knows_and_what_the_chat_format_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken, "encoding_for_model", {"gpt-4o-mini": TINY}.__getitem__)
    counts = counter(Judge(model="gpt-4o-mini"))
    assert (counts.by, counts.estimate) == ("tiktoken tiny", False)
    assert counts.lengths([PROMPT, PROMPT[:1], []]) == [BYTES + 3 * AROUND, 10 + 2 * AROUND, AROUND]


def test_marks_of_the_vocabulary_in_a_text_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = tiktoken.Encoding(
        "tiny", pat_str=r"\w+|\W+", mergeable_ranks=TINY._mergeable_ranks, special_tokens={"<|end|>": 256}
    )
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: marked)
    assert counter(Judge(model="gpt-4o-mini")).lengths([[{"role": "user", "content": "<|end|>"}]]) == [7 + 2 * AROUND]


def test_a_model_that_tiktoken_does_not_know_is_counted_with_its_latest_vocabulary_and_called_an_estimate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiktoken, "get_encoding", {"o200k_base": TINY}.__getitem__)
    counts = counter(Judge(model="mine/llama", base_url="http://localhost:8000/v1"))
    assert counts.estimate
    assert "an estimate: it does not know 'mine/llama'; name its own by score.judge.tokenizer" in counts.by
    assert counts.lengths([PROMPT]) == [BYTES + 3 * AROUND]


def _copy(shared: Path, folder: Path, template: str | None) -> str:
    """The real tokenizer with another chat template, or with none."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(shared / "tiny_llama" / name, folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def test_the_judges_own_tokenizer_counts_the_prompt_in_its_chat_template(shared: Path) -> None:
    name = str(shared / "tiny_llama")
    counts = counter(Judge(model="gpt-4o-mini", tokenizer=name))
    assert (counts.by, counts.estimate) == (f"the tokenizer {name}", False)
    tokenizer: Any = load_tokenizer(name, "score.judge.tokenizer")
    written = "<s>system: You grade.\nuser: Ä 4<|endoftext|>\nassistant:"
    assert counts.lengths([PROMPT, PROMPT[:1]])[0] == len(tokenizer(written, add_special_tokens=False)["input_ids"])


def test_a_tokenizer_without_a_chat_template_counts_the_texts(shared: Path, tmp_path: Path) -> None:
    name = _copy(shared, tmp_path / "bare", None)
    bare: Any = load_tokenizer(name, "score.judge.tokenizer")
    assert bare.chat_template is None
    texts = bare("You grade.\nÄ 4<|endoftext|>", add_special_tokens=False)["input_ids"]
    assert counter(Judge(tokenizer=name)).lengths([PROMPT]) == [len(texts) + 3 * AROUND]


def test_a_chat_template_that_refuses_the_messages_is_told(shared: Path, tmp_path: Path) -> None:
    name = _copy(shared, tmp_path / "strict", "{{ raise_exception('no system role') }}")
    with pytest.raises(UsageError, match=r"score\.judge\.tokenizer '.*/strict': its chat template refuses .*no system role"):
        counter(Judge(tokenizer=name)).lengths([PROMPT])


def test_a_tokenizer_that_cannot_be_loaded_is_told_with_the_knob_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"pick\.tokenizer '{tmp_path}' cannot be loaded"):
        load_tokenizer(str(tmp_path), "pick.tokenizer")
