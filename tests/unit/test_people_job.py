"""The human study by its real job: a ballot for two models' answers or for examples, what comes back, and what it comes to."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from markupsafe import escape

import alpagasus_ray as ag
from alpagasus_ray import __main__ as command
from alpagasus_ray.evaluation.corrected_rates import JUDGE_ALONE
from alpagasus_ray.store.run import Run
from made_ballots import exported, side_of
from report_runs import answer, judge, rate
from toy_runs import ids, toy_run

MODELS = ("apricot", "plum")
SETS = ("koala", "toys", "vicuna", "wizard")
OUTCOMES = ["a"] * 63 + ["tie"] * 64 + ["b"] * 33
"""The paper's human study: 160 prompts, the majority of three people."""
OTHER = {"a": "tie", "tie": "b", "b": "a"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = toy_run(tmp_path, 30)
    for model, word in zip(MODELS, ("sweet", "sour"), strict=True):
        for test_set in SETS:
            answer(
                made,
                model,
                test_set,
                [(f"It is {word} and nothing else, number {n} of them all. " * 3, None) for n in range(44)],
            )
    return made


def _call(run: Run, *arguments: str) -> int:
    return command.main(["people", run.storage.root, *arguments])


def _key(run: Run, study: str) -> dict[str, Any]:
    key: dict[str, Any] = json.loads(run.people(study).storage.read("key.json"))
    return key


def _counts(run: Run, study: str) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads(run.people(study).storage.read("people.json"))
    return counts


def _files(folder: Path, key: dict[str, Any], said: Callable[[int, str], str]) -> list[str]:
    """What each voter exports who says so of an item."""

    def pressed(voter: str, slot: Mapping[str, Any]) -> str:
        return side_of(key, slot, said(slot["item"], voter))

    files = [folder / f"{voter}.jsonl" for voter in key["voters"]]
    for voter, file in zip(key["voters"], files, strict=True):
        file.write_text(exported(key, voter, partial(pressed, voter)))
    return [str(file) for file in files]


def _paper(item: int, voter: str) -> str:
    """Two of three say what came out, and the third something else."""
    if item >= len(OUTCOMES):
        return "a"
    return OTHER[OUTCOMES[item]] if voter.endswith("3") else OUTCOMES[item]


def test_the_papers_counts_come_back_from_made_votes(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call(run, "make") == 0
    home, key = run.people("apricot-vs-plum"), _key(run, "apricot-vs-plum")
    page = home.storage.read("ballot.html")
    assert not any(name.encode() in page for name in (*MODELS, "koala-", home.finished().content_hash()))
    assert len([item for item in key["items"] if not item["is_check"]]) == 160
    assert {name: sum(item["test_set"] == name for item in key["items"]) for name in SETS} == dict.fromkeys(SETS, 40)
    assert _call(run, "make") == 0, "a ballot that is out is not made anew"
    assert home.storage.read("ballot.html") == page
    assert _call(run, "make", "-s", "people.voters=[ana]") == 2
    assert _call(run, "import", *_files(tmp_path, key, _paper)) == 0
    counts = _counts(run, "apricot-vs-plum")
    tally = counts["tally"]
    assert (tally["win"], tally["tie"], tally["lose"], tally["split"]) == (63, 64, 33, 0)
    assert tally["winning_score"]["value"] == pytest.approx(1.1875)
    assert round(tally["sign_test_p"], 3) == 0.003
    assert counts["fleiss"]["n"] == 160
    assert [(one["self_consistency"]["value"], one["checks_passed"]["value"]) for one in counts["voters"]] == [(1.0, 1.0)] * 3
    table = pq.read_table(home.storage.path("votes.parquet"))
    assert table.num_rows == 480
    assert {"prompt_id", "test_set", "a", "b", "voter", "vote"} <= set(table.column_names)
    home.verify(home.finished())
    capsys.readouterr()
    [study] = ag.Run(run.storage.root).people("status").table()
    assert (study["study"], study["items"]) == ("apricot-vs-plum", 160)
    assert _call(run, "status") == 0
    assert "by majority 63 win, 64 tie, 33 lose" in capsys.readouterr().out


def test_three_way_splits_are_no_ties_and_the_judge_stands_beside_people(run: Run, tmp_path: Path) -> None:
    judge(run, MODELS, [("a", "a")] * 22 + [("b", "b")] * 22)
    assert _call(run, "make", "-s", "people.test_sets=[toys]") == 0
    key = _key(run, "apricot-vs-plum")
    split = {"voter 1": "a", "voter 2": "tie", "voter 3": "b"}
    number = {place: int(item["item_id"].rpartition("-")[2]) for place, item in enumerate(key["items"])}

    def said(item: int, voter: str) -> str:
        return split[voter] if number[item] < 5 else "a" if number[item] < 30 else "b"

    assert _call(run, "import", *_files(tmp_path, key, said)) == 0
    counts = _counts(run, "apricot-vs-plum")
    below = sum(number[place] < 5 for place, item in enumerate(key["items"]) if not item["is_check"])
    assert counts["tally"]["split"] == below
    assert counts["tally"]["tie"] == 0
    assert counts["judge_tally"]["win"] == counts["judge_tally"]["lose"] == 22
    assert counts["judge"]["with_majority"]["kappa"]["n"] == 40 - below
    assert counts["judge"]["people_with_each_other"]["votes"] == 120
    assert counts["rates"]["ppi"]["low"] < counts["rates"]["people"]["value"] + 0.2
    assert command.main(["card", run.storage.root]) == 0
    card = json.loads(run.judges().storage.read("verdicts/card.json"))
    assert card["voters"]["with_one_person"]["kappa"]["n"] == 120
    assert card["win_rate_note"] is None
    assert command.main(["report", run.storage.root]) == 0
    report = json.loads(run.report().storage.read("report.json"))
    assert report["trust"]["win_rates"][0]["ppi"]["n"] > 0
    assert report["agreement"]["votes"] == 120 + 44
    page = run.report().storage.read("index.html").decode()
    assert "(PPI++), beside the judge" in page
    assert escape(JUDGE_ALONE) not in page


def test_a_file_of_another_ballot_and_a_changed_one_are_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _call(run, "make") == 0
    file = Path(_files(tmp_path, _key(run, "apricot-vs-plum"), _paper)[0])
    text = file.read_text()
    for spoiled, why in (
        (text.replace('"choice":"first"', '"choice":"neither"', 1), "changed since"),
        (text.replace(_key(run, "apricot-vs-plum")["ballot"], "0" * 64), "a ballot that this run has not"),
        ("hello", "these are no votes"),
    ):
        file.write_text(spoiled)
        assert _call(run, "import", str(file)) == 2
        assert why in capsys.readouterr().err
    assert run.people("apricot-vs-plum").finished().rows == 0
    assert _call(run, "import") == 2
    assert _call(run, "make", "x.jsonl") == 2


def test_a_voter_who_goes_on_replaces_what_she_gave_before_and_others_stay(run: Run, tmp_path: Path) -> None:
    assert _call(run, "make") == 0
    key = _key(run, "apricot-vs-plum")
    first, second, _ = _files(tmp_path, key, _paper)
    half = tmp_path / "half.jsonl"
    half.write_text(exported(key, "voter 1", lambda slot: "first", limit=50))
    assert _call(run, "import", str(half)) == 0
    assert _counts(run, "apricot-vs-plum")["voters"][0]["missing"] == 124
    assert _call(run, "import", second) == 0
    assert _call(run, "import", first) == 0
    assert [one["missing"] for one in _counts(run, "apricot-vs-plum")["voters"]] == [0, 0]


@pytest.mark.parametrize("tool", ["label_studio", "argilla"])
def test_votes_given_in_other_tools_are_read(run: Run, tmp_path: Path, tool: str) -> None:
    assert _call(run, "make") == 0
    key, home = _key(run, "apricot-vs-plum"), run.people("apricot-vs-plum")
    given = json.loads(home.storage.read(f"{tool}.json"))
    slots = {slot["slot"]: slot for slot in key["voters"]["voter 1"]}
    said = {name: side_of(key, slot, _paper(slot["item"], "voter 1")) for name, slot in slots.items()}
    back: list[dict[str, Any]] = []
    for record in given if tool == "label_studio" else given["records"]:
        choice = said[record["data" if tool == "label_studio" else "metadata"]["slot"]]
        result = [{"from_name": "choice", "value": {"choices": [choice]}}]
        answer_given = {"choice": [{"value": choice, "user_id": "ana", "status": "submitted"}]}
        own: dict[str, Any] = {"annotations": [{"completed_by": "ana", "result": result}]}
        back.append({**record, **(own if tool == "label_studio" else {"responses": answer_given})})
    (tmp_path / "back.json").write_text(json.dumps(back))
    assert _call(run, "import", str(tmp_path / "back.json")) == 0
    tally = _counts(run, "apricot-vs-plum")["tally"]
    assert (tally["win"], tally["tie"], tally["lose"]) == (63, 64, 33)


def test_people_rate_examples_near_the_cut_and_at_random_as_gold_for_the_card(run: Run, tmp_path: Path) -> None:
    rate(run, [n % 6 for n in range(30)])
    assert (
        _call(run, "make", "-s", "people.form=rate", "-s", "people.near=10", "-s", "people.at_random=15", "-s", "people.cut=4")
        == 0
    )
    key = _key(run, "rate-judge")
    main = {item["item_id"] for item in key["items"] if not item["is_check"]}
    assert len(main) == 25
    number = {place: int(item["item_id"].rpartition(":")[2]) for place, item in enumerate(key["items"])}
    files = []
    for voter in key["voters"]:
        (tmp_path / f"{voter}.jsonl").write_text(exported(key, voter, lambda slot: str(number[slot["item"]] % 6)))
        files.append(str(tmp_path / f"{voter}.jsonl"))
    assert _call(run, "import", *files) == 0
    assert _counts(run, "rate-judge")["alpha"]["value"] == 1
    assert command.main(["card", run.storage.root, "-s", "card.cut=4"]) == 0
    card = json.loads(run.judges().storage.read("judge/card.json"))
    raters = card["raters"]
    assert raters["people"] == 3
    assert raters["exact_agreement"]["value"] == 1
    assert raters["beside"]["random"]["precision"]["n"] == 15, "what is said of all rows rests on those drawn at random"
    assert raters["near_cut"]["agreement"]["n"] == 10
    [note] = card["notes"]
    assert note.startswith("30 ratings by people are of examples near the cut, which were chosen for that")


def test_people_rate_on_the_scale_of_the_judge_and_stand_beside_no_judge_of_another(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate(run, [n % 10 + 1.0 for n in range(30)], name="tens", scale=(1, 10))
    rate(run, [n % 6 for n in range(30)])
    made = ("people.form=rate", "people.ratings=tens", "people.voters=[ana]", "people.near=0", "people.at_random=30")
    assert _call(run, "make", *(part for knob in made for part in ("-s", knob))) == 0
    key = _key(run, "rate-tens")
    assert key["choices"] == [str(score) for score in range(1, 11)]
    (tmp_path / "ana.jsonl").write_text(exported(key, "ana", lambda slot: "7"))
    gold = tmp_path / "gold.jsonl"
    rows = [{"example_id": f"{ids(run)[n]}", "score": 3, "out_of": 5} for n in range(4)]
    gold.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _call(run, "import", str(tmp_path / "ana.jsonl")) == 0
    capsys.readouterr()
    assert command.main(["card", run.storage.root, "-s", f"card.gold=[{gold}]"]) == 0
    assert "4 marks are on another scale than these ratings, which go from 1 to 10: left out" in capsys.readouterr().err
    tens, fives = (json.loads(run.judges().storage.read(f"{name}/card.json")) for name in ("tens", "judge"))
    assert tens["raters"]["at_cut"]["agreement"]["n"] == 30
    assert (tens["gold"], fives["gold"]["exact_agreement"]["n"], fives["raters"]) == (None, 4, None)
    assert fives["missing"]["several"] == "the run's other judges rate on another scale, or are made of others"
    assert fives["missing"]["raters"].startswith(
        "30 ratings by people are on another scale than these ratings, which go from 0"
    )


def test_a_card_goes_by_the_recipes_rule_and_counts_votes_once_where_a_pair_was_compared_twice(
    run: Run, tmp_path: Path
) -> None:
    half = [("a", "tie")] * 30 + [("b", "b")] * 14
    for name in (None, "again"):
        judge(run, MODELS, half, name, label="m")
    assert _call(run, "make", "-s", "people.test_sets=[toys]", "-s", "people.voters=[ana, bo, eva]") == 0
    files = _files(tmp_path, _key(run, "apricot-vs-plum"), lambda item, voter: "a" if item < 30 else "b")
    (tmp_path / "gold.jsonl").write_text(json.dumps({"example_id": ids(run)[0], "score": 3}))
    assert command.main(["card", run.storage.root, "-s", f"card.gold=[{tmp_path / 'gold.jsonl'}]"]) == 2, "there are no ratings"
    assert _call(run, "import", *files, "-s", "compare.rule=fastchat") == 0
    counts = _counts(run, "apricot-vs-plum")
    assert (counts["rule"], counts["judge_tally"]["tie"]) == ("fastchat", 30)
    for rule, wins in (("alpagasus", 30), ("fastchat", 15)):
        assert command.main(["card", run.storage.root, "-s", f"report.rule={rule}"]) == 0
        card = json.loads(run.judges().storage.read("verdicts/card.json"))
        assert [one["raw"]["value"] for one in card["win_rates"]] == [pytest.approx(wins / 44)] * 2
        assert card["voters"]["with_one_person"]["kappa"]["n"] == 120
    assert command.main(["report", run.storage.root, "-s", "report.rule=fastchat"]) == 0
    [first, *_] = json.loads(run.report().storage.read("report.json"))["trust"]["win_rates"]
    assert first["raw"]["value"] == pytest.approx(15 / 44)


def test_models_without_answers_are_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call(run, "make", "-s", "people.pair=[apricot, fig]") == 2
    assert "'fig' has not answered any test set" in capsys.readouterr().err
    answer(run, "fig", "toys", [("x", None)])
    assert _call(run, "make") == 2
    assert "which two models" in capsys.readouterr().err
