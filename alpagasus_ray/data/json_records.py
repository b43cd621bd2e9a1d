"""Records from JSON: a list, JSON lines, or an object that holds the list, as programs write them.

An object's list of records is found by its name (`WRAPPERS`), or is the only one; the tables that pandas writes (`orient` of
`split`, `columns` and `index`) are read too. Knows nothing of what the fields of a record mean.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from alpagasus_ray.data import json_text
from alpagasus_ray.data.json_text import BrokenJson, JsonText, Piece
from alpagasus_ray.data.records import Record, SourceFile
from alpagasus_ray.data.text_files import BROKEN
from alpagasus_ray.errors import InputError

WRAPPERS = ("data", "rows", "examples", "instances", "records", "train")
"""Keys under which an object may hold the list of records; one that has it wins over lists of other names, the first one here
over the others."""
TABLE_LIMIT = 512 * 2**20
"""A table by columns is held in memory as a whole."""


class Member(NamedTuple):
    """One key of the object that a file is."""

    key: str
    kind: str
    """`records`, `list` (of something else, or empty), `object`, or `value`."""
    rows: int = 0
    first: Any = None


def list_records(file: SourceFile) -> Iterator[Record]:
    """The records of a file that is one list."""
    yield from _listed(file, None)


def object_records(file: SourceFile) -> Iterator[Record]:
    """The records of a file that is one object."""
    members = outline(file)
    # told by a whole pass over the file: which keys there are is known at its end only
    shape = _shape(members)
    if shape == "split":
        yield from _rows_under_columns(file)
    elif shape:
        yield from _table(file, shape)
    else:
        yield from _listed(file, chosen(file, members).key)


def wraps(record: Mapping[str, Any]) -> bool:
    """Whether an object that stands alone on its line is a file's list of records in its wrapper, and no record."""
    members = [_member(key, value) for key, value in record.items()]
    return _shape(members) is not None or any(member.key in WRAPPERS and member.kind == "records" for member in members)


def passed_over(file: SourceFile) -> list[Member]:
    """The lists of records beside the one that is read."""
    members = outline(file)
    if _shape(members):
        return []
    read = chosen(file, members).key
    return [member for member in members if member.kind == "records" and member.key != read]


def chosen(file: SourceFile, members: list[Member]) -> Member:
    """The list that holds the records."""
    lists = {member.key: member for member in members if member.kind == "records"}
    empty = [member for member in members if member.kind == "list" and not member.rows]
    named = next((lists[key] for key in WRAPPERS if key in lists), None)
    if named or len(lists) == 1:
        return named or next(iter(lists.values()))
    if lists:
        names = ", ".join(f"{key} ({member.rows:,} records)" for key, member in lists.items())
        raise InputError(
            file.path, "line 1", f"several lists of records in one object: {names}; write the one to read to a file of its own"
        )
    if empty:
        raise InputError(file.path, "line 1", "the list of records is empty")
    keys = ", ".join(member.key for member in members[:8])
    raise InputError(file.path, "line 1", f"one JSON object without a list of records in it; its keys are {keys}")


def outline(file: SourceFile) -> list[Member]:
    """What the object that a file is holds."""
    found: list[Member] = []
    count = 0
    with _reading(file, lambda: f" (after record {count})") as text:
        for key in text.keys():  # noqa: SIM118 - no mapping: the keys are read one by one
            if text.peek() != "[":
                found.append(_member(key, text.value().value))
                continue
            count, first = 0, None
            for piece in text.elements():
                first = piece.value if count == 0 else first
                count += 1
            found.append(_member(key, [first] * bool(count))._replace(rows=count))
        text.end()
    return found


def _member(key: str, value: Any) -> Member:
    if isinstance(value, list):
        return Member(
            key, "records" if value and isinstance(value[0], dict) else "list", len(value), value[0] if value else None
        )
    return Member(key, "object", len(value), value) if isinstance(value, dict) else Member(key, "value", first=value)


def _shape(members: list[Member]) -> str | None:
    """The `orient` of a table that pandas wrote; None where it is no such table."""
    kinds = {member.key: member for member in members}
    if kinds.keys() in ({"columns", "index", "data"}, {"columns", "data"}) and isinstance(kinds["data"].first, list):
        return "split"
    tables = [member.first for member in members if member.kind == "object"]
    if not members or len(tables) < len(members) or any(table.keys() != tables[0].keys() for table in tables):
        return None
    if all(key.isdecimal() for key in kinds):
        return "index"
    numbered = bool(tables[0]) and all(key.isdecimal() for key in tables[0])
    return "columns" if numbered and not any(isinstance(value, dict) for value in tables[0].values()) else None


