"""All tests here run on the one local Ray."""

import pytest

from alpagasus_ray.config import Ingest
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.store.run import Run


@pytest.fixture(autouse=True)
def _ray(local_ray: None) -> None:
    """Jobs that run as processes of their own start their own."""


@pytest.fixture(scope="session")
def alpaca_run(alpaca: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that holds all Alpaca examples; tests add ratings and arms to it under names of their own."""
    run = Run.open(str(tmp_path_factory.mktemp("alpaca")))
    ingest(Ingest(source=alpaca, name="alpaca"), run)
    return run
