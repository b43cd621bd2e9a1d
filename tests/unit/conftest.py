"""What makes unit tests quick and changes nothing that they assert."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _files_need_not_outlive_the_machine() -> Iterator[None]:
    """A file that is replaced whole waits for the disk, which only a loss of power can show: no unit test cuts that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield
