"""A real Chromium, without a window, for pages that are files."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


class Seen(NamedTuple):
    """A page that is open, and what happened while it was opened."""

    page: "Page"
    problems: list[str]
    requests: list[str]


def installed() -> str | None:
    """The path of a browser, if the machine has one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def chromium() -> Iterator["Browser"]:
    """A browser that is running."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)  # milliseconds; a page waits its turn where other tests fill the machine
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed(), args=QUIET)
        yield browser
        browser.close()


def opened(context: "BrowserContext", file: str | os.PathLike[str]) -> Seen:
    """A report, once its lists are unpacked."""
    seen = Seen(context.new_page(), [], [])

    def told(message: "ConsoleMessage") -> None:
        seen.problems.append(f"{message.type}: {message.text}")

    def asked(request: "Request") -> None:
        seen.requests.append(request.url)

    seen.page.on("console", told)
    seen.page.on("pageerror", lambda error: seen.problems.append(str(error)))
    seen.page.on("request", asked)
    seen.page.goto(f"file://{os.fspath(file)}")
    seen.page.wait_for_selector("html[data-ready=yes]", state="attached")
    return seen


def rows_found(page: "Page", root: str, rows: int) -> None:
    """Waits until a list has found so many rows; it searches a moment after what is typed."""
    from playwright.sync_api import expect

    expect(page.locator(f"#{root}")).to_have_attribute("data-found", str(rows))
