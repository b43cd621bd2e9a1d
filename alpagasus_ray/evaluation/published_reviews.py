"""Reviews that others have published or users have kept: from their files to prompts with both answers and both reviews.

Two formats are known:

- `alpagasus` (AlpaGasus and AlpaGasus2-QLoRA): one JSON list for each order, in a file `<first>-<second>-<test set>.json`;
  a record holds both answers under the models' names, the prompt, and the `review` of the first model's answer as that of
  Assistant 1.
- `cherry` (Cherry LLM): one JSON object for both orders; `Meta_Info` names the test set, a record of `data` holds `Answer1`,
  `Answer2`, the `review` in this order and the `review_reverse` in the other.

The two orders of a pair are joined by prompt: by its id where all records have one, else by its text. A prompt and its two
answers have to be the same in both; there is one comparison for two models on a test set, whichever a file names first. The
prompt stands under any key that test sets have (`prompt_fields.py`).

Only the reviews count: scores that a file has beside them are what another parser made of them.
"""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from alpagasus_ray.data.prompt_fields import ABOUT_KEYS, ID_KEYS, PROMPT_KEYS, id_of, input_of, prompt_of, value_of
from alpagasus_ray.data.readers import SourceFile
from alpagasus_ray.errors import InputError, UsageError

SAID = {*PROMPT_KEYS, *ID_KEYS, *ABOUT_KEYS, "review", "score", "scores"}
"""Keys of a record, in lower case, that are no model's name."""
SHOWN = 60
"""Characters of a text that an error tells."""


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
    seen: set[tuple[frozenset[str], str]] = set()
    for one in found:
        if (_pair(one.a, one.b), one.test_set) in seen:
            raise UsageError(f"compare.import.files: two files hold {one.a} against {one.b} on {one.test_set}")
        seen.add((_pair(one.a, one.b), one.test_set))
    return found


def _pair(a: str, b: str) -> frozenset[str]:
    """Two models, in no order."""
    return frozenset((a, b))


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
    instruction = prompt_of(record)
    if instruction is None:
        keys = " or ".join(f"`{key}`" for key in PROMPT_KEYS)
        raise InputError(file.path, f"record {number}", f"no text of the prompt under {keys}; it has {', '.join(record)}")
    extra = input_of(record)
    if not isinstance(extra, str | None):
        raise InputError(file.path, f"record {number}", f"`input` is {_short(extra)}, not a text")
    about = {key: value_of(key, record) or None for key in ("category", "skill")}
    return {"instruction": instruction, "input": extra or "", **about, "difficulty": _difficulty(file, number, record)}


def _difficulty(file: SourceFile, number: int, record: Mapping[str, Any]) -> int | None:
    written = value_of("difficulty", record)
    if written is None or written == "":
        return None
    if not str(written).isdecimal():
        raise InputError(file.path, f"record {number}", f"the difficulty is {written!r}, not a whole number")
    return int(written)


def _short(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= SHOWN else f"{told[:SHOWN]}…"


class _Order(NamedTuple):
    """A file of the `alpagasus` format."""

    file: SourceFile
    first: str
    second: str
    test_set: str
    records: list[dict[str, Any]]
    models: tuple[str, str]
    """As the records name them, in their order."""


def _alpagasus(files: Sequence[SourceFile], pairs: Sequence[tuple[str, str]]) -> list[Reviews]:
    orders: dict[tuple[str, str, str], _Order] = {}
    for one in map(_order, files):
        earlier = orders.setdefault((one.first, one.second, one.test_set), one)
        if earlier is not one:
            raise UsageError(
                f"compare.import.files: {earlier.file.path} and {one.file.path} both have {one.first} first against "
                f"{one.second} on {one.test_set}; leave one of them out"
            )
    found: dict[tuple[frozenset[str], str], Reviews] = {}
    for one in orders.values():
        key = (_pair(one.first, one.second), one.test_set)
        if key not in found:
            a, b = _side(one, pairs)
            found[key] = _joined(*(_needed(orders, one, *names) for names in ((a, b), (b, a))))
    return list(found.values())


def _needed(orders: Mapping[tuple[str, str, str], _Order], one: _Order, first: str, second: str) -> _Order:
    """The file in which this model stands first."""
    order = orders.get((first, second, one.test_set))
    if order is None:
        raise UsageError(
            f"compare.import.files: {one.file.path} has {one.first} first, and no file "
            f"{first}-{second}-{one.test_set}.json has {first} first; the games of a pair are read in both orders"
        )
    return order


def _side(one: _Order, pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Which of the two is told first: as `compare.pairs` has it, else as the records of the first file do."""
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
    _check_ids(file, records)
    names = tuple(key for key in records[0] if key.lower() not in SAID)
    fits = [(x, y) for x, y in (names, names[::-1]) if stem.startswith(f"{x}-{y}-")] if len(names) == 2 else []
    if not fits:
        raise InputError(
            file.path,
            "record 1",
            f"the file is not named `<first>-<second>-<test set>.json` after two models of its records: {names}",
        )
    first, second = fits[0]
    return _Order(file, first, second, stem.removeprefix(f"{first}-{second}-"), records, (names[0], names[1]))


def _check_ids(file: SourceFile, records: Iterable[Mapping[str, Any]]) -> None:
    seen: set[str] = set()
    for number, record in enumerate(records, 1):
        key = id_of(record)
        if key in seen:
            raise InputError(file.path, f"record {number}", f"a second record for the prompt {key!r}")
        seen |= set() if key is None else {key}


class _Record(NamedTuple):
    """A record of one order, as far as both orders have to say the same."""

    number: int
    prompt: dict[str, Any]
    answers: dict[str, str]
    """By model."""
    review: str


def _by_prompt(one: _Order, *, by_id: bool) -> dict[str, _Record]:
    """The records of a file by the id of the prompt, or by its text."""
    found: dict[str, _Record] = {}
    for number, row in enumerate(one.records, 1):
        prompt = _prompt(one.file, number, row)
        key = (id_of(row) if by_id else None) or "\n".join((prompt["instruction"], prompt["input"])).strip()
        answers = {model: _text(one.file, number, row, model) for model in (one.first, one.second)}
        record = _Record(number, prompt, answers, _text(one.file, number, row, "review"))
        if found.setdefault(key, record) is not record:
            problem = f"a second record for the prompt {_short(key)}; give the records an id each, e.g. `{ID_KEYS[0]}`"
            raise InputError(one.file.path, f"record {number}", problem)
    return found


def _joined(one: _Order, other: _Order) -> Reviews:
    """The games of two files, by prompt."""
    by_id = all(id_of(row) is not None for order in (one, other) for row in order.records)
    mine, theirs = (_by_prompt(order, by_id=by_id) for order in (one, other))
    for here, own, there in ((one, mine, theirs), (other, theirs, mine)):
        alone = next((key for key in own if key not in there), None)
        if alone is not None:
            raise UsageError(
                f"compare.import.files: only {here.file.path} has the prompt {_short(alone)}; the games of a pair are read in "
                "both orders"
            )
    matches = []
    for key, record in mine.items():
        _check_same(one, other, (record, theirs[key]))
        told = {"prompt_id": key if by_id else f"{one.test_set}-{record.number}", "test_set": one.test_set}
        a, b = record.answers.values()
        matches.append(Reviewed(record.prompt | told, a, b, record.review, theirs[key].review))
    return Reviews(one.first, one.second, one.test_set, matches)


def _check_same(one: _Order, other: _Order, records: tuple[_Record, _Record]) -> None:
    """Both games of a prompt have to be about the same prompt and the same two answers."""
    mine, theirs = ({"the prompt": r.prompt["instruction"], "its input": r.prompt["input"]} for r in records)
    for record, texts in zip(records, (mine, theirs), strict=True):
        texts.update({f"the answer of {model}": text for model, text in record.answers.items()})
    for what, text in mine.items():
        if text != theirs[what]:
            raise UsageError(
                f"compare.import.files: {what} is not the same in both orders: {_short(text)} in {one.file.path}, record "
                f"{records[0].number}, and {_short(theirs[what])} in {other.file.path}, record {records[1].number}; reviews of "
                "other texts are no two orders of one comparison"
            )
