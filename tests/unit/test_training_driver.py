"""What Ray Train is told by the driver."""

from types import SimpleNamespace
from typing import Any

import pytest

from alpagasus_ray.config import Finetune
from alpagasus_ray.raycluster.pool import Pool
from alpagasus_ray.store.storage import Storage
from alpagasus_ray.training import driver

HOUR = 3600


def trainer(tmp_path: Any, gpus: int) -> Any:
    states = Storage.open(str(tmp_path))
    training: Any = SimpleNamespace(config=Finetune(), key="key", states=states)
    return driver._trainer(training, driver.WorkerGroup(1, 1, Pool(gpus=gpus)))


@pytest.mark.parametrize(("gpus", "backend"), [(0, "gloo"), (1, "nccl")])
def test_workers_wait_for_one_that_converts_a_state_or_writes_a_model(tmp_path: Any, gpus: int, backend: str) -> None:
    """PyTorch's own limits, 10 and 30 minutes, would end a training while the first worker does its work."""
    told = trainer(tmp_path, gpus).backend_config
    assert (told.backend, told.timeout_s) == (backend, driver.WAIT_S)
    assert told.timeout_s >= 4 * HOUR


def test_workers_on_gpus_are_started_with_memory_in_segments_that_grow(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in driver.ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    assert trainer(tmp_path, 1).run_config.worker_runtime_env["env_vars"]["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert not trainer(tmp_path, 0).run_config.worker_runtime_env
