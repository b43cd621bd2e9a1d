"""A Chromium for the tests of pages, and the directory that REPORT_SCREENSHOTS names for its pictures."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    if browser.installed() is None:
        reason = f"none of {', '.join(browser.NAMES)} is installed"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}; in CI one has to be")
        pytest.skip(reason)
    with browser.chromium() as running:
        yield running


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("REPORT_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
