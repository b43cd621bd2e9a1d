"""Files of tokens: no example lost, the same tokens as the encoder's, nothing in memory before it is looked at."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from alpagasus_ray.config import Arm, Finetune, Ingest, Pick
from alpagasus_ray.data.schema import DROPPED, TOKENS
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import Begun, Manifest, Run, StageDir
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.training import token_files
from alpagasus_ray.training.encode import Encoded, Encoder
from alpagasus_ray.training.token_files import Tokens, encode_shard, token_settings

ROWS, SHARDS = 3252, 4


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The first 3,252 Alpaca examples and an arm of all of them."""
    found = Run.open(str(tmp_path_factory.mktemp("arm")))
    ingest(Ingest(source=str(shared / "alpaca52k" / "alpaca_data-0-3252.json"), name="alpaca"), found)
    pick_subset(Pick(arms=(Arm(name="full", policy="full"),)), found)
    return found


@pytest.fixture(scope="module")
def config(shared: Path) -> Finetune:
    return Finetune(model=str(shared / "tiny_llama"), max_length=512)


@pytest.fixture(scope="module")
def made(run: Run, config: Finetune) -> Manifest:
    """All shards of the arm, encoded into the run."""
    return _encoded(config, run, run.tokens("full"))


def _encoded(config: Finetune, run: Run, target: StageDir) -> Manifest:
    """What `encode_arm` makes, without a cluster."""
    source = run.subset("full")
    parts = source.finished().parts()
    files = [entry for part in parts for entry in encode_shard(config, source, target, part.name)]
    return token_files._summed_up(target, files, Begun(settings=token_settings(config), inputs={}))


def _rows(run: Run) -> list[dict[str, Any]]:
    stage = run.subset("full")
    return [row for table in stage.tables(stage.finished()) for row in table.to_pylist()]


def _left(stage: StageDir, manifest: Manifest) -> pa.Table:
    names = [entry.name for entry in manifest.files if entry.name.startswith("dropped-")]
    return pa.concat_tables(stage.storage.read_table(name) for name in names)


def test_every_example_of_an_arm_is_kept_or_left_with_a_reason(run: Run, config: Finetune, made: Manifest) -> None:
    tokens, left = Tokens.open(run.tokens("full"), made), _left(run.tokens("full"), made)
    kept = [tokens.example_id(number) for number in range(len(tokens))]
    assert sorted(kept + left["example_id"].to_pylist()) == sorted(row["example_id"] for row in _rows(run))
    assert made.rows == ROWS == len(kept) + len(left)
    assert left.schema.equals(DROPPED)
    assert all(reason.startswith("no trainable token: ") for reason in left["reason"].to_pylist())
    assert made.counts == {"whole": len(kept) - made.counts["cut"], "cut": made.counts["cut"], "left out": len(left)}
    assert made.details == {"reasons": {"no trainable token": len(left)}, "longest": 512}


def test_tokens_of_all_shards_are_those_of_the_encoder_in_the_order_of_the_arm(
    run: Run, config: Finetune, made: Manifest
) -> None:
    tokens, rows = Tokens.open(run.tokens("full"), made), _rows(run)
    expected = [
        (row["example_id"], found)
        for row, found in zip(rows, Encoder(config).encode(rows), strict=True)
        if isinstance(found, Encoded)
    ]
    assert len(tokens) == len(expected)
    assert len(made.parts()) == SHARDS
    for number, (example_id, found) in enumerate(expected):
        assert tokens.example_id(number) == example_id
        assert tokens.ids(number).tolist() == found.ids
    assert tokens.lengths.tolist() == [len(found.ids) for _, found in expected]
    assert tokens.prompt_tokens.tolist() == [found.prompt_tokens for _, found in expected]
    assert (tokens.label_tokens >= 1).all()
    assert made.counts["cut"] == sum(found.cut for _, found in expected)


def test_a_manifest_tells_tokens_and_how_many_of_them_carry_loss(run: Run, made: Manifest) -> None:
    tokens = Tokens.open(run.tokens("full"), made)
    assert made.usage == {"tokens": tokens.lengths.sum(), "label_tokens": tokens.label_tokens.sum()}
    assert tokens.lengths.dtype == tokens.prompt_tokens.dtype == tokens.label_tokens.dtype == np.int64
    assert len(tokens) < tokens.label_tokens.sum() < tokens.lengths.sum()


def test_tokens_are_looked_at_where_they_lie_and_no_file_stays_open(run: Run, made: Manifest) -> None:
    before = os.listdir("/proc/self/fd")
    tokens = Tokens.open(run.tokens("full"), made)
    assert len(os.listdir("/proc/self/fd")) == len(before)
    ids = tokens.ids(len(tokens) - 1)
    assert not ids.flags.owndata
    assert not ids.flags.writeable
    assert ids.dtype == np.int32
    place = ids.__array_interface__["data"][0]
    path = run.tokens("full").storage.path(made.parts()[-1].name)
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(path)]
    assert any(int(span[0].split("-")[0], 16) <= place < int(span[0].split("-")[1], 16) for span in mapped)


def test_files_are_of_the_schema_of_the_hand_off(run: Run, made: Manifest) -> None:
    for entry in made.parts():
        with pa.memory_map(run.tokens("full").storage.path(entry.name)) as source:
            reader = pa.ipc.open_file(source)
            assert (reader.schema, reader.num_record_batches) == (TOKENS, 1)
            assert reader.get_batch(0).num_rows == entry.rows


