"""The scenarios' drivers join the one local Ray of the session."""

import pytest


@pytest.fixture(scope="session")
def ray_address(local_ray: None) -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)
