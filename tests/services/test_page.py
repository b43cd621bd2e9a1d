"""The report's page in a real Chromium: it needs no network, is searched, fits a phone, and can be printed.

Screenshots are left in the directory that REPORT_SCREENSHOTS names.
"""

import csv
import glob
import io
import itertools
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from alpagasus_ray.__main__ import main
from alpagasus_ray.api.rated import Histogram
from alpagasus_ray.config import Arm, Ingest, Pick, Report
from alpagasus_ray.judging.gold_marks import GoldMark, gold_marks
from alpagasus_ray.judging.rubric import Scale
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.report import report
from alpagasus_ray.store.run import Run
from browser import Seen, opened, rows_found
from report_runs import LOSE, NONE, TIE, WIN, judge, rate, train

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROWS = 300
HOSTILE = '</script><img src="https://example.com/x.png" onerror="alert(1)">'
WIDE, PHONE = 1280, 375


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with everything, some of it hostile."""
    folder = tmp_path_factory.mktemp("page")
    source = folder / "toys.jsonl"
    more, kinds = "More of it. " * 24, ("writing", "coding", "knowledge", "rewriting")
    rows = [
        {
            "instruction": f"Say the number {row}, then explain at some length why anybody would want to hear it.",
            "input": "a very long word: " + "x" * 90 if row % 7 == 0 else "",
            "output": f"The number is {row}. {HOSTILE if row == 5 else ''}\n\nThat is all, 数 {row}. {more[: row % 24 * 12]}",
            "category": kinds[row % 4],
        }
        for row in range(ROWS)
    ]
    source.write_text("\n".join(map(json.dumps, rows)))
    run = Run.open(str(folder / "run"))
    ingest(Ingest(source=str(source)), run)
    rate(run, [None if row == 3 else (row % 11) / 2 for row in range(ROWS)])
    arms = (Arm(name="selected", policy="threshold", threshold=4.5), Arm(name="random", policy="random"))
    pick_subset(Pick(arms=(*arms, Arm(name="full", policy="full"))), run)
    for arm, steps in (("selected", 30), ("random", 30), ("full", 160)):
        train(run, arm, [3 / (1 + step / 20) for step in range(steps)], minutes=steps / 10, training_minutes=steps / 12)
    judge(run, ("selected", "full"), [WIN] * 40 + [LOSE] * 14 + [TIE] * 20 + [NONE])
    judge(run, ("selected", "random"), [WIN] * 30 + [LOSE] * 24 + [TIE] * 20)
    judge(run, ("selected", "full"), [WIN] * 30 + [LOSE] * 20 + [TIE] * 24 + [NONE], name="second")
    report(Report(claim="A run of toys: it shows the page, and nothing else."), run, ("selected",))
    return run


def page_of(run: Run) -> str:
    return run.report().storage.path("index.html")


@pytest.fixture
def wide(chromium: "Browser", run: Run) -> Iterator[Seen]:
    with chromium.new_context(viewport={"width": WIDE, "height": 900}) as context:
        yield opened(context, page_of(run))


def test_the_page_asks_for_nothing_but_itself_and_has_no_problem(wide: Seen) -> None:
    assert wide.problems == []
    assert [url.split("/")[-1] for url in wide.requests] == ["index.html"]


def test_the_answer_stands_in_the_first_screen(wide: Seen) -> None:
    question = wide.page.get_by_role("heading", level=1)
    expect(question).to_have_text(re.compile(re.escape("Does training on the")))
    badge = wide.page.locator(".badge")
    assert badge.inner_text() == "Not shown", "it beats all, and does not beat as many at random"
    told = wide.page.locator(".questions .asked")
    assert [asked.split("\n")[0] for asked in told.all_inner_texts()] == [
        "Against all 300: Yes",
        "Against as many at random: Not shown",
    ]
    tops = [box["y"] for asked in told.all() if (box := asked.bounding_box())]
    assert tops[0] == tops[1], "side by side"
    box = badge.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 900


def test_examples_are_found_by_words_phrase_score_and_group(wide: Seen) -> None:
    page, root = wide.page, "example-browser"
    search = page.get_by_label("Search examples")
    rows_found(page, root, ROWS)
    search.fill("number 123")
    rows_found(page, root, 1)
    search.fill('"the number 12"')
    rows_found(page, root, 11)  # 12, and 120 to 129
    search.fill("数 299")
    rows_found(page, root, 1)
    search.fill("")
    page.locator(f"#{root}-score").select_option("5")
    fives = sum(row % 11 == 10 for row in range(ROWS))
    rows_found(page, root, fives)
    page.locator(f"#{root}-group").select_option("dropped")
    rows_found(page, root, 0)
    page.locator(f"#{root}-group").select_option("")
    page.locator(f"#{root}-score").select_option("none")
    rows_found(page, root, 1)


def test_examples_are_sorted_and_paged(wide: Seen) -> None:
    page, root = wide.page, wide.page.locator("#example-browser")
    page.locator("#example-browser-sort").select_option(label="highest score first")
    expect(root.locator(".score").first).to_have_text("5")
    root.get_by_role("button", name="Next").click()
    expect(root).to_contain_text("page 2 of 15")
    page.locator("#example-browser-sort").select_option(label="lowest score first")
    expect(root).to_contain_text("page 1 of 15")
    expect(root.locator(".score").first).to_have_text("0")


def test_hostile_text_is_shown_as_it_is(wide: Seen) -> None:
    page = wide.page
    page.get_by_label("Search examples").fill("onerror")
    rows_found(page, "example-browser", 1)
    page.locator("#example-browser summary").first.click()
    expect(page.locator("#example-browser .full")).to_contain_text(HOSTILE)
    expect(page.locator("img")).to_have_count(0)
    assert wide.problems == []
    assert len(wide.requests) == 1


def test_answers_stand_side_by_side_with_both_reviews(wide: Seen) -> None:
    page, root = wide.page, "side-browser"
    rows_found(page, root, 75)
    page.locator(f"#{root}-result").select_option("none")
    rows_found(page, root, 1)
    page.locator(f"#{root}-result").select_option("flipped")
    rows_found(page, root, 20)
    page.locator(f"#{root}-result").select_option("win")
    page.locator(f"#{root} summary").first.click()
    for told in ("selected says toys-0", "The reply of order ab: a", "The reply of order ba: a"):
        expect(page.locator(f"#{root} .full").first).to_contain_text(told)
    page.locator(f"#{root}-pair").select_option(label="selected – random, toy judge")
    rows_found(page, root, 30)


def test_another_cut_moves_the_histogram_shows_its_rows_and_says_how_it_is_made(wide: Seen, run: Run) -> None:
    page, root = wide.page, "example-browser"
    slider, told = page.get_by_label("Lowest score kept"), page.locator("#cut-told")
    below_cut = page.locator("a.column[data-low='4'] rect.kept")
    caption, line = page.locator("figure:has(#cutter) figcaption"), page.locator("#cut-tried")
    own = caption.inner_text()
    expect(line).to_be_hidden()
    expect(page.locator("#cut-marks span")).to_have_text([f"{step / 2:g}" for step in range(11)])
    expect(told).to_have_text(re.compile(re.escape("score of at least 4.5: ")))
    assert float(below_cut.get_attribute("height") or -1) == 0
    slider.press("ArrowLeft")
    expect(told).to_have_text(re.compile(re.escape("score of at least 4: ")))
    assert float(below_cut.get_attribute("height") or -1) > 100
    fours = sum(row % 11 == 8 for row in range(ROWS))
    expect(page.locator("#cut-leave")).to_be_disabled()
    kept = sum(row % 11 >= 8 and row != 3 for row in range(ROWS))
    expect(caption).to_contain_text(f"as a cut at 4 would keep them: {kept}. selected itself is as it was")
    expect(line).to_have_text("tried: 4")
    assert [line.locator("line").get_attribute(name) for name in ("x1", "x2")] == ["80%", "80%"]
    assert page.locator("a.column[data-low='4']").get_attribute("aria-label") == (
        f"score 4: {fours} examples, {fours} kept; show them"
    )
    page.get_by_role("button", name=f"{fours} rows enter").click()
    rows_found(page, root, fours)
    assert set(page.locator(f"#{root} .score").all_inner_texts()) == {"4"}
    command = page.locator("#cut-command").inner_text()
    page.get_by_role("button", name="Back to selected").click()
    expect(caption).to_have_text(own)
    expect(line).to_be_hidden()
    assert float(below_cut.get_attribute("height") or -1) == 0
    verb, *arguments = shlex.split(command.replace("RUN", run.storage.root).removeprefix("alpagasus "))
    assert main([verb, *arguments]) == 0
    made = run.subset("cut-4").finished()
    assert made.rows == fours + run.subset("selected").finished().rows


def test_a_filter_by_ranges_of_scores_says_which_ends_belong_to_it(wide: Seen) -> None:
    scores = [row / 10 for row in range(26)]
    options = wide.page.evaluate("(scores) => scoreOptions(scores).options", scores)
    assert [name for _, name in options] == ["any", "2 to 3", "1 to under 2", "0 to under 1", "no score"]
    held = wide.page.evaluate(
        "([scores, value]) => scores.filter((_, row) => scoreOptions(scores).keeps(row, value))", [scores, "1..2"]
    )
    assert held == [row / 10 for row in range(10, 20)]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which examples were rated and chosen and nothing was trained; some of them are copies."""
    folder = tmp_path_factory.mktemp("chosen")
    rows = [{"instruction": f"Say {row}.", "output": f"It is {row}.", "topic": "numbers"} for row in (*range(60), *range(6))]
    (folder / "toys.json").write_text(json.dumps(rows))
    run = Run.open(str(folder / "run"))
    ingest(Ingest(source=str(folder / "toys.json")), run)
    rate(run, [(row % 10) / 2 for row in range(66)])
    arms = [{"name": "selected", "policy": "threshold", "threshold": 4}, {"name": "random", "policy": "random"}]
    pick_subset(Pick.model_validate({"arms": arms}), run)
    pick_subset(Pick.model_validate({"arms": [{"name": "mine", "policy": "top", "k": 30}]}), run)
    assert main(["card", run.storage.root]) == 0
    report(Report(), run, ("selected",))
    return run


