"""Answers that somebody already has, as an engine: each prompt's answer is looked up and returned as a reply.

A record holds an answer (`output`, `answer`, `text`, `response`, or FastChat's `choices`) and says what it answers: by the
prompt's id, or by the prompt's own text (AlpacaEval's outputs have only that). Never by position. Where the path names a test
set by `{test_set}` there is one file for each, and a bare number is the number of a prompt of that set.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from alpagasus_ray.data import readers
from alpagasus_ray.data.readers import SourceFile
from alpagasus_ray.engines.base import Rate, Reply, Request
from alpagasus_ray.errors import InputError, RowRefused

PLACE = "{test_set}"
ANSWER = ("output", "answer", "response", "text")
ID = ("prompt_id", "question_id", "id", "idx")
PROMPT = ("instruction", "prompt", "question")


def files_of(path: str, test_sets: Iterable[str]) -> dict[str, str]:
    """The file of each test set; one for all stands under an empty name."""
    return {name: path.replace(PLACE, name) for name in test_sets} if PLACE in path else {"": path}


def found_files(location: str) -> list[SourceFile]:
    """The files at a location; a `UsageError` speaks of the key that names it."""
    return readers.expand(location, "generate.models, answers")


class ImportedEngine:
    """Looks answers up; they are kept by test set (empty: any) and key."""

    address = "the file of answers"
    stated = Rate()

    def __init__(self, answers: Mapping[tuple[str, str], str]) -> None:
        self._answers = answers

    @classmethod
    def open(cls, path: str, test_sets: Iterable[str]) -> "ImportedEngine":
        """Read the files; two different answers to one prompt are an `InputError`."""
        answers: dict[tuple[str, str], str] = {}
        for name, location in files_of(path, test_sets).items():
            for file in found_files(location):
                for record in readers.records(file):
                    place = record.place
                    if record.data is None:
                        raise InputError(file.path, place, record.problem)
                    answer = _answer(file.path, place, record.data)
                    for key in _keys(file.path, place, record.data, name):
                        if answers.setdefault((name, key), answer) != answer:
                            raise InputError(file.path, place, f"a second, different answer to {key[:60]!r}")
        return cls(answers)

    async def complete(self, request: Request) -> Reply:
        row = request.row
        for name in (row["test_set"], ""):
            for key in (row["prompt_id"], _text_key(row["instruction"], row["input"]), _text_key(_joined(row), "")):
                answer = self._answers.get((name, key))
                if answer is not None:
                    return Reply(answer)
        raise RowRefused("not in the file", "it has no answer with this prompt's id or text")


def _joined(row: Mapping[str, Any]) -> str:
    return f"{row['instruction']}\n\n{row['input']}" if row["input"] else str(row["instruction"])


def _answer(path: str, place: str, fields: Mapping[str, Any]) -> str:
    found: Any = next((fields[key] for key in ANSWER if fields.get(key) is not None), None)
    if found is None and fields.get("choices"):
        with contextlib.suppress(KeyError, IndexError, TypeError):  # of another shape than FastChat's
            found = fields["choices"][0]["turns"][0]
    if not isinstance(found, str):
        needs = f"one of {', '.join(ANSWER)} has to hold text"
        raise InputError(path, place, f"no answer: {needs}; the fields are {', '.join(fields)}")
    return found


def _keys(path: str, place: str, fields: Mapping[str, Any], test_set: str) -> Iterator[str]:
    """All that the answer may be found by."""
    # a column of whole numbers with a gap is one of floats in Parquet
    own = next((str(fields[key]).removesuffix(".0") for key in ID if fields.get(key) is not None), None)
    text = next((fields[key] for key in PROMPT if isinstance(fields.get(key), str)), None)
    if own is not None and (test_set or not own.isdecimal()):
        yield f"{test_set}-{own}" if own.isdecimal() else own
    elif text is None:
        reason = f"it says which prompt it answers neither by id ({', '.join(ID)}) nor by text ({', '.join(PROMPT)})"
        if own is not None:
            reason = f"{own} is the number of a prompt of a test set that is not named; name the files by `{PLACE}` in the path"
        raise InputError(path, place, reason)
    if text is not None:
        yield _text_key(text, str(fields.get("input") or ""))


def _text_key(instruction: str, input_text: str) -> str:
    return f"{instruction.strip()}\x00{input_text.strip()}"
