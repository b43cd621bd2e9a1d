"""An example as tokens: what is learned of it is its response and the end token, to the letter, and nothing else."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import Finetune
from alpagasus_ray.data.prompts import alpaca_prompt
from alpagasus_ray.engines.tokens import load_tokenizer
from alpagasus_ray.errors import UsageError
from alpagasus_ray.training.encode import Encoded, Encoder, Left

Row = dict[str, Any]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATING = "{% if messages | length > 4 %}{{ raise_exception('too many turns') }}{% endif %}"


@pytest.fixture(scope="module")
def rows(shared: Path) -> list[Row]:
    """All Alpaca rows, by their number."""
    files = sorted((shared / "alpaca52k").glob("*.json"), key=lambda file: int(re.findall(r"\d+", file.stem)[0]))
    return [record | {"system": None, "history": None} for file in files for record in json.loads(file.read_text())]


@pytest.fixture(scope="module")
def tiny(shared: Path) -> str:
    return str(shared / "tiny_llama")


@pytest.fixture(scope="module")
def encoder(tiny: str) -> Encoder:
    """Nothing is too long for it."""
    return _encoder(tiny, max_length=5000)


def _encoder(model: str, **changes: Any) -> Encoder:
    return Encoder(Finetune(model=model, packing=False, **changes))


def _row(instruction: str = "Add.", given: str = "", output: str = "3", **more: Any) -> Row:
    return {"instruction": instruction, "input": given, "output": output, "system": None, "history": None, **more}


def _one(encoder: Encoder, row: Row) -> Encoded:
    [found] = encoder.encode([row])
    assert isinstance(found, Encoded)
    return found


def _tokens(encoder: Encoder, found: Encoded) -> list[str]:
    """What is learned, token by token."""
    names: list[str] = encoder.tokenizer.convert_ids_to_tokens(found.ids[found.prompt_tokens :])
    return names


def _text(encoder: Encoder, found: Encoded) -> str:
    """What is learned, as text."""
    text: str = encoder.tokenizer.decode(found.ids[found.prompt_tokens :])
    return text


def _told(encoder: Encoder, found: Encoded) -> str:
    """What carries no loss, as text."""
    text: str = encoder.tokenizer.decode(found.ids[: found.prompt_tokens])
    return text


# masks of real examples, written by hand: number of the row, tokens without loss, tokens with loss


@pytest.mark.parametrize(
    ("number", "prompt_tokens", "learned"),
    [
        (81, 215, "1 </s>"),
        (99, 197, "T r u e . </s>"),
        (148, 190, "[ 5 , ▁ 8 , ▁ 3 , ▁ 5 ] </s>"),
        (284, 182, "</s>"),  # an empty output after an input
        (306, 166, "< N o ▁ out p ut > </s>"),
        (528, 125, "1 0 0 ▁ <0xC2> <0xB0> C . </s>"),
        (1347, 113, "</s>"),  # an empty output without an input
        (2160, 135, "V en g o ▁d e ▁u n ▁p u e b l o ▁p e q u e ñ o . </s>"),
        (3830, 159, "T y re se </s>"),  # the output is the input
        (4187, 163, "<0xC2> <0xA1> H o l a ! ▁ <0xC2> <0xBF> C <0xC3> <0xB3> m o ▁e st <0xC3> <0xA1> s ? </s>"),
        (4470, 194, "7 7 <0xC2> <0xB0> F </s>"),
        (5760, 212, "n ot ▁s p am </s>"),  # an emoji in the input
        (7165, 169, "<0xF0> <0x9F> <0x98> <0x86> </s>"),  # an emoji is all of the output
        (14846, 131, "<0xC2> <0xA1> V am o s ▁a ▁c om er \xa0 c en a ! </s>"),  # a space that does not break
    ],
)
def test_every_token_of_the_response_and_its_end_is_learned(
    encoder: Encoder, rows: list[Row], number: int, prompt_tokens: int, learned: str
) -> None:
    found = _one(encoder, rows[number])
    assert (found.prompt_tokens, found.cut) == (prompt_tokens, False)
    assert _tokens(encoder, found) == learned.split(" ")


@pytest.mark.parametrize(
    ("number", "prompt_tokens", "count", "learned"),
    [
        (146, 136, 72, "def factorial(n):\n    if n == 0:\n        return 1\n    return n * factorial(n-1)</s>"),
        (358, 197, 29, "- Line \n- Color \n- Shape\n- Texture</s>"),
        (608, 230, 23, '"Let ACME take you around the world!"</s>'),
        (937, 192, 29, "C6H12O6 → 2 C2H5OH + 2 CO2</s>"),
        (1595, 198, 39, "Greece: Athens, France: Paris, India: New Delhi</s>"),
        (3164, 177, 34, "彼女は優秀な教師です。</s>"),
        (7413, 134, 65, "私の名前は何ですか？\nwatashi no namae wa nan desu ka? (What is my name?)</s>"),
        (12770, 125, 38, "The value of π to 6 decimal places is 3.141593.</s>"),
        (
            13417,
            123,
            100,
            "| C min | G min | F maj | B♭ maj | \n| :---: | :---: | :---: | :---: |\n| C4    | G3    | F4    | B♭4   |</s>",
        ),
        (14160, 177, 21, "💃🏻🌃🕺🏼</s>"),
        (
            16475,
            220,
            76,
            "def sumNums(a, b):\n\tsum = 0\n\twhile a < b: # colon missing\n\t\tsum += a\n\t\ta += 1\n\treturn sum</s>",
        ),
        (18789, 133, 40, "こんにちは、お元気ですか？</s>"),
        (22934, 185, 27, "I 🤩 shopping but I don't like wasting money</s>"),
    ],
)
def test_what_is_learned_reads_as_the_response_and_its_end(
    encoder: Encoder, rows: list[Row], number: int, prompt_tokens: int, count: int, learned: str
) -> None:
    found = _one(encoder, rows[number])
    assert (found.prompt_tokens, len(found.ids) - found.prompt_tokens) == (prompt_tokens, count)
    assert _text(encoder, found) == learned


@pytest.mark.parametrize(
    ("number", "max_length", "prompt_tokens", "learned"),
    [
        (6285, 224, 210, "1. Anderson, B. (2"),
        (6285, 211, 210, "1"),
        (
            15102,
            192,
            124,
            "The Gini index is a measure of economic inequality calculated by taking the ratio of the area between the Lore",
        ),
        (45289, 224, 199, "A common misconception about AI augment"),
    ],
)
def test_of_an_example_that_is_cut_the_beginning_of_the_response_is_learned_and_no_end(
    tiny: str, rows: list[Row], number: int, max_length: int, prompt_tokens: int, learned: str
) -> None:
    short = _encoder(tiny, max_length=max_length)
    found = _one(short, rows[number])
    assert (len(found.ids), found.prompt_tokens, found.cut) == (max_length, prompt_tokens, True)
    assert _text(short, found) == learned


def test_the_prompt_is_alpacas_to_the_letter_behind_the_token_of_the_beginning(encoder: Encoder, rows: list[Row]) -> None:
    assert _told(encoder, _one(encoder, rows[4470])) == (
        "<s> Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n### Instruction:\n"
        "Convert a temperature in Celsius to Fahrenheit given the temperature in Celsius.\n\n### Input:\n25°C\n\n### Response:"
    )
    assert _told(encoder, _one(encoder, rows[528])) == (
        "<s> Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nFind the temperature of boiling water at sea level.\n\n### Response:"
    )


@pytest.mark.parametrize("mark", ["### Response:", "### Instruction:", "\n\n### Response:\n\n### Response:"])
def test_marks_of_the_template_in_an_output_are_learned_as_text(encoder: Encoder, rows: list[Row], mark: str) -> None:
    plain, marked = _one(encoder, rows[99]), _one(encoder, {**rows[99], "output": f"{mark}True."})
    assert marked.prompt_tokens == plain.prompt_tokens == 197
    assert _text(encoder, marked) == f"{mark}True.</s>"


def test_over_real_examples_prompt_response_and_end_are_what_they_are_as_one_text(encoder: Encoder, rows: list[Row]) -> None:
    some = rows[::26]
    assert len(some) >= 2000
    tokenizer = encoder.tokenizer
    prompts = [alpaca_prompt(row["instruction"], row["input"]) for row in some]
    asked = tokenizer(prompts, verbose=False)["input_ids"]
    whole = tokenizer([prompt + row["output"] for prompt, row in zip(prompts, some, strict=True)], verbose=False)["input_ids"]
    for row, prompt, ids, found in zip(some, asked, whole, encoder.encode(some), strict=True):
        assert isinstance(found, Encoded)
        assert found.ids == [*ids, tokenizer.eos_token_id]
        assert found.ids[: found.prompt_tokens] == prompt
        assert found.ids.index(tokenizer.eos_token_id) == len(found.ids) - 1
        assert _text(encoder, found) == row["output"] + "</s>"


# lengths


def test_an_example_that_is_too_long_is_dropped_where_the_recipe_says_so(tiny: str, rows: list[Row]) -> None:
    short, middle = rows[81], rows[937]  # 217 and 221 tokens
    kept, left = _encoder(tiny, max_length=217, too_long="drop").encode([short, middle])
    assert isinstance(kept, Encoded)
    assert (len(kept.ids), kept.cut) == (217, False)
    assert left == Left("too long: 221 tokens", 221)


def test_an_example_whose_prompt_takes_all_the_room_is_left_with_a_reason(tiny: str, rows: list[Row]) -> None:
    [left] = _encoder(tiny, max_length=512).encode([rows[18304]])
    assert left == Left("no trainable token: 1,664 tokens before the response", 1731)
    [left] = _encoder(tiny, max_length=215).encode([rows[81]])
    assert isinstance(left, Left)
    [kept] = _encoder(tiny, max_length=216).encode([rows[81]])
    assert isinstance(kept, Encoded)
    assert kept.cut


# control tokens, history, system


def test_a_text_that_spells_control_tokens_stays_text(encoder: Encoder) -> None:
    spelt = "Stop.</s> <s>Go<unk>"
    found = _one(encoder, _row(spelt, spelt, spelt))
    tokenizer = encoder.tokenizer
    assert [found.ids.count(token) for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)] == [
        1,
        1,
        0,
    ]
    assert _text(encoder, found) == spelt + "</s>"
    assert _told(encoder, found).count(spelt) == 2


def test_a_call_of_the_tokenizer_by_others_does_not_arm_what_a_text_spells(encoder: Encoder) -> None:
    before = _one(encoder, _row(output="</s>"))
    encoder.tokenizer("x</s>", truncation=True, max_length=2, split_special_tokens=False)
    assert _one(encoder, _row(output="</s>")) == before


def test_turns_before_and_a_system_text_carry_no_loss(encoder: Encoder) -> None:
    turns = [{"instruction": "Hi.", "output": "Hello."}, {"instruction": "How are you?", "output": "Well."}]
    found = _one(encoder, _row("Bye.", output="See you.", system="Be brief.", history=turns))
    head = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    assert _told(encoder, found) == (
        f"<s> Be brief.\n\n{head}\n\n### Instruction:\nHi.\n\n### Response:Hello.</s>"
        f" {head}\n\n### Instruction:\nHow are you?\n\n### Response:Well.</s>"
        f" {head}\n\n### Instruction:\nBye.\n\n### Response:"
    )
    assert _text(encoder, found) == "See you.</s>"


# tokenizers of other kinds


def _bpe(folder: Path, merges: list[tuple[str, str]]) -> str:
    """A tokenizer of single characters and these merges, which puts a space before a text as Llama's does."""
    from tokenizers import Tokenizer, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(32, 127)] + ["\n", "▁"]
    vocabulary = {token: place for place, token in enumerate(["</s>", *letters, *("".join(pair) for pair in merges)])}
    found = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    PreTrainedTokenizerFast(tokenizer_object=found, eos_token="</s>").save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("merges", "output", "learned"),
    [
        ([], "(a)", "( a ) </s>"),
        ([(":", "(")], "(a)", "( a ) </s>"),
        ([(":", "\n")], "\na", "\n a </s>"),
        ([(":", "("), ("\n", "(")], "(a)", "▁ ( a ) </s>"),
    ],
)
def test_a_merge_of_prompt_and_response_leaves_the_prompt_as_the_model_is_asked_with_it(
    tmp_path: Path, merges: list[tuple[str, str]], output: str, learned: str
) -> None:
    model = _encoder(_bpe(tmp_path, merges))
    found = _one(model, _row(output=output))
    asked = model.tokenizer(alpaca_prompt("Add.", ""))["input_ids"]
    assert found.ids[: found.prompt_tokens] == asked
    assert _tokens(model, found) == learned.split(" ")


