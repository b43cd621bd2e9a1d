"""Reviews that others have published or users have kept: from their files to prompts with both answers and both reviews.

Two formats are known:

- `alpagasus` (AlpaGasus and AlpaGasus2-QLoRA): one JSON list for each order, in a file `<first>-<second>-<test set>.json`;
  a record holds both answers under the models' names, the prompt, and the `review` of the first model's answer as that of
  Assistant 1.
- `cherry` (Cherry LLM): one JSON object for both orders; `Meta_Info` names the test set, a record of `data` holds `Answer1`,
  `Answer2`, the `review` in this order and the `review_reverse` in the other.

Only the reviews count: scores that a file has beside them are what another parser made of them.
"""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from alpagasus_ray.datasets.sources import SourceFile
from alpagasus_ray.errors import InputError, UsageError

PROMPT = ("prompt", "text", "instruction", "question")
SAID = {*PROMPT, "question_id", "prompt_id", "id", "input", "category", "skill", "difficulty", "review", "score", "scores"}
"""Keys of a record that are no model's name."""
ORDERS = "the games of a pair are read in both orders"


class Reviewed(NamedTuple):
    """One prompt: both answers, and the review of each order."""

    prompt: dict[str, Any]
    """As a row of `schema.PROMPTS`, as far as the file says."""
    answer_a: str
    answer_b: str
    ab: str
    ba: str


class Reviews(NamedTuple):
    """All prompts of a test set that two models were compared on."""

    a: str
    b: str
    test_set: str
    matches: list[Reviewed]


def read_reviews(layout: str, files: Sequence[SourceFile], pairs: Sequence[tuple[str, str]]) -> list[Reviews]:
    """Read the files; `pairs` says which model is told first, and for `cherry` what the two are called. Raises `InputError`
    for a file that is not of the format, and `UsageError` where an order or a model is missing."""
    found = _cherry(files, pairs) if layout == "cherry" else _alpagasus(files, pairs)
    seen: set[tuple[str, str, str]] = set()
    for one in found:
        if (one.a, one.b, one.test_set) in seen:
            raise UsageError(f"compare.import.files: two files hold {one.a} against {one.b} on {one.test_set}")
        seen.add((one.a, one.b, one.test_set))
    return found


def _json(file: SourceFile) -> Any:
    with file.fs.open_input_file(file.path) as stream:
        try:
            return orjson.loads(stream.read())
        except orjson.JSONDecodeError as error:
            raise InputError(file.path, f"line {error.lineno}", f"this is not JSON: {error.msg}") from None


def _records(file: SourceFile, records: Any) -> list[dict[str, Any]]:
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise InputError(file.path, "", "no list of records with reviews; see `compare.import.format`")
    return records


def _text(file: SourceFile, number: int, record: Mapping[str, Any], *keys: str) -> str:
    """The text under the first of these keys that the record has."""
    for key in keys:
        if isinstance(record.get(key), str):
            return str(record[key])
    raise InputError(file.path, f"record {number}", f"no text under {' or '.join(f'`{key}`' for key in keys)}")


def _cherry(files: Sequence[SourceFile], pairs: Sequence[tuple[str, str]]) -> list[Reviews]:
    if len(pairs) > 1:
        raise UsageError(f"`compare.pairs` = {[list(pair) for pair in pairs]}: a `cherry` import holds one pair of models")
    a, b = pairs[0] if pairs else ("answer1", "answer2")
    return [_cherry_file(file, a, b) for file in files]


def _cherry_file(file: SourceFile, a: str, b: str) -> Reviews:
    content = _json(file)
    about = content.get("Meta_Info") if isinstance(content, dict) else None
    if not isinstance(about, dict) or not isinstance(about.get("dataset_name"), str):
        raise InputError(file.path, "", "no `Meta_Info` with a `dataset_name`; see `compare.import.format`")
    test_set = about["dataset_name"]
    records = _records(file, content.get("data"))
    width = len(str(len(records)))
    return Reviews(a, b, test_set, [_cherry_match(file, test_set, n, width, record) for n, record in enumerate(records, 1)])