def _rows_under_columns(file: SourceFile) -> Iterator[Record]:
    """A table by `split`: the names of the columns once, and rows of values."""
    names: list[str] = next(piece for key, piece in _values(file) if key == "columns").value
    if len(set(names)) != len(names):
        raise InputError(file.path, "line 1", f"two columns have one name; the columns are {', '.join(map(str, names))}")
    yield from _listed(file, "data", names)


def _values(file: SourceFile) -> Iterator[tuple[str, Piece]]:
    with _reading(file) as text:
        for key in text.keys():  # noqa: SIM118
            yield key, text.value()


def _table(file: SourceFile, shape: str) -> Iterator[Record]:
    # by columns the first row needs the first value of each, and the last column is at the end of the file
    if file.size > TABLE_LIMIT:
        fix = "write it as JSON lines: frame.to_json(path, orient='records', lines=True)"
        raise InputError(
            file.path, "line 1", f"a table by {shape}, as pandas writes it, too large to be read as a whole; {fix}"
        )
    table = {key: piece.value for key, piece in _values(file)}
    rows = [{name: column[row] for name, column in table.items()} for row in next(iter(table.values()))]
    for position, row in enumerate(table.values() if shape == "index" else rows, 1):
        yield Record(file.name, position, row)
    if not table:
        raise InputError(file.path, "line 1", "the table is empty")


def _listed(file: SourceFile, key: str | None, names: list[str] | None = None) -> Iterator[Record]:
    """The records of a list: the whole file, or what stands under a key of its object; `names` are those of plain values."""
    count = 0
    with _reading(file, lambda: f" (after record {count})") as text:
        for piece in _pieces(text, key):
            count += 1
            yield record_of(file, count, piece if names is None else _named(piece, names))
    if count == 0:
        raise InputError(file.path, "line 1", "the list of records is empty")


def _named(piece: Piece, names: list[str]) -> Piece:
    if not isinstance(piece.value, list) or len(piece.value) != len(names):
        return piece
    return Piece(dict(zip(names, piece.value, strict=True)), "")


def _pieces(text: JsonText, key: str | None) -> Iterator[Piece]:
    if key is None:
        yield from text.elements()
    else:
        for found in text.keys():  # noqa: SIM118
            if found == key:
                yield from text.elements()
            elif text.peek() == "[":
                for _ in text.elements():
                    pass
            else:
                text.value()
    text.end()


@contextmanager
def _reading(file: SourceFile, place: Callable[[], str] = lambda: "") -> Iterator[JsonText]:
    """A file as JSON text; what is broken in it is an `InputError` with its place."""
    with file.open() as stream:
        text = JsonText(stream)
        try:
            yield text
        except BrokenJson as error:
            where = f"line {error.line} column {error.column}{place()}"
            raise InputError(file.path, where, f"not valid JSON: {error.problem}") from None
        except UnicodeDecodeError as error:
            raise InputError(file.path, f"the text{place()}", f"not valid UTF-8: {error.reason}") from None
        except BROKEN as error:
            raise InputError(file.path, f"the file{place()}", file.damage(error)) from None


def line_records(file: SourceFile) -> Iterator[Record]:
    """One record a line. A broken line is a record with a problem; where the first one is broken the file is."""
    number = 0
    with file.open() as stream:
        try:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _of_line(file, number, line)
        except BROKEN as error:
            raise InputError(file.path, f"after line {number}", file.damage(error)) from None


def _of_line(file: SourceFile, number: int, line: bytes) -> Record:
    try:
        return record_of(file, number, Piece(json_text.loads(line), line.decode("utf-8", "replace").strip()))
    except BrokenJson as error:
        if number == 1:
            raise InputError(file.path, f"line 1 column {error.column}", f"not valid JSON: {error.problem}") from None
        problem = f"not valid JSON: {error.problem}"
    except UnicodeDecodeError as error:
        problem = f"not valid UTF-8: {error.reason}"
        if number == 1:
            raise InputError(file.path, f"line 1 byte {error.start}", problem) from None
    return Record(file.name, number, None, problem, line.decode("utf-8", "replace").rstrip("\n"))


def record_of(file: SourceFile, position: int, piece: Piece) -> Record:
    if isinstance(piece.value, dict):
        return Record(file.name, position, piece.value, text=piece.text)
    problem = f"the record is {_shown_type(piece.value)}, not an object"
    return Record(file.name, position, None, problem, json.dumps(piece.value, default=str))


def _shown_type(value: object) -> str:
    names = {list: "a list", dict: "an object", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
