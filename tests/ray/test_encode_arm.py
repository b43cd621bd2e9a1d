"""An arm becomes files of tokens on the cluster: all of it or nothing, once, and anew when what decides them has changed."""

import os
from pathlib import Path

import pytest

from alpagasus_ray.config import Arm, Finetune, Pick
from alpagasus_ray.errors import StageFailed, UsageError
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import Manifest, Run, StageDir
from alpagasus_ray.training.token_files import Tokens, encode_arm, encode_shard
from toy_runs import ids, toy_run

ROWS = 1200


@pytest.fixture
def config(shared: Path) -> Finetune:
    return Finetune(model=str(shared / "tiny_llama"), max_length=512)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with an arm of two shards."""
    found = toy_run(tmp_path, ROWS)
    pick_subset(Pick(arms=(Arm(name="full", policy="full"),)), found)
    return found


def _made(config: Finetune, run: Run) -> Manifest:
    return encode_arm(config, run.subset("full"), run.subset("full").finished(), run.tokens("full"))


def _written(stage: StageDir) -> dict[str, int]:
    return {name: os.stat(stage.storage.path(name)).st_mtime_ns for name in stage.storage.all_names()}


def test_an_arm_is_the_sum_of_its_shards(config: Finetune, run: Run, tmp_path: Path) -> None:
    manifest, source = _made(config, run), run.subset("full")
    alone = StageDir("alone", run.storage.at("alone"))
    parts = source.finished().parts()
    shards = [entry for part in parts for entry in encode_shard(config, source, alone, part.name)]
    assert manifest.files == shards
    assert [entry.name for entry in manifest.files] == ["part-00000.arrow", "part-00001.arrow"]
    assert (manifest.rows, manifest.counts) == (ROWS, {"whole": ROWS, "cut": 0, "left out": 0})
    assert manifest.usage["tokens"] == sum(entry.usage["tokens"] for entry in shards)
    assert manifest.inputs == {"subsets/full": source.finished().content_hash()}
    assert run.tokens("full").manifest() == manifest
    run.tokens("full").verify(manifest)
    tokens = Tokens.open(run.tokens("full"), manifest)
    assert [tokens.example_id(number) for number in range(len(tokens))] == ids(run)


def test_a_second_call_writes_nothing(config: Finetune, run: Run) -> None:
    manifest, files = _made(config, run), _written(run.tokens("full"))
    assert _made(config.model_copy(update={"packing": False}), run) == manifest
    assert _written(run.tokens("full")) == files


def test_with_another_length_or_after_a_call_that_was_killed_it_is_made_anew(config: Finetune, run: Run) -> None:
    whole, stage = _made(config, run), run.tokens("full")
    stage.storage.write("left-over", b"of a call that was killed")
    shorter = config.model_copy(update={"max_length": 112})
    cut = _made(shorter, run)
    assert cut.counts["cut"] == ROWS
    assert cut.details == {"reasons": {}, "longest": 112}
    assert stage.storage.all_names() == {"manifest.json", "part-00000.arrow", "part-00001.arrow"}
    stage.storage.delete("manifest.json")
    assert _made(config, run).files == whole.files


def test_examples_that_were_left_out_are_counted_by_reason(config: Finetune, run: Run) -> None:
    manifest = _made(config.model_copy(update={"max_length": 123, "too_long": "drop"}), run)
    assert manifest.counts == {"whole": 1000, "cut": 0, "left out": 200}, "numbers of four digits take two tokens more"
    assert manifest.details["reasons"] == {"too long": 200}
    assert manifest.rows == ROWS


def test_an_arm_of_which_nothing_can_be_learned_is_refused_with_the_knobs(config: Finetune, run: Run) -> None:
    with pytest.raises(
        UsageError, match=r"subsets/full: none of its 1,200 .* \(1,200 no trainable token\)\. Raise finetune\.max"
    ):
        _made(config.model_copy(update={"max_length": 8}), run)
    assert run.tokens("full").manifest() is None


def test_what_is_wrong_with_the_model_is_told_as_it_is_in_a_worker(config: Finetune, run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^the tokenizer of finetune\.model '{tmp_path}' cannot be loaded") as told:
        _made(config.model_copy(update={"model": str(tmp_path)}), run)
    assert type(told.value) is UsageError


def test_a_row_that_got_lost_fails_the_stage(config: Finetune, run: Run) -> None:
    subset = run.subset("full").finished()
    listed = subset.model_copy(update={"files": [entry.model_copy(update={"rows": entry.rows + 1}) for entry in subset.files]})
    with pytest.raises(StageFailed, match="1,200 rows came of the 1,202 of subsets/full"):
        encode_arm(config, run.subset("full"), listed, run.tokens("full"))
    assert run.tokens("full").manifest() is None


def test_a_run_on_an_object_store_is_encoded_there_and_read_from_copies(
    config: Finetune, bucket: str, run: Run, tmp_path: Path
) -> None:
    near, far = _made(config, run), Run.open(f"{bucket}/tokens")
    for name in run.storage.all_names():
        far.storage.write(name, run.storage.read(name))
    far.tokens("full").storage.delete_tree()
    manifest = _made(config, far)
    assert manifest.files == near.files
    tokens = Tokens.open(far.tokens("full"), manifest, str(tmp_path / "cache"))
    assert tokens.ids(1100).tolist() == Tokens.open(run.tokens("full"), near).ids(1100).tolist()
