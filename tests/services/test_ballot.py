"""The ballot in a real Chromium: three people vote on it, without a network, and their files come back as votes.

Screenshots are left in the directory that REPORT_SCREENSHOTS names.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from alpagasus_ray import __main__ as command
from alpagasus_ray.errors import InputError
from alpagasus_ray.people import assign, votes
from alpagasus_ray.people.ballot import Ballot, ballot
from alpagasus_ray.people.words import LANGUAGES, WORDS
from alpagasus_ray.store.run import Run
from browser import opened
from made_ballots import ARMS, SETS, pairs, side_of
from report_runs import answer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize

VOTERS = ("Ana", "Bo", "Cléo")
KEYS = {"first": "1", "second": "2", "neither": "3"}
PHONE: "ViewportSize" = {"width": 375, "height": 700}
DIGITS = {"a": "a", "b": "b", "t": "tie"}


@pytest.fixture(scope="module")
def made() -> Ballot:
    chosen = assign.pairs_for_votes(pairs(), assign.PER_TEST_SET, "secret")
    made = ballot(assign.vote_study(chosen, VOTERS, "secret"), "vote", *ARMS)
    return made._replace(key=json.loads(json.dumps(made.key)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Answers of both models, and the ballot that the real job makes of them."""
    made = Run.open(str(tmp_path_factory.mktemp("study") / "run"))
    for arm, side in zip(ARMS, ("answer_a", "answer_b"), strict=True):
        for name in SETS:
            answer(made, arm, name, [(getattr(pair, side), None) for pair in pairs() if pair.test_set == name])
    assert command.main(["people", made.storage.root, "make", "-s", f"people.voters=[{', '.join(VOTERS)}]"]) == 0
    return made


