"""Ingest: every record becomes examples or a rejected row with a reason; shards are the same whenever they are made."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import Ingest
from alpagasus_ray.data import records
from alpagasus_ray.data.readers import natural
from alpagasus_ray.errors import InputError, SettingsChanged, StageFailed, UsageError
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.store.run import Begun, Manifest, Run

ROWS = [{"instruction": f"ask {number}", "input": "", "output": f"say {number}"} for number in range(7)]
NULL = {"instruction": None, "output": "x"}


def _source(folder: Path, rows: Sequence[Any] = ROWS, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def _run(folder: Path, name: str = "run") -> Run:
    return Run.open(str(folder / name))


def _rows(run: Run, manifest: Manifest) -> list[dict[str, Any]]:
    return [row for table in run.examples().tables(manifest) for row in table.to_pylist()]


def _rejected(run: Run, manifest: Manifest) -> list[dict[str, Any]]:
    names = [entry.name for entry in manifest.files if entry.name.startswith("rejected-")]
    return [row for name in names for row in run.examples().storage.read_table(name).to_pylist()]


def _contents(run: Run) -> dict[str, tuple[bytes, int]]:
    root = Path(run.examples().storage.root)
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.iterdir()}


def _ingested(folder: Path, rows: Sequence[Any], **settings: Any) -> list[dict[str, Any]]:
    run = _run(folder)
    return _rows(run, ingest(Ingest(source=_source(folder, rows), **settings), run))


def test_ids_are_the_source_name_and_the_row_number_over_all_files(tmp_path: Path) -> None:
    for number in (10, 9):
        _source(tmp_path, ROWS[:2], f"mine/part-{number}.jsonl")
    run = _run(tmp_path)
    rows = _rows(run, ingest(Ingest(source=str(tmp_path / "mine" / "*.jsonl")), run))
    assert [row["example_id"] for row in rows] == [f"mine:{number:09d}" for number in range(4)]
    assert [row["row"] for row in rows] == [0, 1, 2, 3]
    assert [row["source"] for row in rows] == ["part-9.jsonl#1", "part-9.jsonl#2", "part-10.jsonl#1", "part-10.jsonl#2"]


def test_a_name_of_ones_own_stands_in_every_id(tmp_path: Path) -> None:
    assert _ingested(tmp_path, ROWS[:1], name="ours")[0]["example_id"] == "ours:000000000"


def test_examples_of_one_conversation_share_its_row_and_differ_by_turn(tmp_path: Path) -> None:
    turns = [{"from": speaker, "value": speaker} for speaker in ("human", "gpt") * 2]
    rows = _ingested(tmp_path, [{"conversations": turns}], turns="all")
    assert [row["example_id"] for row in rows] == ["rows:000000000.000", "rows:000000000.001"]
    assert [row["row"] for row in rows] == [0, 0]
    assert [row["history"] for row in rows] == [None, [{"instruction": "human", "output": "gpt"}]]


def test_a_rejected_record_keeps_its_row_number_from_others(tmp_path: Path) -> None:
    rows = _ingested(tmp_path, [ROWS[0], NULL, ROWS[1]], max_rejected=0.5)
    assert [row["row"] for row in rows] == [0, 2]


def test_two_runs_make_the_same_shards_byte_for_byte(tmp_path: Path) -> None:
    config = Ingest(source=_source(tmp_path, [*ROWS, NULL]), rows_per_shard=3, max_rejected=0.5)
    first, second = _run(tmp_path, "first"), _run(tmp_path, "second")
    assert ingest(config, first).content_hash() == ingest(config, second).content_hash()
    shards = [{name: raw for name, (raw, _) in _contents(run).items() if ".parquet" in name} for run in (first, second)]
    assert sorted(shards[0]) == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet", "rejected-00000.parquet"]
    assert shards[0] == shards[1]


def test_shards_hold_rows_per_shard_examples_and_the_last_one_the_rest(tmp_path: Path) -> None:
    run = _run(tmp_path)
    told: list[int] = []
    manifest = ingest(Ingest(source=_source(tmp_path), rows_per_shard=3), run, told.append)
    assert [entry.rows for entry in manifest.parts()] == [3, 3, 1]
    assert told == [3, 6, 7]
    run.examples().verify(manifest)


def test_rejected_rows_have_file_position_reason_and_record(tmp_path: Path) -> None:
    run = _run(tmp_path)
    broken = '{"instruction": "cut o'
    source = _source(tmp_path, [ROWS[0], NULL, ROWS[1], broken, "[1]", NULL])
    manifest = ingest(Ingest(source=source, max_rejected=1, rows_per_shard=2), run)
    found = _rejected(run, manifest)
    assert [(row["file"], row["position"]) for row in found] == [("rows.jsonl", place) for place in (2, 4, 5, 6)]
    assert [row["reason"].split(":")[0] for row in found] == [
        "`instruction` is null",
        "not valid JSON",
        "the record is a list, not an object",
        "`instruction` is null",
    ]
    assert [row["record"] for row in found] == ['{"instruction": null, "output": "x"}', broken, "[1]", found[0]["record"]]
    assert manifest.counts == {"examples": 2, "rejected": 4, "duplicates": 0}
    assert manifest.details["reasons"]["`instruction` is null"] == 2


def test_every_record_is_an_example_or_rejected(tmp_path: Path) -> None:
    run = _run(tmp_path)
    manifest = ingest(Ingest(source=_source(tmp_path, [*ROWS, NULL, "{", *ROWS]), max_rejected=1), run)
    assert manifest.details["records"] == 16 == manifest.rows + manifest.counts["rejected"]
    assert (len(_rows(run, manifest)), len(_rejected(run, manifest))) == (14, 2)


def test_exact_duplicates_are_kept_and_name_the_first_of_them(tmp_path: Path) -> None:
    run = _run(tmp_path)
    again = {**ROWS[0], "category": "other"}
    near = {**ROWS[0], "output": "say 0 "}
    manifest = ingest(Ingest(source=_source(tmp_path, [*ROWS[:2], again, near, ROWS[0]]), rows_per_shard=2), run)
    first = "rows:000000000"
    assert [row["duplicate_of"] for row in _rows(run, manifest)] == [None, None, first, None, first]
    assert manifest.counts["duplicates"] == 2


def test_a_second_call_returns_the_same_manifest_and_touches_no_file(tmp_path: Path) -> None:
    config = Ingest(source=_source(tmp_path))
    run = _run(tmp_path)
    made, files = ingest(config, run), _contents(run)
    assert ingest(config.model_copy(update={"max_rejected": 0.5}), run) == made
    assert _contents(run) == files


def test_a_finished_stage_needs_its_source_no_longer(tmp_path: Path) -> None:
    config = Ingest(source=_source(tmp_path))
    made = ingest(config, _run(tmp_path))
    (tmp_path / "rows.jsonl").unlink()
    assert ingest(config, _run(tmp_path)) == made


def test_a_changed_setting_is_refused_with_what_differs_and_touches_no_file(tmp_path: Path) -> None:
    config = Ingest(source=_source(tmp_path))
    run = _run(tmp_path)
    ingest(config, run)
    files = _contents(run)
    with pytest.raises(SettingsChanged, match="rows_per_shard: 1000 there, 3 now"):
        ingest(config.model_copy(update={"rows_per_shard": 3}), run)
    assert _contents(run) == files


def test_an_input_file_with_other_content_of_the_same_size_is_refused(tmp_path: Path) -> None:
    source = Path(_source(tmp_path))
    ingest(Ingest(source=str(source)), _run(tmp_path))
    source.write_text(source.read_text().swapcase())
    with pytest.raises(SettingsChanged, match=r"rows\.jsonl: [0-9a-f]{16} there, [0-9a-f]{16} now"):
        ingest(Ingest(source=str(source)), _run(tmp_path))


def test_a_large_input_file_is_known_by_its_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CHECKSUM_LIMIT", 1)
    source = Path(_source(tmp_path))
    first = ingest(Ingest(source=str(source)), _run(tmp_path))
    assert first.inputs["rows.jsonl"].startswith(f"{source.stat().st_size} bytes, changed ")
    _source(tmp_path, ROWS[:3])
    with pytest.raises(SettingsChanged, match="bytes, changed"):
        ingest(Ingest(source=str(source)), _run(tmp_path))


def test_files_of_one_name_in_two_directories_are_told_apart(tmp_path: Path) -> None:
    sources = tuple(_source(tmp_path, ROWS, f"{folder}/rows.jsonl") for folder in ("a", "b"))
    ingest(Ingest(source=sources), _run(tmp_path))
    _source(tmp_path, ROWS[:3], "a/rows.jsonl")
    with pytest.raises(SettingsChanged):
        ingest(Ingest(source=sources), _run(tmp_path))


def test_an_interrupted_ingest_is_made_anew(tmp_path: Path) -> None:
    config = Ingest(source=_source(tmp_path))
    run = _run(tmp_path)
    stage = run.examples()
    stage.begin(Begun(settings={"other": 1}, inputs={}))
    stage.storage.write("part-00007.parquet", b"left over")
    manifest = ingest(config, run)
    assert manifest.rows == len(ROWS)
    assert stage.storage.names() == ["manifest.json", "part-00000.parquet"]


def test_too_many_rejected_fail_with_their_reasons_and_leave_no_manifest(tmp_path: Path) -> None:
    run = _run(tmp_path)
    config = Ingest(source=_source(tmp_path, [*ROWS, NULL, NULL, "{"]), max_rejected=0.2)
    with pytest.raises(StageFailed, match=r"3 of 10 records .*max_rejected = 0\.2 .*2 x `instruction` is null") as failure:
        ingest(config, run)
    assert run.examples().manifest() is None
    assert Path(str(failure.value).rpartition(" ")[2]).is_file()
    assert ingest(config.model_copy(update={"max_rejected": 0.3}), run).rows == 7


def test_a_source_without_any_record_is_told_as_such(tmp_path: Path) -> None:
    source = _source(tmp_path, ["instruction,output"], "rows.csv")
    with pytest.raises((InputError, StageFailed)) as failure:
        ingest(Ingest(source=source), _run(tmp_path))
    assert "max_rejected" not in str(failure.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"columns": {"instruction": "question", "output": "output"}}, "no column 'question', which ingest.columns names"),
        ({"format": "sharegpt"}, "not the sharegpt layout that ingest.format names"),
    ],
)
def test_a_file_without_the_fields_that_the_recipe_names_is_refused(tmp_path: Path, settings: Any, told: str) -> None:
    source = _source(tmp_path)
    with pytest.raises(InputError, match=f"{source}, (?:record|line) 1: {told}.*instruction, input, output"):
        ingest(Ingest(source=source, **settings), _run(tmp_path))


def test_files_of_different_layouts_are_each_read_by_their_own(tmp_path: Path) -> None:
    _source(tmp_path, ROWS[:1], "data/1.jsonl")
    _source(tmp_path, [{"instruction": "i", "context": "c", "response": "r"}], "data/2.jsonl")
    run = _run(tmp_path)
    rows = _rows(run, ingest(Ingest(source=str(tmp_path / "data")), run))
    assert [(row["input"], row["output"]) for row in rows] == [("", "say 0"), ("c", "r")]


def test_without_a_source_the_key_to_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ingest\.source"):
        ingest(Ingest(), _run(tmp_path))


def test_one_bad_record_does_not_end_the_run(tmp_path: Path) -> None:
    good = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    assert len(_ingested(tmp_path, [good, {"id": 1}, good], max_rejected=0.5)) == 2


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face dataset and a dictionary of two splits, as `save_to_disk` leaves them."""
    import datasets

    folder = tmp_path_factory.mktemp("saved")
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(folder / "flat"))
    datasets.DatasetDict(train=data, test=data.select(range(2))).save_to_disk(str(folder / "splits"))
    return folder


