"""Kinds of files beyond plain JSON: packings, encodings, tables, splits, and objects that hold a list of records."""

import bz2
import io
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpagasus_ray.data import json_text, readers
from alpagasus_ray.data.records import Record
from alpagasus_ray.errors import InputError, UsageError

ROWS = [{"instruction": f"Say “{number}” 你好", "output": "\u2028é" * number} for number in range(5)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def _zip(*names: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, LINES)
    return sink.getvalue()


def _read(path: Path | str, kind: str = "auto", split: str | None = None) -> list[Record]:
    return [record for file in readers.expand(str(path), split=split) for record in readers.records(file, kind)]


def _data(path: Path | str, kind: str = "auto", split: str | None = None) -> list[dict[str, Any] | None]:
    return [record.data for record in _read(path, kind, split)]


def _told(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError) as refusal:
        _read(folder / name)
    assert str(folder / name) in str(refusal.value)
    return str(refusal.value)


PACKED = {
    "rows.jsonl.zst": pa.Codec("zstd").compress(LINES, asbytes=True),
    "rows.jsonl.bz2": bz2.compress(LINES),
    "rows.jsonl.xz": lzma.compress(LINES),
    "rows.zip": _zip("inside/rows.jsonl", "__MACOSX/inside/._rows.jsonl"),
    "twice.zip.bz2": bz2.compress(_zip("rows.jsonl")),
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_files_give_the_same_records(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PACKED[name])
    assert _data(tmp_path / name) == ROWS


@pytest.mark.parametrize("name", PACKED)
def test_a_packed_file_that_was_cut_short_is_refused_by_name_and_never_half_read(tmp_path: Path, name: str) -> None:
    assert "broken" in _told(tmp_path, name, PACKED[name][: len(PACKED[name]) * 2 // 3])


def test_a_zip_of_several_files_is_refused_with_their_names(tmp_path: Path) -> None:
    assert "a zip of 2 files (train.jsonl, test.jsonl)" in _told(tmp_path, "rows.zip", _zip("train.jsonl", "test.jsonl"))


def test_the_name_inside_of_a_zip_tells_a_table_by_commas(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("rows.csv", "instruction,output\na,b\n")
    assert _data(tmp_path / "rows.zip") == [{"instruction": "a", "output": "b"}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_text_with_a_byte_order_mark_is_read_in_its_encoding(tmp_path: Path, encoding: str, kind: str) -> None:
    content = {"jsonl": LINES.decode(), "json": json.dumps(ROWS, ensure_ascii=False), "csv": "instruction,output\n你,b\n"}[kind]
    mark = "" if encoding in ("utf-16", "utf-32") else "\ufeff"
    (tmp_path / f"rows.{kind}").write_bytes((mark + content).encode(encoding))
    assert _data(tmp_path / f"rows.{kind}") == ([{"instruction": "你", "output": "b"}] if kind == "csv" else ROWS)


def test_utf_16_without_a_mark_is_refused_and_says_what_to_write(tmp_path: Path) -> None:
    assert "write it as UTF-8" in _told(tmp_path, "rows.jsonl", LINES.decode().encode("utf-16-be"))


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_files_and_streams_are_tables(tmp_path: Path, kind: str) -> None:
    table = pa.Table.from_pylist(ROWS)
    new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with new(str(tmp_path / "rows.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    assert _data(tmp_path / "rows.arrow") == ROWS
    assert [record.position for record in _read(tmp_path / "rows.arrow")] == [1, 2, 3, 4, 5]


def test_a_packed_table_is_read(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    (tmp_path / "rows.zip").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("rows.parquet", sink.getvalue())
    assert _data(tmp_path / "rows.zip") == ROWS


def test_a_column_that_is_named_twice_is_refused_by_its_name(tmp_path: Path) -> None:
    told = _told(tmp_path, "rows.csv", b"instruction,output,output\na,b,c\n")
    assert "line 1: two columns are named 'output'" in told
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["output", "output"])
    pq.write_table(twice, tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="two columns are named 'output'"):
        _read(tmp_path / "rows.parquet")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import datasets

    folder = tmp_path_factory.mktemp("saved")
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(folder / "flat"), num_shards=2)
    datasets.DatasetDict(train=data, test=data.select([3, 4])).save_to_disk(str(folder / "splits"))
    return folder


def test_a_saved_hugging_face_directory_is_read_by_its_plain_path(saved: Path) -> None:
    assert _data(saved / "flat") == ROWS


def test_a_saved_directory_of_several_splits_asks_which_and_reads_the_one_that_is_named(saved: Path) -> None:
    with pytest.raises(UsageError, match=r"several splits: train, test; say which to read: --set ingest\.split=train"):
        readers.expand(str(saved / "splits"))
    assert _data(saved / "splits", split="test") == ROWS[3:]
    with pytest.raises(UsageError, match="no split 'dev'; it has train, test"):
        readers.expand(str(saved / "splits"), split="dev")


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (("train.jsonl", "test.jsonl"), "test"),
        (("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "validation-00000-of-00001.jsonl"), "validation"),
        (("dolly_train.jsonl", "dolly_dev.jsonl"), "dev"),
    ],
)
def test_a_directory_whose_files_are_splits_asks_which(tmp_path: Path, names: tuple[str, ...], split: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(LINES)
    with pytest.raises(UsageError, match="holds several splits"):
        readers.expand(str(tmp_path))
    (file,) = readers.expand(str(tmp_path), split=split)
    assert split in file.name


def test_a_directory_of_one_split_or_of_none_is_read_whole(tmp_path: Path) -> None:
    for name in ("training-1.jsonl", "trained.jsonl", "more.jsonl"):
        (tmp_path / name).write_bytes(LINES)
    assert len(readers.expand(str(tmp_path))) == 3


LISTED = {"version": 1, "tags": ["a"], "extra": [{"x": 1}], "data": ROWS}


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_under_a_known_name_wins_over_other_lists_and_those_are_told(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(LISTED, indent=indent), encoding="utf-8")
    assert _data(path) == ROWS
    (file,) = readers.expand(str(path))
    assert readers.passed_over(file) == "rows.json holds other lists of records, which are left out: `extra` (1 records)"


def test_several_lists_of_unknown_names_are_refused_with_their_names(tmp_path: Path) -> None:
    content = json.dumps({"good": ROWS, "bad": ROWS[:2]}, indent=1).encode()
    assert "good (5 records), bad (2 records)" in _told(tmp_path, "rows.json", content)


def test_the_only_list_of_records_is_read_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"tags": ["a", "b"], "mine": ROWS}, indent=1), encoding="utf-8")
    assert _data(path) == ROWS


ORIENT = {
    "columns": {name: {str(place): row[name] for place, row in enumerate(ROWS)} for name in ROWS[0]},
    "index": {str(place): row for place, row in enumerate(ROWS)},
    "split": {"columns": list(ROWS[0]), "index": [0, 1, 2, 3, 4], "data": [list(row.values()) for row in ROWS]},
    "table": {"schema": {"fields": [{"name": "instruction"}]}, "data": ROWS},
    "records": ROWS,
}


@pytest.mark.parametrize("orient", ORIENT)
@pytest.mark.parametrize("indent", [None, 2])
def test_tables_as_pandas_writes_them_are_read(tmp_path: Path, orient: str, indent: int | None) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ORIENT[orient], indent=indent), encoding="utf-8")
    assert _data(path) == ROWS


def test_one_record_on_one_line_is_a_record_and_no_wrapper(tmp_path: Path) -> None:
    record = {"conversations": [{"from": "human", "value": "a"}], "tags": [{"x": 1}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(record) + "\n\n")
    assert _data(tmp_path / "rows.jsonl") == [record]


@pytest.mark.parametrize("form", ["jsonl", "json"])
@pytest.mark.parametrize("number", ["1.0", "0.10", "1e5", "12345678901234567890123", "-0", "1.50E-3", "7"])
def test_a_number_keeps_the_text_that_it_was_written_as(tmp_path: Path, number: str, form: str) -> None:
    text = f'{{"instruction": "a", "output": {number}}}'
    (tmp_path / "rows").write_text(f"[{text}]" if form == "json" else f"{text}\n")
    (record,) = _read(tmp_path / "rows")
    assert record.data is not None
    value = record.data["output"]
    assert (value.text if isinstance(value, json_text.Number) else str(value)) == number
    assert record.text == text


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_not_a_number_is_read_from_lines_and_from_lists(tmp_path: Path, form: str) -> None:
    text = '{"instruction": "a", "input": NaN, "output": "NaN"}'
    (tmp_path / "rows").write_text(f"[{text}]" if form == "json" else f"{text}\n")
    (data,) = _data(tmp_path / "rows")
    assert data is not None
    assert data["input"] != data["input"]
    assert data["output"] == "NaN"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), max_size=6), st.integers(1, 40), st.booleans())
def test_a_list_read_piece_by_piece_is_the_list(rows: list[Any], piece: int, is_indented: bool) -> None:
    text = json.dumps(rows, indent=1 if is_indented else None, ensure_ascii=False)
    raw = text.encode("utf-8", "surrogatepass")
    whole, json_text.CHUNK = json_text.CHUNK, piece
    try:
        reading = json_text.JsonText(io.BytesIO(raw))
        found = list(reading.elements())
        reading.end()
    finally:
        json_text.CHUNK = whole
    assert [entry.value for entry in found] == rows
    assert [json.loads(entry.text) for entry in found] == rows


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_the_place_of_an_error_does_not_depend_on_how_much_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(json_text, "CHUNK", piece)
    content = b'[\n {"a": "x"},\n  {"a": "y"},\n  {"b" 1}\n]'
    assert "line 4 column 8 (after record 2)" in _told(tmp_path, "rows.json", content)
