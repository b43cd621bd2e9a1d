"""A training is the same function whatever carries it out: ZeRO stages, packs, numbers of workers, and a plain PyTorch loop."""

from pathlib import Path

import pytest

from alpagasus_ray.store.run import Run
from trainings import differences, gap, losses, plain_training, run_with_arms, tiny, train, weights

ARMS = ("zero0", "zero2", "zero3", "packed", "padded", "alone", "bf16-0", "bf16-2")


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Arms of the same 300 real examples."""
    return run_with_arms(tmp_path_factory.mktemp("same"), shared / "published_subsets/random_9k.json", 300, ARMS)


@pytest.mark.long
def test_every_zero_stage_agrees_with_a_plain_loop(run: Run, shared: Path) -> None:
    found = {}
    for stage in (0, 2, 3):
        config = tiny(shared, steps=20, zero_stage=stage)
        found[stage] = losses(train(run, f"zero{stage}", config))
    plain, trained = plain_training(run, "zero3", tiny(shared, steps=20))
    for stage, curve in found.items():
        assert gap(curve, plain) < 1e-4, stage
        assert differences(weights(run.model(f"zero{stage}").storage.root), trained) < 1e-4, stage
    assert plain[-1] < plain[0] - 0.5


@pytest.mark.long
def test_packed_and_padded_trainings_are_the_same(run: Run, shared: Path) -> None:
    packed = train(run, "packed", tiny(shared, steps=50))
    padded = train(run, "padded", tiny(shared, steps=50, packing=False, micro_batch=3))
    alone = train(run, "alone", tiny(shared, steps=50, workers=1, pack_tokens=300))
    for other in (padded, alone):
        assert gap(losses(packed), losses(other)) < 1e-4
        assert [row["label_tokens"] for row in packed] == [row["label_tokens"] for row in other]
    for arm in ("padded", "alone"):
        assert differences(*(weights(run.model(name).storage.root) for name in ("packed", arm))) < 1e-3
    assert sum(row["padding"] for row in packed) == 0
    assert sum(row["padding"] for row in padded) > 1000