def test_without_trainings_the_first_screen_is_the_selection_and_asks_no_question(
    chromium: "Browser", chosen: Run, screenshots: Path
) -> None:
    for width, scheme in itertools.product((WIDE, 390), ("light", "dark")):
        with chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme) as context:  # type: ignore[arg-type]
            seen = opened(context, page_of(chosen))
            page, first = seen.page, seen.page.locator("#answer")
            page.screenshot(path=screenshots / f"chosen-{width}-{scheme}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert seen.problems == []
            told = first.inner_text()
            expect(page.get_by_role("heading", level=1)).to_have_text("selected holds 12 of 66 examples")
            expect(page.locator(".badge")).to_have_count(0)
            assert "train" not in told.lower()
            assert "mine" not in told
            assert "Can rules be trusted?" in told
            assert "48 x score below 4, 6 x an exact duplicate of another example" in told
            assert first.locator("a.column").count() == page.locator("a.column").count() == 10


def test_a_cut_that_is_tried_takes_no_duplicates(chromium: "Browser", chosen: Run) -> None:
    with chromium.new_context() as context:
        page = opened(context, page_of(chosen)).page
        for _ in range(6):
            page.get_by_label("Lowest score kept").press("ArrowLeft")
        kept = sum(row % 10 >= 2 for row in range(60))
        expect(page.locator("#cut-told")).to_have_text(re.compile(re.escape(f"score of at least 1: {kept} examples")))
        page.locator("#cut-enter").click()
        rows_found(page, "example-browser", kept - 12)
        column = page.locator("a.column[data-low='1']")
        expect(column).to_have_attribute("aria-label", "score 1: 7 examples, 6 kept; show them")


def test_a_histogram_in_a_notebook_fits_a_phone(chromium: "Browser", screenshots: Path) -> None:
    scale = {"min": 0.0, "max": 5.0, "step": 0.5}
    with chromium.new_context(viewport={"width": 390, "height": 500}) as context:
        page = context.new_page()
        page.set_content(f"<meta charset=utf-8>{Histogram({0.0: 8, 1.0: 5, 2.5: 14, 4.5: 110}, scale)._repr_html_()}")
        page.screenshot(path=screenshots / "notebook-390.png")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator("text.tick").all_text_contents()[-11:] == [f"{step / 2:g}" for step in range(11)]


def test_a_column_leads_to_its_rows_and_a_link_brings_all_back(chromium: "Browser", run: Run) -> None:
    with chromium.new_context() as context:
        page = opened(context, page_of(run)).page
        page.locator("a.column[data-low='2']").click()
        twos = [row for row in range(ROWS) if row % 11 == 4]
        rows_found(page, "example-browser", len(twos))
        expect(page.locator("#example-browser-score")).to_have_value("2")
        page.get_by_label("Search examples").fill("number 15")
        page.locator("#example-browser-sort").select_option(label="longest output first")
        expect(page).to_have_url(re.compile(re.escape("#examples?q=number+15&score=2&order=3") + "$"))
        row = page.locator("#example-browser li").first
        row.locator("summary").click()
        row.get_by_role("button", name="Copy link").click()
        again = opened(context, page.url.removeprefix("file://")).page
        expect(again.locator("#example-browser details[open] .score")).to_have_text("2")
        expect(again.get_by_label("Search examples")).to_have_value("number 15")
        side = opened(context, f"{page_of(run)}#sides?pair=1&row=1/toys/toys-7").page
        expect(side.locator("#side-browser details[open]")).to_contain_text("Question 7 about")
        expect(side.locator("#side-browser-pair")).to_have_value("1")


def test_what_is_shown_is_saved_and_wrong_ratings_come_back_as_gold(wide: Seen, tmp_path: Path) -> None:
    page, root = wide.page, wide.page.locator("#example-browser")
    page.locator("#example-browser-score").select_option("0.5")

    def saved(button: str) -> str:
        with page.expect_download() as download:
            root.get_by_role("button", name=button).click()
        return Path(download.value.path()).read_bytes().decode()

    halves = sum(row % 11 == 1 for row in range(ROWS))
    rows = [json.loads(line) for line in saved("Save JSONL").splitlines()]
    assert len(rows) == halves
    assert rows[0]["example_id"] == "toys:000000001"
    assert rows[0]["score"] == 0.5
    table = list(csv.DictReader(io.StringIO(saved("Save CSV"), newline="")))
    assert [row["output"] for row in table] == [row["output"] for row in rows]
    root.locator("summary").first.click()
    root.get_by_label("It deserves").fill("4.5")
    root.get_by_label("Comment").fill('right, and "short"')
    root.get_by_role("button", name="Wrong rating").click()
    records = csv.DictReader(io.StringIO(saved("Export 1 wrong rating"), newline=""))
    placed = [(f"record {number}", record) for number, record in enumerate(records, 1)]
    assert placed[0][1]["judged"] == "0.5"
    assert gold_marks(placed, "gold.csv", [Scale()], known={"toys:000000001"}) == [
        GoldMark("toys:000000001", 4.5, "", 'right, and "short"', chosen=True)
    ]


def test_all_models_stand_side_by_side_and_two_of_them_as_one_text(wide: Seen) -> None:
    page = wide.page
    page.locator("#side-browser summary").first.click()
    expect(page.locator("#side-browser .models h4")).to_have_text(["selected", "full", "random"])
    page.get_by_text("Differences").click()
    expect(page.locator("#side-browser ins")).to_have_text(["full", "it", " ", "too"])
    page.get_by_label("to", exact=True).select_option("random")
    expect(page.locator("#side-browser ins").get_by_text("random", exact=True)).to_be_visible()


def test_text_of_charts_is_never_below_12_pixels_and_labels_do_not_overlap(chromium: "Browser", run: Run) -> None:
    overlaps = """[...document.querySelectorAll('main .plot, main .bar-row.scale')].flatMap((plot) => {
        const boxes = [...plot.querySelectorAll('text')].filter((text) => getComputedStyle(text).display !== 'none')
            .map((text) => [text.textContent, text.getBoundingClientRect()]).filter(([, box]) => box.width);
        return boxes.flatMap(([one, a], i) => boxes.slice(i + 1).filter(([, b]) =>
            Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
            Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
            .map(([other]) => `${one} | ${other}`)); })"""
    sizes = "[...document.querySelectorAll('main figure *')].map((each) => parseFloat(getComputedStyle(each).fontSize))"
    for width in (WIDE, PHONE):
        with chromium.new_context(viewport={"width": width, "height": 800}) as context:
            page = opened(context, page_of(run)).page
            assert page.evaluate(overlaps) == []
            assert min(page.evaluate(sizes)) >= 12


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen(chromium: "Browser", run: Run, screenshots: Path, width: int, scheme: str) -> None:
    with chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:  # type: ignore[arg-type]
        seen = opened(context, page_of(run))
        for root in ("#example-browser", "#side-browser"):
            seen.page.locator(f"{root} summary").first.click()
            expect(seen.page.locator(f"{root} .full").first).to_be_visible()
        seen.page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
        seen.page.screenshot(path=screenshots / f"report-{width}-{scheme}.png", full_page=True)
        assert seen.page.evaluate("document.documentElement.scrollWidth") == width
        assert seen.problems == []


def test_headings_go_down_by_one_and_controls_have_names(wide: Seen) -> None:
    levels = wide.page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((found) => Number(found.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    nameless = "[...document.querySelectorAll('input, select')].filter((found) => !found.labels.length).length"
    assert wide.page.evaluate(nameless) == 0
    assert wide.page.locator("figure [role=img]:not([aria-label])").count() == 0


def test_the_page_is_printed_on_fewer_than_eight_sheets_without_controls_and_lists(wide: Seen, screenshots: Path) -> None:
    printed = wide.page.pdf(path=screenshots / "report.pdf", format="A4")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) < 8
    wide.page.emulate_media(media="print")
    expect(wide.page.locator(".controls").first).to_be_hidden()
    expect(wide.page.locator(".top")).to_be_hidden()
    expect(wide.page.locator(".browser").first).to_be_hidden()
    expect(wide.page.locator("#verdicts table").first).to_be_visible()


def test_without_scripts_the_figures_and_tables_are_there(chromium: "Browser", run: Run) -> None:
    with chromium.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"file://{page_of(run)}")
        assert page.locator("figure").count() >= 8
        expect(page.locator("noscript")).to_contain_text("need JavaScript", use_inner_text=True)


def test_all_of_alpaca_is_one_page_that_can_be_searched(chromium: "Browser", alpaca: str, shared: Path, tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "alpaca"))
    ingest(Ingest(source=alpaca, name="alpaca"), run)
    with (shared / "ratings/alpaca52k_three_llm_scores.csv").open(newline="") as stream:
        rate(run, [float(row["gpt-4o-mini"]) for row in csv.DictReader(stream)])
    pick_subset(Pick(arms=(Arm(name="selected", policy="top", k=9_229), Arm(name="full", policy="full"))), run)
    told = report(Report(), run)
    assert told["rows"] == 52_002
    assert os.path.getsize(told["page"]) < 15e6
    rows = itertools.chain.from_iterable(json.loads(Path(file).read_text()) for file in glob.glob(alpaca))
    texts = ["\n".join(row[part] for part in ("instruction", "input", "output")).lower() for row in rows]
    with chromium.new_context() as context:
        seen = opened(context, told["page"])
        for query, words in (
            ("photosynthesis", ["photosynthesis"]),
            ("the", ["the"]),
            ('"the quick brown fox"', ["the quick brown fox"]),
            ("write poem", ["write", "poem"]),
        ):
            seen.page.get_by_label("Search examples").fill(query)
            rows_found(seen.page, "example-browser", sum(all(word in text for word in words) for text in texts))
        assert seen.problems == []
