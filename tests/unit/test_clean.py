"""Decontamination: what a model will be tested on is found in whatever spelling, and nothing else is."""

import random
import re
from functools import cache
from pathlib import Path

import pytest
from alpaca_rows import alpaca_table
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.data import prompt_sets
from alpagasus_ray.selection import clean
from alpagasus_ray.selection.clean import Index, PromptText, Rule

TEXT = "The quick brown fox jumps over the lazy dog and runs away into the deep dark wood at night"


def _index(*texts: str, kind: str = "prompt") -> Index:
    return clean.index_of(PromptText("quiz", f"q{number}", kind, text) for number, text in enumerate(texts))


def _found(index: Index, prompt: str, output: str = "", rule: Rule = "words") -> list[tuple[str, float]]:
    return [(hit.prompt_id, hit.share) for hit in clean.contaminated(index, [prompt], [output], rule)]


@cache
def _test_sets(shared: Path) -> list[PromptText]:
    """All prompts and references of the four test sets."""
    texts = []
    for file in sorted((shared / "test_sets").iterdir()):
        for prompt in prompt_sets.load(file.stem, str(file)):
            texts.append(PromptText(file.stem, prompt.prompt_id, "prompt", f"{prompt.instruction}\n{prompt.input}"))
            if prompt.reference:
                texts.append(PromptText(file.stem, prompt.prompt_id, "reference", prompt.reference))
    return texts


def _disguised(text: str, rng: random.Random) -> str:
    """Other capitals, blanks and punctuation, and only the first 60 percent of the words."""
    ends = [word.end() for word in re.finditer(r"\w+", text)]
    words = text[: ends[round(0.6 * len(ends)) - 1]].split()
    return "".join(word.swapcase() + rng.choice(["  ", "\n", "\t ", " ... "]) for word in words)


def _plant(shared: Path, count: int, rule: Rule) -> int:
    """Plants 100 prompts, half of them disguised, among `count` rows of Alpaca; each is found, and no other row for their sake.

    The disguised ones have 14 words or more: 60 percent of a shorter prompt hold no 8-gram of it. Returns how many rows of
    Alpaca itself are found.
    """
    rng = random.Random(5)
    table = alpaca_table(shared).slice(0, count)
    pairs = zip(table["instruction"].to_pylist(), table["input"].to_pylist(), strict=True)
    prompts, outputs = [f"{first}\n{more}" for first, more in pairs], table["output"].to_pylist()
    texts = _test_sets(shared)
    index = clean.index_of(texts)
    before = {hit.row for hit in clean.contaminated(index, prompts, outputs, rule)}
    ours = [text for text in texts if text.kind == "prompt"]
    planted = rng.sample([text for text in ours if len(re.findall(r"\w+", text.text)) >= 14], 50)
    planted += rng.sample([text for text in ours if text not in planted], 50)
    rows = rng.sample(sorted(set(range(count)) - before), 100)
    for place, (row, text) in enumerate(zip(rows, planted, strict=True)):
        prompts[row] = _disguised(text.text, rng) if place < 50 else text.text
    hits = clean.contaminated(index, prompts, outputs, rule)
    found = {(hit.row, hit.test_set, hit.prompt_id) for hit in hits}
    assert {(row, *text[:2]) for row, text in zip(rows, planted, strict=True)} <= found
    assert {hit.row for hit in hits} == before | set(rows)
    return len(before)


@pytest.mark.parametrize("rule", ["ngrams", "words"])
def test_planted_prompts_are_found_and_nothing_else_in_part_of_alpaca(shared: Path, rule: Rule) -> None:
    _plant(shared, 5000, rule)


@pytest.mark.long
@pytest.mark.parametrize(("rule", "own"), [("ngrams", 0), ("words", 7)])
def test_planted_prompts_are_found_and_nothing_else_in_alpaca(shared: Path, rule: Rule, own: int) -> None:
    """Alpaca itself is clean by n-grams."""
    assert _plant(shared, 52002, rule) == own


def test_other_spelling_hides_nothing() -> None:
    index = _index(TEXT)
    for row in (TEXT.upper(), TEXT.replace(" ", "\n\n"), TEXT.replace(" ", ", "), f"Please: “{TEXT}”!"):
        assert _found(index, row) == [("q0", 1.0)]


def test_half_of_the_words_are_enough_and_fewer_are_not() -> None:
    words = TEXT.split()
    assert len(words) == 19
    assert _found(_index(TEXT), " ".join(words[:10])) == [("q0", round(10 / 19, 4))]
    assert _found(_index(TEXT), " ".join(words[:9])) == []


def test_half_of_the_ngrams_are_enough_and_fewer_are_not() -> None:
    words = TEXT.split()
    more = " and then some more of what only this very row has to say"
    assert len(words) - 7 == 12
    assert _found(_index(TEXT), " ".join(words[:13]) + more, rule="ngrams") == [("q0", 0.5)]
    assert _found(_index(TEXT), " ".join(words[:12]) + more, rule="ngrams") == []


