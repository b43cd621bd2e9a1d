"""The report over all of Alpaca: how long it takes, how large it is, and how fast a browser has it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import browser
from alpagasus_ray.config import Arm, Compare, Judge, PairJudge, Pick, Report, Score
from alpagasus_ray.stages.compare import compare
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.report import report
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from bench_compare import answered
from measure import RATINGS, Table, copy_examples, timed

if TYPE_CHECKING:
    from playwright.sync_api import Page

SEARCHES = ("photosynthesis", "the", '"the quick brown fox"', "write poem")
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


def bench_report(run: Run, work: Path) -> Table:
    """Recorded ratings of 52,002 rows, three arms, and the games of two models on 730 prompts, judged by rules."""
    table = Table("The report over 52,002 rated rows and 1,460 games, and its page in Chromium", "what", "figure", "aim")
    told = answered(run, work / "reported")
    copy_examples(run, Path(told.storage.root))
    recorded = Judge(kind="recorded", ratings=str(RATINGS), columns={"index": "alpaca_index", "score": "gpt-4o-mini"})
    score(Score(judge=recorded), told)
    arms = (Arm(name="selected", policy="top", k=9_229), Arm(name="random", policy="random"), Arm(name="full", policy="full"))
    pick_subset(Pick(arms=arms), told)
    compare(Compare(pairs=(("one", "other"),), judge=PairJudge(kind="rules")), told)
    started = time.monotonic()
    page = Path(report(Report(), told)["page"])
    table.row("`report`", f"{timed(started):.1f} s", "30 s")
    table.row("size of the page", f"{page.stat().st_size / 1e6:.1f} MB", "15 MB")
    with browser.chromium() as running, running.new_context() as context:
        opening = time.monotonic()
        seen = browser.opened(context, page)
        ready = timed(opening)
        table.row("first paint", f"{seen.page.evaluate(PAINTED) / 1000:.2f} s", "2 s")
        table.row("lists unpacked", f"{ready:.2f} s", "")
        for words in SEARCHES:
            table.row(f"search for `{words}`", f"{_search_ms(seen.page, words):.0f} ms", "200 ms")
    return table


def _search_ms(page: "Page", words: str) -> float:
    """Milliseconds from the search to the shown rows, as the page measures them."""
    page.evaluate("delete document.querySelector('#example-browser').dataset.milliseconds")
    page.get_by_label("Search examples").fill(words)
    page.wait_for_selector("#example-browser[data-milliseconds]", state="attached")
    return float(page.locator("#example-browser").get_attribute("data-milliseconds") or "nan")