def test_a_token_of_the_beginning_is_put_where_the_tokenizer_puts_one_itself(encoder: Encoder, tmp_path: Path) -> None:
    assert _one(encoder, _row()).ids[:2] == encoder.tokenizer("Below")["input_ids"][:2]
    bare = _encoder(_bpe(tmp_path, []))
    assert bare.tokenizer.convert_ids_to_tokens(_one(bare, _row()).ids)[:3] == ["▁", "B", "e"]


def test_a_tokenizer_that_adds_an_end_token_itself_and_is_not_a_fast_one_gives_the_same(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path)
    slow = _encoder(str(tmp_path))
    found = _one(slow, _row(output="Ä</s>"))
    assert not slow.tokenizer.is_fast
    assert found.ids == [*(byte + 3 for byte in (alpaca_prompt("Add.", "") + "Ä</s>").encode()), 1]
    assert found.prompt_tokens == len(alpaca_prompt("Add.", "")), "a byte is a token"


def test_where_a_tokenizer_would_make_an_end_of_a_text_the_text_is_broken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path)
    (tmp_path / "own.py").write_text(
        "from transformers import ByT5Tokenizer\n\n\nclass Own(ByT5Tokenizer):\n    def tokenize(self, text, **options):\n"
        "        return super().tokenize(text)\n"
    )
    known = json.loads((tmp_path / "tokenizer_config.json").read_text())
    known |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(known))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    own = _encoder(str(tmp_path), trust_remote_code=True)
    found = _one(own, _row(output="</s>"))
    assert own.tokenizer("</s>", add_special_tokens=False, split_special_tokens=True)["input_ids"] == [1]
    assert _text(own, found) == "< /s></s>"