@pytest.fixture(scope="module")
def page_file(made: Ballot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ballot") / "ballot.html"
    file.write_text(made.html, encoding="utf-8")
    return file


def _enter(context: "BrowserContext", file: Path, voter: str) -> "Page":
    seen = opened(context, file)
    seen.page.get_by_role("button", name=voter).click()
    assert seen.problems == []
    assert seen.requests == [f"file://{file}"]
    return seen.page


def _vote(page: "Page", key: dict[str, Any], voter: str, said: Callable[[int], str], until: int) -> None:
    """Presses the key that means so much of each item, from the first open slot on."""
    slots = key["voters"][voter]
    for slot in slots[int(page.locator("#progress").get_attribute("value") or 0) : until]:
        page.keyboard.press(KEYS[side_of(key, slot, said(slot["item"]))])
    expect(page.locator("#progress")).to_have_attribute("value", str(until))


def _download(page: "Page", button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.locator(f"#{button}").click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    return file


def test_three_people_vote_and_their_files_come_back_as_the_papers_counts(
    chromium: "Browser", run: Run, tmp_path: Path
) -> None:
    study = run.people("-vs-".join(sorted(ARMS)))
    key, page_file = json.loads(study.storage.read("key.json")), Path(study.storage.path("ballot.html"))
    outcomes = "a" * 63 + "t" * 64 + "b" * 33
    third = {"a": "tie", "t": "b", "b": "a"}
    files: list[str] = []
    for number, voter in enumerate(VOTERS):

        def said(item: int, *, differs: bool = number == 2) -> str:
            if item >= len(outcomes):
                return "a"  # a check: a is the good one
            return third[outcomes[item]] if differs else DIGITS[outcomes[item]]

        context = chromium.new_context()
        page = _enter(context, page_file, voter)
        if voter == "Ana":  # reloads in the middle
            _vote(page, key, voter, said, 80)
            page.reload()
            page.wait_for_selector("html[data-ready=yes]", state="attached")
            expect(page.locator("#progress")).to_have_attribute("value", "80")
        if voter == "Bo":  # goes on in another browser
            _vote(page, key, voter, said, 60)
            saved = _download(page, "save", tmp_path)
            context.close()
            context = chromium.new_context()
            page = opened(context, page_file).page
            page.locator("#load").set_input_files(saved)
            page.wait_for_selector("#vote:not([hidden])")
        _vote(page, key, voter, said, 174)
        expect(page.locator("#done")).to_be_visible()
        files.append(str(_download(page, "export", tmp_path)))
        context.close()
    assert command.main(["people", run.storage.root, "import", *files]) == 0
    counts = json.loads(study.storage.read("people.json"))
    reports = counts["voters"]
    assert [(one["missing"], one["self_consistency"]["value"], one["checks_passed"]["value"]) for one in reports] == [
        (0, 1.0, 1.0)
    ] * 3
    tally = counts["tally"]
    assert (tally["win"], tally["tie"], tally["lose"], tally["split"]) == (63, 64, 33, 0)
    shown = [slot for voter in VOTERS for slot in key["voters"][voter] if slot["kind"] == "main"]
    first = Counter(slot["first"] == key["items"][slot["item"]]["a_is"] for slot in shown)
    assert first[True] == first[False] == 240, "each model stands first half of the time"
    spoiled = tmp_path / "spoiled.jsonl"
    spoiled.write_text(Path(files[0]).read_text(encoding="utf-8").replace('"choice":"first"', '"choice":"neither"', 1))
    assert command.main(["people", run.storage.root, "import", str(spoiled)]) == 2
    text = page_file.read_bytes().lower()
    assert not any(part.encode() in text for arm in ARMS for part in (arm, arm.replace("-", " ")))


def test_the_pages_bytes_hold_no_arms_name(page_file: Path) -> None:
    text = page_file.read_bytes().lower()
    assert not any(part.encode() in text for arm in ARMS for part in (arm, arm.replace("-", " ")))


def test_undo_comment_grounds_and_pause_are_kept(chromium: "Browser", made: Ballot, page_file: Path, tmp_path: Path) -> None:
    context = chromium.new_context()
    page = _enter(context, page_file, "Ana")
    page.get_by_text(WORDS["en"]["more"]).click()
    page.get_by_label("accuracy").check()
    page.get_by_label("Comment").fill("Zahlen stimmen nicht, 数字不对 1 2 3")
    expect(page.locator("#progress"), "digits in a comment are no votes").to_have_attribute("value", "0")
    page.locator("#choices button").first.click()
    page.keyboard.press("u")
    expect(page.get_by_label("Comment")).to_have_value(re.compile("^Zahlen"))
    expect(page.locator('#choices button[aria-pressed="true"]')).to_have_count(1)
    page.keyboard.down("3")
    page.keyboard.down("3")  # held: the browser tells of the key again
    page.keyboard.up("3")
    page.keyboard.press("p")
    expect(page.locator("#item")).to_be_hidden()
    page.keyboard.press("1")
    page.keyboard.press("p")
    expect(page.locator("#progress"), "nothing is voted in a pause").to_have_attribute("value", "1")
    (vote,) = votes.read_votes(_download(page, "export", tmp_path).read_text(encoding="utf-8"), made.key)
    assert (vote.said, vote.grounds, vote.comment) == ("tie", ("accuracy",), "Zahlen stimmen nicht, 数字不对 1 2 3")
    assert vote.seconds is not None
    assert vote.seconds < 60
    context.close()


def test_changed_files_and_files_of_another_ballot_are_refused(
    chromium: "Browser", made: Ballot, page_file: Path, tmp_path: Path
) -> None:
    context = chromium.new_context()
    page = _enter(context, page_file, "Ana")
    for key in "12":
        page.keyboard.press(key)
    export = _download(page, "export", tmp_path).read_text(encoding="utf-8")
    with pytest.raises(InputError, match="changed since"):
        votes.read_votes(export.replace('"choice":"first"', '"choice":"neither"', 1), made.key)
    other = ballot(assign.vote_study(assign.pairs_for_votes(pairs(), 10, "x"), VOTERS, "x"), "vote", *ARMS)
    with pytest.raises(InputError, match="another ballot"):
        votes.read_votes(export, other.key)
    saved = _download(page, "save", tmp_path)
    page.locator("#leave").click()
    spoiled = tmp_path / "spoiled.json"
    spoiled.write_text(saved.read_text(encoding="utf-8").replace("first", "second"), encoding="utf-8")
    page.locator("#load").set_input_files(spoiled)
    expect(page.locator("#message")).to_have_text(WORDS["en"]["unreadable"])
    elsewhere = tmp_path / "other.html"
    elsewhere.write_text(other.html, encoding="utf-8")
    stranger = opened(context, elsewhere).page
    stranger.locator("#load").set_input_files(saved)
    expect(stranger.locator("#message")).to_have_text(WORDS["en"]["other_ballot"])
    context.close()


def test_it_fits_a_phone_and_speaks_four_languages_to_a_screen_reader(
    chromium: "Browser", page_file: Path, screenshots: Path
) -> None:
    context = chromium.new_context(viewport=PHONE)
    page = _enter(context, page_file, "Bo")
    for code in LANGUAGES:
        page.locator("#language").select_option(code)
        expect(page.locator("html")).to_have_attribute("lang", code)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        question = WORDS[code]["question"]
        expect(page.get_by_role("group", name=question).get_by_role("button")).to_have_count(3)
        expect(page.get_by_role("article", name=WORDS[code]["answer"].format(number=1))).to_be_visible()
        expect(page.get_by_role("progressbar")).to_have_attribute("max", "174")
        page.screenshot(path=screenshots / f"ballot-{code}.png", full_page=True)
    assert page.title() != "broken", "what looks like a script in an answer is text"
    page.keyboard.press("1")
    expect(page.locator("#prompt-heading"), "the next request is read out").to_be_focused()
    context.close()


def test_examples_are_rated_by_the_digits_0_to_5(chromium: "Browser", tmp_path: Path) -> None:
    rows = [
        assign.Single(f"x:{i}", f"Say {i}.", f"It is {i}, as everybody can see who looks at it for a while. " * 3)
        for i in range(6)
    ]
    asked = ballot(assign.rating_study(rows, ["Ana"], "s", repeats=2, checks=1), "rate", language="de")
    file = tmp_path / "rate.html"
    file.write_text(asked.html, encoding="utf-8")
    context = chromium.new_context()
    page = _enter(context, file, "Ana")
    expect(page.locator("h1")).to_have_text(WORDS["de"]["title_rate"])
    for _ in range(9):
        page.keyboard.press("0")
    cast = votes.read_votes(_download(page, "export", tmp_path).read_text(encoding="utf-8"), json.loads(json.dumps(asked.key)))
    assert [vote.said for vote in cast] == [0.0] * 9
    context.close()