def test_a_shortened_copy_is_found_and_a_row_of_its_own_with_the_same_words_is_not() -> None:
    part = " ".join(TEXT.split()[:10])
    assert _found(_index(TEXT), f"{part} home", rule="ngrams") == [("q0", round(10 / 19, 4))]
    assert _found(_index(TEXT), f"{part} home at last", rule="ngrams") == []
    assert _found(_index(TEXT, kind="reference"), "Tell me more", f"{part} home", rule="ngrams") == []


def test_words_count_only_as_part_of_a_whole_ngram() -> None:
    words = TEXT.split()
    assert _found(_index(TEXT), " ".join(f"{word} x" if place % 7 == 6 else word for place, word in enumerate(words))) == []


def test_an_ngram_that_is_repeated_counts_once() -> None:
    part = " ".join(TEXT.split()[:9])
    assert _found(_index(TEXT), f"{part} {part} {part}") == []


def test_prompt_and_output_of_a_row_count_together_but_no_ngram_reaches_over_both() -> None:
    words = TEXT.split()
    assert _found(_index(TEXT), " ".join(words[:8]), " ".join(words[8:17])) == [("q0", round(17 / 19, 4))]
    assert _found(_index(" ".join(words[:8])), " ".join(words[:4]), " ".join(words[4:8])) == []


def test_a_short_prompt_is_found_only_as_a_whole_prompt() -> None:
    index = _index("Name two rivers")
    assert _found(index, "name TWO rivers.\n") == [("q0", 1.0)]
    assert _found(index, "Name two rivers in Peru") == []
    assert _found(index, "What did she ask?", "Name two rivers") == []


def test_references_are_looked_for_and_short_ones_are_counted_as_not() -> None:
    index = _index(TEXT, "Yes", "", kind="reference")
    assert _found(index, "Tell me", TEXT) == [("q0", 1.0)]
    assert _found(index, "Yes", "Yes") == []
    assert index.unchecked == 2


ROWS = st.lists(st.text(alphabet="ab \n.", max_size=60), max_size=6)
TESTS = st.lists(st.text(alphabet="ab ", max_size=40), max_size=4)


@pytest.mark.parametrize("rule", ["ngrams", "words"])
@given(ROWS, TESTS)
def test_shares_are_those_of_the_definition(rule: Rule, rows: list[str], tests: list[str]) -> None:
    def grams(text: str) -> list[tuple[str, ...]]:
        words = text.replace(".", " ").split()
        return [tuple(words[place : place + 8]) for place in range(len(words) - 7)]

    def share(row: str, test: str) -> float:
        held = [place for place, gram in enumerate(grams(test)) if gram in grams(row)]
        covered = {place + word for place in held for word in range(8)}
        own = len(row.replace(".", " ").split())
        if rule == "words" or 8 <= own <= len(covered) / 0.9:
            return len(covered) / len(test.split())
        return len(held) / len(grams(test))

    every = clean.contaminated(_index(*tests), rows, [""] * len(rows), rule)
    hits = {(hit.row, hit.prompt_id): hit.share for hit in every if grams(tests[int(hit.prompt_id[1:])])}
    pairs = [(row, number) for row in range(len(rows)) for number in range(len(tests)) if grams(tests[number])]
    shares = {(row, f"q{number}"): share(rows[row], tests[number]) for row, number in pairs}
    assert hits == {pair: round(value, 4) for pair, value in shares.items() if value >= 0.5}


def test_rows_keep_their_numbers_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean, "BLOCK", 2)
    hits = clean.contaminated(_index(TEXT), ["a", "b", "c", TEXT, "d"], ["", TEXT, "", "", ""])
    assert [hit.row for hit in hits] == [1, 3]
    assert hits[0].reason == "test set quiz: q0"


def test_the_summary_names_every_set_that_was_looked_for() -> None:
    texts = [
        PromptText("a", "a1", "prompt", TEXT),
        PromptText("b", "b1", "prompt", "one two three"),
        PromptText("b", "b2", "prompt", "four"),
    ]
    index = clean.index_of(texts)
    hits = clean.contaminated(index, [TEXT, "x", TEXT.upper()], [""] * 3)
    assert clean.summary(index, hits) == [
        {"test_set": "a", "prompts": 1, "found": 1, "rows": 2},
        {"test_set": "b", "prompts": 2, "found": 0, "rows": 0},
    ]
    assert clean.to_tsv(["r0", "r1", "r2"], hits).splitlines()[1:] == ["r0\ta\ta1\tprompt\t1", "r2\ta\ta1\tprompt\t1"]


def test_without_test_texts_nothing_is_found() -> None:
    assert _found(_index(), TEXT, TEXT) == []