@pytest.mark.parametrize(("name", "split", "count"), [("flat", "train", 7), ("splits", "train", 7), ("splits", "test", 2)])
def test_saved_hugging_face_datasets_are_read(tmp_path: Path, saved: Path, name: str, split: str, count: int) -> None:
    run = _run(tmp_path)
    config = Ingest(source=f"hf:{saved / name}", split=split)
    rows = _rows(run, ingest(config, run))
    assert [row["output"] for row in rows] == [row["output"] for row in ROWS[:count]]
    assert rows[0]["example_id"] == f"{name}:000000000"


def test_an_unknown_split_is_told_which_there_are(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(UsageError, match=r"no split 'dev'; it has train, test"):
        ingest(Ingest(source=f"hf:{saved / 'splits'}", split="dev"), _run(tmp_path))


def test_a_directory_that_holds_no_saved_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"hf:{tmp_path}"):
        ingest(Ingest(source=f"hf:{tmp_path}"), _run(tmp_path))


def test_alpaca_comes_out_as_it_went_in(tmp_path: Path, shared: Path) -> None:
    folder = shared / "alpaca52k"
    run = _run(tmp_path)
    manifest = ingest(Ingest(source=str(folder / "*.json")), run)
    assert manifest.counts == {"examples": 52002, "rejected": 0, "duplicates": 0}
    assert len(manifest.inputs) == 18
    paths = sorted(folder.iterdir(), key=lambda path: natural(path.name))
    originals = [row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))]
    columns = ["instruction", "input", "output"]
    made = [row for table in run.examples().tables(manifest, columns) for row in table.to_pylist()]
    assert made == [{column: row[column] for column in columns} for row in originals]


