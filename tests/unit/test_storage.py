"""Storage: what is written is whole or absent; what is read is what was written."""

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pytest

from alpagasus_ray.errors import UsageError
from alpagasus_ray.store.storage import Storage, Written


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "dir"))


class _Killed(BaseException):
    """Not an `Exception`, as little as a keyboard interrupt is."""


def _fail_half_way(storage: Storage, name: str, error: type[BaseException]) -> None:
    with storage.writing(name) as stream:
        stream.write(b"half")
        raise error


@pytest.mark.parametrize("error", [ValueError, _Killed])
def test_a_write_that_fails_leaves_nothing_behind(storage: Storage, error: type[BaseException]) -> None:
    with pytest.raises(error):
        _fail_half_way(storage, "new", error)
    assert os.listdir(storage.root) == []


def test_a_write_that_fails_keeps_the_old_content(storage: Storage) -> None:
    storage.write("kept", b"old")
    with pytest.raises(ValueError):
        _fail_half_way(storage, "kept", ValueError)
    assert storage.read("kept") == b"old"
    assert os.listdir(storage.root) == ["kept"]


def test_content_is_not_visible_before_its_write_has_ended(storage: Storage) -> None:
    storage.write("name", b"old")
    with storage.writing("name") as stream:
        stream.write(b"new")
        stream.flush()
        assert storage.read("name") == b"old"
        assert storage.names() == ["name"]
    assert storage.read("name") == b"new"


def test_a_write_tells_size_and_checksum_of_what_can_be_read(storage: Storage) -> None:
    content = bytes(range(256))
    assert storage.write("a/b", content) == Written(256, hashlib.sha256(content).hexdigest())
    assert storage.at("a").read("b") == content


def test_a_table_comes_back_as_it_was_written(storage: Storage) -> None:
    table = pa.table({"text": ["ä", "", None], "score": [1.5, None, 0.0], "turns": [[{"a": "b"}], [], None]})
    written = storage.write_table("t.parquet", table)
    assert storage.read_table("t.parquet").equals(table)
    assert storage.read_table("t.parquet", ["score"]).equals(table.select(["score"]))
    assert hashlib.sha256(storage.read("t.parquet")).hexdigest() == written.sha256


def test_equal_tables_make_equal_files(storage: Storage) -> None:
    table = pa.table({"text": ["a", "b"] * 100})
    assert storage.write_table("1", table) == storage.write_table("2", table)


def test_names_are_sorted_files_without_hidden_ones_and_directories(storage: Storage) -> None:
    for name in ("b", "a", ".a.12345678", "deep/c"):
        storage.write(name, b"x")
    assert storage.names() == ["a", "b"]


def test_an_absent_directory_has_no_names_and_no_files(storage: Storage) -> None:
    assert storage.names() == []
    assert not storage.exists("a")


def test_a_directory_is_not_a_file(storage: Storage) -> None:
    storage.write("deep/c", b"x")
    assert (storage.exists("deep"), storage.exists("deep/c")) == (False, True)


def test_deleting_takes_away_what_is_there_and_nothing_else(storage: Storage) -> None:
    for name in ("a", "deep/c"):
        storage.write(name, b"x")
    storage.delete("a")
    storage.delete("a")
    assert (storage.exists("a"), storage.exists("deep/c")) == (False, True)
    storage.at("deep").delete_tree()
    assert not storage.exists("deep/c")
    assert os.path.isdir(storage.root)


def test_an_absent_tree_may_be_deleted(storage: Storage) -> None:
    storage.delete_tree()
    assert not os.path.exists(storage.root)


def test_home_and_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Storage.open("~/runs/").root == Storage.open("runs").root == Storage.open(f"file://{tmp_path}/runs").root


def test_an_unknown_scheme_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="cannot open nowhere://bucket/run"):
        Storage.open("nowhere://bucket/run")
