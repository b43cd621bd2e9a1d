"""The chosen records as they came: in the source's own layout, kind of file and order, with their scores beside.

A record is written once, whatever number of its examples was chosen. Records of several layouts or kinds of file go to a file
each. Knows nothing of why an example was chosen.
"""

import bisect
import csv
import hashlib
import io
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from alpagasus_ray.data import originals, tables
from alpagasus_ray.data.json_text import loads
from alpagasus_ray.data.records import Form
from alpagasus_ray.store.storage import Storage, Written

FORMS, TAKEN = "forms", "taken"
"""Keys of the details in the manifest of `examples/`: how the records of the source are written, and which of the fields that
are added here they have themselves."""
SCORES = ("score", "expected_score")
CHOSEN = "chosen"
"""Where a record may have several examples: the ids of those that were chosen, with their scores."""
ADDED = (*SCORES, CHOSEN)
OTHER_NAME = "alpagasus_"
ROWS = 1000
LINES = "jsonl"


class Origin(NamedTuple):
    """How the records of a source are written, from one row on."""

    first_row: int
    layout: str
    form: Form

    @property
    def file(self) -> str:
        return f"subset.{self.layout}.{self.form.kind}"

    def plain(self) -> dict[str, Any]:
        form = self.form._asdict() | {"columns": list(self.form.columns)}
        return {"first_row": self.first_row, "layout": self.layout, **form}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Origin":
        return cls(plain["first_row"], plain["layout"], Form(plain["kind"], tuple(plain["columns"]), plain["schema"]))


class Example(NamedTuple):
    """An example of `examples/`, with what was chosen."""

    row: int
    example_id: str
    triple: tuple[str, str, str]
    record: str | None
    is_chosen: bool
    scores: Mapping[str, float | None]
    """By their names; empty where the arm was chosen without ratings."""


def joined(origins: list[Origin], origin: Origin) -> list[Origin]:
    """Origins with one more; files that are written alike are one."""
    alike = origins and origins[-1]._replace(first_row=0) == origin._replace(first_row=0)
    return origins if alike else [*origins, origin]


def taken(fields: Iterable[str]) -> list[str]:
    """Which of the names that are added here a source has itself."""
    names = {f"{prefix}{name}" for prefix in ("", OTHER_NAME, OTHER_NAME * 2) for name in ADDED}
    return sorted(names & set(fields))


def write(
    storage: Storage, details: Mapping[str, Any], examples: Iterable[Example], scores: Sequence[str], *, several: bool
) -> dict[str, tuple[Written, int]]:
    """Write the records of the chosen examples; each file by its name, with the number of its records.

    `details` are those of the examples' manifest, without `forms` where an earlier version made it: then nothing is written.
    `scores` are the names of the score columns to add; `several` says that a record may have several examples, as by
    `ingest.turns=all`, so that it is told which were chosen.
    """
    origins = _writable([Origin.of(plain) for plain in details.get(FORMS, ())])
    names = {name: _free(name, details.get(TAKEN, ())) for name in ADDED}
    added = [names[CHOSEN]] if several else [names[score] for score in scores]
    starts = [origin.first_row for origin in origins]
    with ExitStack() as stack:
        files: dict[str, _File] = {}
        for record in _chosen(examples) if origins else ():
            origin = origins[max(0, bisect.bisect_right(starts, record[0].row) - 1)]
            file = files.get(origin.file)
            if file is None:
                alike = [other.form for other in origins if other.file == origin.file]
                stream = stack.enter_context(storage.writing(origin.file))
                file = files[origin.file] = _FILES[origin.form.kind](_Summed(stream), alike, added)
            file.add(_text(record[0], origin.form.kind), _beside(record, names, scores, several=several))
        for file in files.values():
            file.close()
    return {name: (file.stream.written(), file.rows) for name, file in files.items()}


def write_lines(
    stream: IO[bytes], details: Mapping[str, Any], examples: Iterable[Example], scores: Sequence[str], *, several: bool
) -> int:
    """Write the records of the chosen examples as JSON lines, whatever kind of file they came from, and return their number.
    What is given is as for `write`."""
    names = {name: _free(name, details.get(TAKEN, ())) for name in ADDED}
    file = _Lines(_Summed(stream), (), ())
    for record in _chosen(examples):
        file.add(_text(record[0], LINES), _beside(record, names, scores, several=several))
    return file.rows