def test_dolly_keeps_its_categories(tmp_path: Path, shared: Path) -> None:
    path = shared / "sources" / "dolly_3k.json"
    run = _run(tmp_path)
    rows = _rows(run, ingest(Ingest(source=str(path)), run))
    assert [row["category"] for row in rows] == [row["category"] for row in json.loads(path.read_text(encoding="utf-8"))]
    assert len(rows) == 2996


@pytest.mark.parametrize(
    ("name", "turns", "count"),
    [
        ("sharegpt.json", "first", 500),
        ("sharegpt.json", "all", 1000),
        ("messages.jsonl", "first", 500),
        ("oasst_messages.jsonl.gz", "first", 100),
        ("alpaca_zh.json", "first", 1000),
    ],
)
def test_real_files_of_every_layout_are_read_without_a_loss(
    tmp_path: Path, shared: Path, name: str, turns: Any, count: int
) -> None:
    run = _run(tmp_path)
    manifest = ingest(Ingest(source=str(shared / "sources" / name), turns=turns), run)
    rows = _rows(run, manifest)
    assert (len(rows), manifest.counts["rejected"]) == (count, 0)
    assert all(row["instruction"].strip() for row in rows)


def test_chinese_comes_out_as_it_went_in(tmp_path: Path, shared: Path) -> None:
    path = shared / "sources" / "alpaca_zh.json"
    run = _run(tmp_path)
    rows = _rows(run, ingest(Ingest(source=str(path)), run))
    assert [row["output"] for row in rows] == [row["output"] for row in json.loads(path.read_text(encoding="utf-8"))]