def test_a_shard_of_which_nothing_is_left_is_an_empty_file(run: Run, config: Finetune, tmp_path: Path) -> None:
    short = config.model_copy(update={"max_length": 100, "too_long": "drop"})
    target = Run.open(str(tmp_path)).tokens("full")
    kept, left = encode_shard(short, run.subset("full"), target, "part-00001.parquet")
    assert (kept.name, kept.rows, kept.usage["longest"]) == ("part-00001.arrow", 0, 0)
    assert (left.name, left.rows, left.reasons) == ("dropped-00001.parquet", 1000, {"too long": 1000})
    assert len(Tokens.open(target, token_files._summed_up(target, [kept, left], Begun(settings={}, inputs={})))) == 0


def test_an_empty_shard_between_others_does_not_shift_them() -> None:
    def batch(*ids: list[int]) -> pa.RecordBatch:
        columns = [[str(some[0]) for some in ids], list(ids), [1 for _ in ids]]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, TOKENS, strict=True)]
        return pa.record_batch(arrays, schema=TOKENS)

    tokens = Tokens([batch(), batch([1, 2], [3, 4, 5]), batch(), batch(), batch([6, 7])])
    assert [tokens.ids(number).tolist() for number in range(3)] == [[1, 2], [3, 4, 5], [6, 7]]
    assert [tokens.example_id(number) for number in range(3)] == ["1", "3", "6"]
    for outside in (-1, 3):
        with pytest.raises(AssertionError, match="of 3"):
            tokens.ids(outside)


def test_the_score_of_an_example_goes_with_it_where_it_is_left_out(run: Run, config: Finetune, tmp_path: Path) -> None:
    source = Run.open(str(tmp_path)).subset("scored")
    table = run.subset("full").storage.read_table("part-00000.parquet").slice(0, 2)
    place = table.schema.get_field_index("score")
    source.storage.write_table("part-00000.parquet", table.set_column(place, "score", pa.array([4.5, None], pa.float64())))
    target = Run.open(str(tmp_path)).tokens("scored")
    encode_shard(config.model_copy(update={"max_length": 8}), source, target, "part-00000.parquet")
    assert target.storage.read_table("dropped-00000.parquet")["score"].to_pylist() == [4.5, None]


# other machines


def _elsewhere(stage: StageDir) -> StageDir:
    """The same directory on a filesystem that is not the machine's own."""
    fs = pafs.SubTreeFileSystem(stage.storage.root, pafs.LocalFileSystem())
    return StageDir(stage.name, Storage(fs, ""))


def test_files_on_another_filesystem_are_copied_once(run: Run, config: Finetune, tmp_path: Path) -> None:
    far = Run.open(str(tmp_path / "far"))
    shutil.copytree(run.subset("full").storage.root, far.subset("full").storage.root)
    manifest = _encoded(config, far, far.tokens("full"))
    remote, cache = _elsewhere(far.tokens("full")), str(tmp_path / "cache")
    assert not remote.storage.is_local
    near = Tokens.open(far.tokens("full"), manifest)
    copied = Tokens.open(remote, manifest, cache)
    assert [copied.ids(number).tolist() for number in (0, 999, 3000)] == [
        near.ids(number).tolist() for number in (0, 999, 3000)
    ]
    assert sorted(os.listdir(cache)) == [entry.name for entry in manifest.parts()]
    far.tokens("full").storage.delete_tree()
    assert len(Tokens.open(remote, manifest, cache)) == len(near), "nothing is fetched again"


def test_processes_of_one_machine_can_copy_at_once(run: Run, made: Manifest, tmp_path: Path) -> None:
    remote, cache = _elsewhere(run.tokens("full")), str(tmp_path / "cache")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: Tokens.open(remote, made, cache), range(4)))
    assert {tokens.lengths.sum() for tokens in found} == {made.usage["tokens"]}
    assert sorted(os.listdir(cache)) == [entry.name for entry in made.parts()]


def test_by_default_copies_lie_apart_for_each_user_and_each_arm(
    run: Run, made: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Tokens.open(_elsewhere(run.tokens("full")), made)
    folder = tmp_path / f"alpagasus-ray-{os.getuid()}" / made.content_hash()
    assert len(list(folder.glob("*.arrow"))) == SHARDS
    assert folder.stat().st_mode & 0o077 == 0, "others cannot read them"


# what decides the tokens


def test_only_what_decides_the_tokens_is_their_identity(config: Finetune) -> None:
    settings = token_settings(config)
    same = config.model_copy(update={"packing": False, "learning_rate": 1.0, "epochs": 9.0})
    assert token_settings(same) == settings
    for change in ({"max_length": 511}, {"too_long": "drop"}, {"template": "chat"}, {"chat_template_kwargs": {"a": 1}}):
        assert token_settings(config.model_copy(update=change)) != settings
    assert json.loads(json.dumps(settings)) == settings
    assert token_settings(Finetune(model="meta-llama/Llama-2-7b-hf"))["tokenizer"] is None


def test_a_tokenizer_that_was_overwritten_is_another_and_its_shards_are_encoded_with_it(
    run: Run, shared: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja"):
        shutil.copyfile(shared / "tiny_llama" / name, model / name)
    own, target = Finetune(model=str(model)), Run.open(str(tmp_path)).tokens("full")

    def encoded() -> float:
        [entry, *_] = encode_shard(own, run.subset("full"), target, "part-00000.parquet")
        return entry.usage["tokens"]

    before, tokens = token_settings(own), encoded()
    (model / "model.safetensors").write_bytes(b"other weights")
    (model / "README.md").write_text("nothing that a tokenizer reads")
    assert token_settings(own) == before
    other = json.loads((model / "tokenizer.json").read_text())
    other["model"]["merges"] = other["model"]["merges"][:10]
    (model / "tokenizer.json").write_text(json.dumps(other))
    assert token_settings(own) != before
    assert encoded() > tokens
