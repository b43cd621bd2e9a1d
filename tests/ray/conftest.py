"""One local Ray for all tests here; jobs that run as processes of their own start their own."""

import logging
from collections.abc import Iterator

import pytest
import ray

from alpagasus_ray.config import Ingest
from alpagasus_ray.datasets.run import Run
from alpagasus_ray.stages.ingest import ingest


@pytest.fixture(scope="session", autouse=True)
def _ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def alpaca_run(alpaca: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that holds all Alpaca examples; tests add ratings and arms to it under names of their own."""
    run = Run.open(str(tmp_path_factory.mktemp("alpaca")))
    ingest(Ingest(source=alpaca, name="alpaca"), run)
    return run