def _cherry_match(file: SourceFile, test_set: str, number: int, width: int, record: Mapping[str, Any]) -> Reviewed:
    prompt = _prompt(file, number, record) | {"prompt_id": f"{test_set}-{number:0{width}}", "test_set": test_set}
    texts = (_text(file, number, record, key) for key in ("Answer1", "Answer2", "review", "review_reverse"))
    return Reviewed(prompt, *texts)


def _prompt(file: SourceFile, number: int, record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "instruction": _text(file, number, record, *PROMPT),
        "input": record.get("input") or "",
        **{key: record.get(key) for key in ("category", "skill", "difficulty")},
    }


class _Order(NamedTuple):
    """A file of the `alpagasus` format."""

    file: SourceFile
    first: str
    second: str
    test_set: str
    records: dict[str, dict[str, Any]]
    models: tuple[str, str]
    """As the records name them, in their order."""


def _alpagasus(files: Sequence[SourceFile], pairs: Sequence[tuple[str, str]]) -> list[Reviews]:
    orders = {(one.first, one.second, one.test_set): one for one in map(_order, files)}
    found = []
    for one in orders.values():
        other = orders.get((one.second, one.first, one.test_set))
        if other is None:
            raise UsageError(
                f"compare.import.files: {one.file.path} has {one.first} first, and no file "
                f"{one.second}-{one.first}-{one.test_set}.json has {one.second} first; {ORDERS}"
            )
        if _side(one, pairs) == (one.first, one.second):
            found.append(_joined(one, other))
    return found


def _side(one: _Order, pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Which of the two is told first: as `compare.pairs` has it, else as the records do."""
    if not pairs:
        return one.models
    for pair in pairs:
        if set(pair) == set(one.models):
            return pair
    raise UsageError(
        f"compare.pairs: none of {[list(pair) for pair in pairs]} are the models of {one.file.path}, {list(one.models)}"
    )


def _order(file: SourceFile) -> _Order:
    stem = posixpath.basename(file.path).removesuffix(".json")
    records = _records(file, _json(file))
    names = tuple(key for key in records[0] if key not in SAID)
    fits = [(x, y) for x, y in (names, names[::-1]) if stem.startswith(f"{x}-{y}-")] if len(names) == 2 else []
    if not fits:
        raise InputError(
            file.path,
            "record 1",
            f"the file is not named `<first>-<second>-<test set>.json` after two models of its records: {names}",
        )
    first, second = fits[0]
    test_set = stem.removeprefix(f"{first}-{second}-")
    return _Order(file, first, second, test_set, _by_id(file, records, test_set), (names[0], names[1]))


def _by_id(file: SourceFile, records: Iterable[dict[str, Any]], test_set: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, record in enumerate(records, 1):
        key = str(record.get("question_id") or record.get("prompt_id") or record.get("id") or f"{test_set}-{number}")
        if key in found:
            raise InputError(file.path, f"record {number}", f"a second record for the prompt {key!r}")
        found[key] = record
    return found


def _joined(one: _Order, other: _Order) -> Reviews:
    """The games of two files, by prompt."""
    for here, there in ((one, other), (other, one)):
        alone = [key for key in here.records if key not in there.records]
        if alone:
            raise UsageError(f"compare.import.files: only {here.file.path} has the prompt {alone[0]!r}; {ORDERS}")
    matches = [_match(one, other, number, key) for number, key in enumerate(one.records, 1)]
    return Reviews(one.first, one.second, one.test_set, matches)


def _match(one: _Order, other: _Order, number: int, key: str) -> Reviewed:
    record, turned = one.records[key], other.records[key]
    prompt = _prompt(one.file, number, record) | {"prompt_id": key, "test_set": one.test_set}
    answers = [_text(one.file, number, record, model) for model in (one.first, one.second)]
    reviews = [_text(place.file, number, row, "review") for place, row in ((one, record), (other, turned))]
    return Reviewed(prompt, answers[0], answers[1], reviews[0], reviews[1])