def _writable(origins: list[Origin]) -> list[Origin]:
    """Tables of one layout whose columns do not fit into one file are written as JSON lines."""

    def fit(layout: str) -> bool:
        try:
            _unified(origin.form for origin in origins if origin.layout == layout and origin.form.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return False
        return True

    misfits = {layout for layout in {origin.layout for origin in origins if origin.form.schema} if not fit(layout)}
    lines = Form(LINES)
    return [o._replace(form=lines) if o.form.schema and o.layout in misfits else o for o in origins]


def _unified(forms: Iterable[Form]) -> pa.Schema:
    return pa.unify_schemas([tables.read_schema(form.schema) for form in forms], promote_options="permissive")


def _free(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name = OTHER_NAME + name
    return name


def _chosen(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """The examples of each record of which some were chosen."""
    for _, group in itertools.groupby(examples, key=lambda example: example.row):
        record = list(group)
        if any(example.is_chosen for example in record):
            yield record


def _text(first: Example, kind: str) -> str:
    """The record; its first example keeps it, or is all of it."""
    if first.record is not None:
        return first.record
    triple = dict(zip(originals.TRIPLE, first.triple, strict=True))
    if kind != "json":
        return json.dumps(triple, ensure_ascii=False)
    return json.dumps(triple, indent=4, ensure_ascii=False).replace("\n", "\n    ")  # as a list is mostly written


def _beside(record: Sequence[Example], names: Mapping[str, str], scores: Sequence[str], *, several: bool) -> dict[str, Any]:
    """What is added to a record."""
    if not several:
        return {names[score]: record[0].scores[score] for score in scores}
    chosen = [example for example in record if example.is_chosen]
    told = [{"example_id": example.example_id, **{score: example.scores[score] for score in scores}} for example in chosen]
    return {names[CHOSEN]: told}


class _Summed:
    """A stream that counts and sums what is written to it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._sum, self._size = stream, hashlib.sha256(), 0
        self.closed = False  # what pyarrow asks a stream

    def write(self, content: bytes) -> int:
        content = bytes(content)
        self._stream.write(content)
        self._sum.update(content)
        self._size += len(content)
        return len(content)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Who opened the stream closes it."""

    def written(self) -> Written:
        return Written(self._size, self._sum.hexdigest())


class _File(ABC):
    """A file of records; `added` are the names of the columns that the source has not."""

    def __init__(self, stream: _Summed, forms: Sequence[Form], added: Sequence[str]) -> None:
        self.stream, self.rows = stream, 0
        self._forms, self._added = forms, added

    def add(self, text: str, beside: Mapping[str, Any]) -> None:
        """One record, or the messages of one tree."""
        for piece in text.split(originals.SEPARATOR):
            self._one(piece, beside)
            self.rows += 1

    @abstractmethod
    def _one(self, text: str, beside: Mapping[str, Any]) -> None: ...

    def close(self) -> None:  # noqa: B027 - most have nothing left to write
        """Write what is left."""


class _Lines(_File):
    def _one(self, text: str, beside: Mapping[str, Any]) -> None:
        # line breaks between an object's keys become blanks; those inside of texts are escaped in JSON
        line = _with(" ".join(part.strip() for part in text.split("\n")), beside)
        self.stream.write(f"{line}\n".encode())


class _List(_File):
    def _one(self, text: str, beside: Mapping[str, Any]) -> None:
        # the last line of an indented object tells how far it was indented
        indent = text.rpartition("\n")[2].removesuffix("}") if "\n" in text else ""
        self.stream.write(f"{',' if self.rows else '['}\n{indent}{_with(text, beside)}".encode())

    def close(self) -> None:
        self.stream.write(b"\n]" if self.rows else b"[]")


def _with(text: str, beside: Mapping[str, Any]) -> str:
    """The text of an object with more keys at its end; nothing else of it is changed."""
    if not beside:
        return text
    head = text[: text.rindex("}")]
    inside, space = head.rstrip(), head[len(head.rstrip()) :]
    line = inside.rpartition("\n")[2]
    # the new keys are indented as the last one is, so that a diff shows them alone
    indent = line[: len(line) - len(line.lstrip())]
    between = f",\n{indent}" if space.startswith("\n") else ", "
    more = between.join(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in beside.items())
    return f"{inside}{'' if inside.endswith('{') else between}{more}{space}}}"


class _Separated(_File):
    """CSV or TSV."""

    def __init__(self, stream: _Summed, forms: Sequence[Form], added: Sequence[str]) -> None:
        super().__init__(stream, forms, added)
        self._columns = list(dict.fromkeys(column for form in forms for column in form.columns))
        self._delimiter = "\t" if forms[0].kind == "tsv" else ","
        self._row([*self._columns, *added])

    def _one(self, text: str, beside: Mapping[str, Any]) -> None:
        values = loads(text.encode())
        self._row([values.get(column, "") for column in self._columns] + [_cell(value) for value in beside.values()])

    def _row(self, cells: Sequence[Any]) -> None:
        line = io.StringIO(newline="")
        csv.writer(line, delimiter=self._delimiter, lineterminator="\n").writerow(cells)
        self.stream.write(line.getvalue().encode())


def _cell(value: Any) -> str:
    return "" if value is None else json.dumps(value) if isinstance(value, list) else str(value)


class _Table(_File):
    """Parquet, with the source's own schema."""

    def __init__(self, stream: _Summed, forms: Sequence[Form], added: Sequence[str]) -> None:
        super().__init__(stream, forms, added)
        self._source = _unified(forms)
        chosen = pa.list_(pa.struct([("example_id", pa.string()), *((score, pa.float64()) for score in SCORES)]))
        more = [pa.field(name, chosen if name.endswith(CHOSEN) else pa.float64()) for name in added]
        self._schema = pa.schema([*self._source, *more], metadata=_metadata(self._source, bool(added)))
        self._waiting: list[dict[str, Any]] = []
        # row group by row group, so that a table of any size passes through
        self._writer = pq.ParquetWriter(pa.PythonFile(stream, mode="w"), self._schema, compression="zstd")

    def _one(self, text: str, beside: Mapping[str, Any]) -> None:
        values = loads(text.encode())
        row = {field.name: originals.back(values.get(field.name), field.type) for field in self._source}
        self._waiting.append({**row, **beside})
        if len(self._waiting) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting = []

    def close(self) -> None:
        if self._waiting:
            self._flush()
        self._writer.close()


def _metadata(schema: pa.Schema, has_more: bool) -> dict[bytes, bytes] | None:
    """What pandas and `datasets` have written of the columns, which is wrong where there are more."""
    return None if has_more else schema.metadata


_FILES: Mapping[str, type[_File]] = {"json": _List, "jsonl": _Lines, "csv": _Separated, "tsv": _Separated, "parquet": _Table}
