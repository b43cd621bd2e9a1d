"""Runs: a stage exists when its manifest does, and results of other settings are never gone on with."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from alpagasus_ray.__main__ import VERBS
from alpagasus_ray.errors import SettingsChanged, StageFailed, UsageError
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir, describe, differences, shard_name
from alpagasus_ray.store.stage_kinds import STAGE_KINDS, UNKNOWN
from alpagasus_ray.store.storage import Written


@pytest.fixture
def stage(tmp_path: Path) -> StageDir:
    return Run.open(str(tmp_path / "run")).examples()


def _manifest(**changed: Any) -> Manifest:
    known: dict[str, Any] = {
        "stage": "examples",
        "settings": {"name": "x", "judge": {"model": "m"}},
        "settings_hash": "0" * 16,
        "inputs": {"a.json": "5 bytes"},
        "files": [FileEntry(name="part-00000.parquet", rows=1, bytes=3, sha256="ab")],
        "rows": 1,
        "seconds": 2.5,
        "versions": {"python": "3"},
    }
    return Manifest(**known | changed)


def _with_table(stage: StageDir, name: str = "part-00000.parquet") -> FileEntry:
    written = stage.storage.write_table(name, pa.table({"example_id": [name]}))
    return FileEntry(name=name, rows=1, bytes=written.bytes, sha256=written.sha256)


def test_a_manifest_comes_back_as_it_was_written(stage: StageDir) -> None:
    manifest = _manifest(counts={"a": 1}, usage={"cost_usd": 0.1}, details={"reasons": {"ä": 1}})
    stage.finish(manifest)
    assert stage.manifest() == manifest


def test_a_stage_is_unfinished_until_its_manifest_is_there(stage: StageDir) -> None:
    begun = Begun(settings={"a": 1}, inputs={})
    stage.begin(begun)
    assert (stage.manifest(), stage.begun()) == (None, begun)
    stage.finish(_manifest())
    assert stage.begun() is None
    stage.reopen()
    assert stage.manifest() is None


@pytest.mark.parametrize("changed", [{"seconds": 9.0}, {"versions": {"python": "4"}}, {"details": {"a": 1}}])
def test_the_content_hash_is_the_same_however_fast_and_with_what_it_was_made(changed: dict[str, Any]) -> None:
    assert _manifest(**changed).content_hash() == _manifest().content_hash()


@pytest.mark.parametrize(
    "changed",
    [
        {"settings_hash": "1" * 16},
        {"inputs": {"a.json": "6 bytes"}},
        {"files": []},
        {"files": [FileEntry(name="part-00000.parquet", rows=1, bytes=3, sha256="cd")]},
        {"files": [FileEntry(name="part-00001.parquet", rows=1, bytes=3, sha256="ab")]},
    ],
)
def test_the_content_hash_changes_with_settings_inputs_and_files(changed: dict[str, Any]) -> None:
    assert _manifest(**changed).content_hash() != _manifest().content_hash()


def test_a_stage_that_must_be_there_names_the_command_that_makes_it(stage: StageDir) -> None:
    with pytest.raises(UsageError, match=r"examples/ is not finished .* run `alpagasus ingest RUN` first"):
        stage.finished()
    stage.finish(_manifest())
    assert stage.finished() == _manifest()


def test_a_mistyped_stage_names_the_finished_one_of_a_near_name(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    run.ratings("judge").finish(_manifest(stage="ratings/judge"))
    run.ratings("judged").begin(Begun(settings={}, inputs={}))
    with pytest.raises(UsageError) as refusal:
        run.ratings("jugde").finished()
    assert str(refusal.value) == (
        "ratings/jugde/ is not finished in this run; did you mean ratings/judge/? If not, run `alpagasus score RUN` first"
    )


def test_what_makes_a_stage_is_a_command() -> None:
    assert {kind.verb for kind in STAGE_KINDS.values()} <= set(VERBS)
    assert UNKNOWN.verb in VERBS


@pytest.mark.parametrize("made", [_manifest(), Begun(settings=_manifest().settings, inputs=_manifest().inputs)])
def test_the_same_settings_and_inputs_may_go_on(stage: StageDir, made: Manifest | Begun) -> None:
    stage.same_or_refuse(made, dict(made.settings), dict(made.inputs))
    with pytest.raises(SettingsChanged):
        stage.same_or_refuse(made, {**made.settings, "more": 1}, made.inputs)


def test_a_refusal_names_keys_both_values_and_the_way_out(stage: StageDir) -> None:
    with pytest.raises(SettingsChanged) as refusal:
        stage.same_or_refuse(_manifest(), {"name": "x", "judge": {"model": "n"}}, {"a.json": "6 bytes", "b.json": "1 bytes"})
    told = str(refusal.value)
    assert "judge.model: 'm' there, 'n' now" in told
    assert "a.json: 5 bytes there, 6 bytes now" in told
    assert "b.json: None there, 1 bytes now" in told
    assert "name:" not in told
    assert f"delete {stage.storage.root}" in told


def test_differences_are_told_by_nested_key_and_equal_values_are_not() -> None:
    old = {"a": 1, "b": {"c": 2, "d": {"e": [1]}}, "gone": True}
    new = {"a": 1, "b": {"c": 3, "d": {"e": [2]}}, "came": {"x": 1}}
    assert differences(old, new, "score.") == [
        "score.b.c: 2 there, 3 now",
        "score.b.d.e: [1] there, [2] now",
        "score.came: None there, {'x': 1} now",
        "score.gone: True there, None now",
    ]
    assert differences(old, old) == []


def test_verify_finds_a_file_that_is_not_the_one_listed(stage: StageDir) -> None:
    entries = [_with_table(stage, shard_name(number)) for number in range(3)]
    manifest = _manifest(files=entries)
    stage.verify(manifest)
    stage.storage.write(entries[1].name, stage.storage.read(entries[1].name)[:-1] + b"!")
    with pytest.raises(StageFailed, match=r"part-00001\.parquet is not the file"):
        stage.verify(manifest)


def test_verify_finds_a_file_that_is_gone(stage: StageDir) -> None:
    with pytest.raises(StageFailed, match=r"part-00000\.parquet"):
        stage.verify(_manifest())


def test_readers_see_the_listed_parts_in_order_and_nothing_else(stage: StageDir) -> None:
    names = ["part-00001.parquet", "part-00000.parquet", "rejected-00000.parquet", "part-00009.parquet"]
    entries = [_with_table(stage, name) for name in names]
    seen = [table["example_id"][0].as_py() for table in stage.tables(_manifest(files=entries[:3]))]
    assert seen == names[:2]


def test_an_entry_sums_up_its_rows_and_leaves_out_what_no_row_knows() -> None:
    rows = [
        {"status": "scored", "score": 4.0, "tokens_in": 3, "cost_usd": None},
        {"status": "scored", "score": 4.5, "tokens_in": 4},
        {"status": "failed", "score": None},
    ]
    entry = describe("part-00000.parquet", Written(10, "ab"), rows)
    assert (entry.rows, entry.bytes, entry.sha256) == (3, 10, "ab")
    assert entry.counts == {"scored": 2, "failed": 1}
    assert entry.histogram == {"4": 1, "4.5": 1}
    assert entry.usage == {"tokens_in": 7}


def test_stages_of_a_run_are_directories_of_their_own(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path))
    roots = [stage.storage.root for stage in (run.examples(), run.ratings("judge"), run.subset("random"))]
    assert roots == [f"{tmp_path}/{name}" for name in ("examples", "ratings/judge", "subsets/random")]