# the model's own chat template


@pytest.fixture
def chat(tiny: str, tmp_path: Path) -> Callable[..., Encoder]:
    """The real tokenizer with another chat template, and with the tokens that ChatML needs."""

    def build(template: str | None, **changes: Any) -> Encoder:
        folder = tmp_path / "chat"
        tokenizer: Any = load_tokenizer(tiny, "finetune.model")
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "pad_token": "[PAD]"})
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        return _encoder(str(folder), template="chat", **changes)

    return build


def test_the_end_token_of_a_chat_template_is_learned_and_what_follows_it_is_not_there(chat: Callable[..., Encoder]) -> None:
    encoder = chat(CHATML)
    found = _one(encoder, _row("Add.", "1 2", "It is 3."))
    asked = "<|im_start|>user\nAdd.\n\n1 2<|im_end|>\n<|im_start|>assistant\n"
    assert found.ids[: found.prompt_tokens] == encoder.tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert _tokens(encoder, found) == ["I", "t", "▁", "is", "▁", "3", ".", "<|im_end|>"]


def test_a_chat_template_without_an_end_token_gets_the_tokenizers_own(tiny: str) -> None:
    plain = _encoder(tiny, template="chat")
    found = _one(plain, _row("Add.", "1 2", "3"))
    assert _told(plain, found) == "<s> user: Add.\n\n1 2\nassistant:"
    assert _tokens(plain, found) == ["▁", "3", "<0x0A>", "</s>"]
    assert _tokens(plain, _one(plain, _row(output=""))) == ["▁", "<0x0A>", "</s>"]


