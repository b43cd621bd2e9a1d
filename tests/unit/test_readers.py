"""Sources: records and their places from every container; what is broken ends in one error that says where."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alpagasus_ray.config import Ingest
from alpagasus_ray.data import readers
from alpagasus_ray.data.readers import Record
from alpagasus_ray.errors import InputError, UsageError
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.store.run import Run

ROWS = [
    {"instruction": "Say\nhello, “you”", "output": "héllo"},
    {"instruction": 'Quote "it"', "output": "你好"},
    {"instruction": "Third", "output": "\t3"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _separated(delimiter: str, path: Path) -> str:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    return path.read_text(encoding="utf-8")


def _read(source: Path | str, kind: str = "auto") -> list[Record]:
    return [record for file in readers.expand(str(source)) for record in readers.records(file, kind)]


def _broken(source: Path, kind: str = "auto") -> str:
    with pytest.raises(InputError) as refusal:
        _read(source, kind)
    assert str(source) in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("bom", ["", "\ufeff"], ids=["", "bom"])
@pytest.mark.parametrize("kind", ["list", "indented", "object", "jsonl", "csv", "tsv"])
def test_every_container_gives_the_same_records(tmp_path: Path, kind: str, bom: str, packed: bool) -> None:
    content = {
        "list": json.dumps(ROWS),
        "indented": json.dumps(ROWS, indent=4, ensure_ascii=False),
        "object": json.dumps({"version": {"list": [1]}, "data": ROWS}, indent=1),
        "jsonl": LINES,
        "csv": _separated(",", tmp_path / "plain.csv"),
        "tsv": _separated("\t", tmp_path / "plain.tsv"),
    }[kind]
    raw = (bom + content).encode()
    name = f"rows.{kind}.gz" if packed else f"rows.{kind}"
    found = _read(_file(tmp_path, name, gzip.compress(raw) if packed else raw))
    assert [record.data for record in found] == ROWS
    assert {record.file for record in found} == {name}


def test_parquet_rows_are_records(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.bin")
    assert _read(tmp_path / "rows.bin") == [Record("rows.bin", place, row) for place, row in enumerate(ROWS, 1)]


def test_an_object_that_holds_the_list_may_stand_on_one_line(tmp_path: Path) -> None:
    path = _file(tmp_path, "rows.json", json.dumps({"data": ROWS}))
    assert [record.data for record in _read(path)] == ROWS


def test_format_json_reads_an_object_that_holds_the_list(tmp_path: Path) -> None:
    path = _file(tmp_path, "rows.json", json.dumps({"data": ROWS}, indent=1))
    assert [record.data for record in _read(path, "json")] == ROWS


@pytest.mark.parametrize("name", ["rows.json", "rows.csv", "rows.txt", "rows.parquet", "rows.jsonl.gz"])
def test_content_decides_what_a_file_is_not_its_name(tmp_path: Path, name: str) -> None:
    assert [record.data for record in _read(_file(tmp_path, name, LINES))] == ROWS


def test_a_given_kind_reads_csv_of_any_name(tmp_path: Path) -> None:
    path = _file(tmp_path, "rows.txt", "instruction,output\na,b\n")
    assert [record.data for record in _read(path, "csv")] == [{"instruction": "a", "output": "b"}]


def test_numbers_in_names_count_by_their_value(tmp_path: Path) -> None:
    for number in (10, 9, 100, 1):
        _file(tmp_path, f"part-{number}.jsonl", LINES)
    names = [file.name for file in readers.expand(str(tmp_path / "*.jsonl"))]
    assert names == ["part-1.jsonl", "part-9.jsonl", "part-10.jsonl", "part-100.jsonl"]


def test_a_list_of_sources_keeps_its_order(tmp_path: Path) -> None:
    paths = [str(_file(tmp_path, name, LINES)) for name in ("b.jsonl", "a.jsonl")]
    assert [file.path for file in readers.expand(paths)] == paths


def test_a_directory_means_its_files_but_not_hidden_ones_nor_deeper_ones(tmp_path: Path) -> None:
    for name in ("2.jsonl", "1.jsonl", ".hidden.jsonl", "deep/3.jsonl"):
        _file(tmp_path, f"data/{name}", LINES)
    assert [file.name for file in readers.expand(str(tmp_path / "data"))] == ["1.jsonl", "2.jsonl"]


def test_a_glob_reaches_into_directories(tmp_path: Path) -> None:
    for name in ("b/1.jsonl", "a/2.jsonl", "a/2.txt"):
        _file(tmp_path, name, LINES)
    assert [file.name for file in readers.expand(str(tmp_path / "*" / "*.jsonl"))] == ["a/2.jsonl", "b/1.jsonl"]


def test_an_existing_file_may_have_brackets_in_its_name(tmp_path: Path) -> None:
    path = _file(tmp_path, "rows[1].jsonl", LINES)
    assert [file.name for file in readers.expand(str(path))] == ["rows[1].jsonl"]


@pytest.mark.parametrize("name", ["nowhere.json", "*.json", "empty", "no/such/*.json"])
def test_a_place_without_files_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    location = str(tmp_path / name)
    with pytest.raises(UsageError, match="nothing found") as refusal:
        readers.expand(location)
    assert location in str(refusal.value)


def test_positions_count_records_of_a_list_and_lines_of_json_lines(tmp_path: Path) -> None:
    listed = _file(tmp_path, "rows.json", json.dumps(ROWS, indent=4))
    lined = _file(tmp_path, "rows.jsonl", LINES.replace("\n", "\n\n", 1))
    assert [record.position for record in _read(listed)] == [1, 2, 3]
    assert [record.position for record in _read(lined)] == [1, 3, 4]


def test_positions_of_csv_are_the_lines_that_rows_start_on(tmp_path: Path) -> None:
    path = _file(tmp_path, "rows.csv", 'instruction,output\n"two\nlines",x\n"\n\n",y\nlast,z\n')
    assert [record.position for record in _read(path)] == [2, 4, 7]


def test_blank_lines_of_csv_do_not_shift_positions(tmp_path: Path) -> None:
    path = _file(tmp_path, "rows.csv", "instruction,output\na,b\n\nc,d\n")
    assert [record.position for record in _read(path)] == [2, 4]


def test_a_broken_line_amid_json_lines_is_a_record_with_a_problem(tmp_path: Path) -> None:
    broken = '{"instruction": "cut o'
    path = _file(tmp_path, "rows.jsonl", LINES + broken + "\n" + LINES)
    found = _read(path)
    assert [record.position for record in found if record.data is None] == [4]
    assert found[3].problem.startswith("not valid JSON")
    assert found[3].raw == broken
    assert len(found) == 7


def test_a_line_that_is_not_utf8_is_a_record_with_a_problem(tmp_path: Path) -> None:
    found = _read(_file(tmp_path, "rows.jsonl", LINES.encode() + b'{"output": "caf\xe9"}\n'))
    assert (found[3].data, found[3].position) == (None, 4)


@pytest.mark.parametrize(("item", "shown"), [("[1]", "a list"), ('"x"', "text"), ("null", "null"), ("3", "a number")])
def test_a_record_that_is_no_object_has_a_problem_that_says_what_it_is(tmp_path: Path, item: str, shown: str) -> None:
    found = _read(_file(tmp_path, "rows.json", f'[{{"output": "x"}}, {item}]'))
    assert (found[1].data, found[1].raw) == (None, item)
    assert shown in found[1].problem


def test_a_csv_row_of_another_width_is_a_record_with_a_problem(tmp_path: Path) -> None:
    found = _read(_file(tmp_path, "rows.csv", "instruction,output\na,b\nc\nd,e,f\ng,h\n"))
    assert [record.position for record in found if record.data is None] == [3, 4]
    assert "as many fields as the header" in found[1].problem


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('[{"a": 1},\n {"a": 2},\n]', "line 3 column 1 (after record 2)"),
        ('[{"a": 1},\n {"a": ', "(after record 1)"),
        ('[{"a": 1}] [', "(after record 1)"),
        ('{\n "data": [{"a": 1}, {"a"}]}', "line 2 column 25 (after record 1)"),
        ('{"a": }\n{"a": 1}\n', "line 1 column 7"),
        ('{\n "data": {"a": 1}}', "without a list of records"),
        ("[]", "the list of records is empty"),
        ("  \n ", "white space"),
        ("<html>", "starts with '<html>'"),
    ],
)
def test_a_file_broken_as_a_whole_ends_in_one_error_with_its_place(tmp_path: Path, content: str, place: str) -> None:
    assert place in _broken(_file(tmp_path, "rows.json", content))


def test_a_broken_csv_row_is_told_with_the_line_before_it(tmp_path: Path) -> None:
    assert "after line 2: not valid CSV" in _broken(_file(tmp_path, "rows.csv", 'instruction,output\na,b\n"c"x,d\n'))


def test_a_csv_file_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    assert "utf-8" in _broken(_file(tmp_path, "rows.csv", b"instruction,output\ncaf\xe9,b\n"))


def test_a_truncated_parquet_file_is_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "whole")
    assert "not valid Parquet" in _broken(_file(tmp_path, "cut", (tmp_path / "whole").read_bytes()[:-9]))


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("kept", [5, 0.5], ids=["header", "half"])
def test_a_truncated_gzip_file_is_told_with_its_place(tmp_path: Path, kind: str, kept: float) -> None:
    numbers = [{"instruction": str(number), "output": str(number**9)} for number in range(2000)]
    content = {
        "json": json.dumps(numbers),
        "jsonl": "\n".join(map(json.dumps, numbers)),
        "csv": "instruction,output\n" + "\n".join(",".join(row.values()) for row in numbers),
    }[kind]
    packed = gzip.compress(content.encode())
    told = _broken(_file(tmp_path, f"rows.{kind}.gz", packed[: kept if kept > 1 else int(kept * len(packed))]))
    assert "end-of-stream" in told
    assert "byte 0" in told or "after" in told


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_a_damaged_gzip_file_is_told_with_its_place(tmp_path: Path, kind: str) -> None:
    content = LINES * 500 if kind == "jsonl" else json.dumps(ROWS * 500)
    packed = bytearray(gzip.compress(content.encode()))
    packed[20:60] = b"\xff" * 40
    assert "gzip" in _broken(_file(tmp_path, f"rows.{kind}.gz", bytes(packed)))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("git_lfs_pointer_named.jsonl.gz", ["line 1", "Git LFS pointer", "git lfs pull"]),
        ("hikariming_trailing_comma_small_de2aa10.json", ["line 112 column 1", "after record 22", "not valid JSON"]),
        ("zero_bytes.json", ["byte 0", "0 bytes"]),
    ],
)
def test_each_malformed_file_ends_in_one_error_with_its_place(shared: Path, name: str, told: list[str]) -> None:
    message = _broken(shared / "malformed" / name)
    assert [part for part in told if part not in message] == []


def test_json_lines_named_json_are_records_and_ingest_says_which_columns_to_name(shared: Path, tmp_path: Path) -> None:
    path = shared / "malformed" / "jsonl_named_json_mmlu_val.json"
    assert {tuple(record.data or ()) for record in _read(path)} == {("subject", "input", "output")}
    with pytest.raises(InputError, match=r"(?:record|line) 1: .* subject, input, output; .*ingest\.columns=") as refusal:
        ingest(Ingest(source=str(path)), Run.open(str(tmp_path / "run")))
    assert str(path) in str(refusal.value)


def test_a_mistyped_file_is_told_with_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(UsageError, match=r"nothing found at .*mien\.json.*Did you mean mine\.json"):
        readers.expand(str(tmp_path / "mien.json"), "ingest.source")
    with pytest.raises(UsageError, match=r"with files$"):
        readers.expand(str(tmp_path / "other" / "*.csv"), "ingest.source")