def test_system_and_turns_before_are_turns_of_the_chat_and_carry_no_loss(chat: Callable[..., Encoder]) -> None:
    encoder = chat(CHATML)
    turns = [{"instruction": "Hi.", "output": "Hello."}]
    found = _one(encoder, _row("Bye.", output="See you.", system="Be brief.", history=turns))
    asked = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nBye.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert found.ids[: found.prompt_tokens] == encoder.tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert _text(encoder, found) == "See you.<|im_end|>"


def test_a_system_turn_that_a_template_refuses_heads_the_first_question(chat: Callable[..., Encoder]) -> None:
    encoder = chat(NO_SYSTEM + CHATML)
    found = _one(encoder, _row("Add.", system="Be brief.", history=[{"instruction": "Hi.", "output": "Hello."}]))
    asked = (
        "<|im_start|>user\nBe brief.\n\nHi.<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nAdd.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert found.ids[: found.prompt_tokens] == encoder.tokenizer(asked, add_special_tokens=False)["input_ids"]


def test_a_text_that_spells_the_marks_of_a_chat_template_cannot_end_its_turn(chat: Callable[..., Encoder]) -> None:
    encoder = chat(CHATML)
    spelt = "a<|im_end|>\n<|im_start|>b</s>[PAD]"
    turns = [{"instruction": spelt, "output": spelt}]
    found = _one(encoder, _row(spelt, spelt, spelt, system=spelt, history=turns))
    plain = _one(encoder, _row("a", "a", "a", system="a", history=[{"instruction": "a", "output": "a"}]))
    control = {token for token in encoder.tokenizer.all_special_ids if token != encoder.tokenizer.unk_token_id}
    assert [token for token in found.ids if token in control] == [token for token in plain.ids if token in control]
    assert _text(encoder, found) == "a< |im_end|>\n< |im_start|>b< /s>[ PAD]<|im_end|>"


def test_the_template_is_told_what_the_recipe_says(chat: Callable[..., Encoder]) -> None:
    encoder = chat("<|im_start|>{{ mood }}<|im_end|>" + CHATML, chat_template_kwargs={"mood": "calm"})
    found = _one(encoder, _row()).ids
    assert found[:4] == encoder.tokenizer("<|im_start|>calm<|im_end|>", add_special_tokens=False)["input_ids"][:4]


def test_an_example_that_a_template_refuses_is_left_and_the_others_are_not(chat: Callable[..., Encoder]) -> None:
    turns = [{"instruction": "Hi.", "output": "Hello."}] * 2
    kept, left = chat(ALTERNATING + CHATML).encode([_row(), _row(history=turns)])
    assert isinstance(kept, Encoded)
    assert left == Left("chat template: it refuses the example: too many turns", 0)


def test_a_prompt_that_no_answered_conversation_begins_with_is_not_trained_on(chat: Callable[..., Encoder]) -> None:
    encoder = chat(CHATML.replace("assistant\\n'", "assistant\\n<think>'"))
    [left] = encoder.encode([_row()])
    assert left == Left("chat template: a conversation with its answer does not begin as the one that asks for it", 0)


def test_lengths_hold_for_chats_too(chat: Callable[..., Encoder]) -> None:
    whole = _one(chat(CHATML), _row())
    cut = _one(chat(CHATML, max_length=len(whole.ids) - 1), _row())
    assert (cut.ids, cut.cut) == (whole.ids[:-1], True)
    [left] = chat(CHATML, max_length=whole.prompt_tokens).encode([_row()])
    assert isinstance(left, Left)
    assert left.reason.startswith("no trainable token")


# what cannot be used at all


def test_a_model_without_a_chat_template_cannot_be_trained_on_one(chat: Callable[..., Encoder]) -> None:
    with pytest.raises(UsageError, match=r"finetune.model '.*' has no chat template; set finetune.template=alpaca"):
        chat(None)


def test_a_chat_template_that_refuses_every_question_is_told(chat: Callable[..., Encoder]) -> None:
    with pytest.raises(UsageError, match=r"refuses a question with its answer: never. Set finetune.template=alpaca"):
        chat("{{ raise_exception('never') }}")


def test_a_model_without_a_tokenizer_is_told_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"finetune.model '{tmp_path}' cannot be loaded: .*\. Give a Hugging Face id, or"):
        _encoder(str(tmp_path))
    with pytest.raises(UsageError, match=r"finetune\.model is not set"):
        Encoder(Finetune())


def test_a_tokenizer_without_an_end_token_is_told(tiny: str, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "config.json"):
        shutil.copy(Path(tiny) / name, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(UsageError, match=r"has no end token \(eos_token\)"):
        _encoder(str(tmp_path))
