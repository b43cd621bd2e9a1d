"""The judge card by its real job, of a judge on loopback with known flaws: it finds each, pays once, and keeps to its cap."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flawed_judge
import pytest
from flawed_judge import BLIND_TO, FlawedJudge

from alpagasus_ray import __main__ as command
from alpagasus_ray.config import Ingest, Judge, Recipe, Score
from alpagasus_ray.evaluation.judge_card import NO
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from report_runs import LOSE, TIE, WIN
from report_runs import judge as compare

ROWS = 240
MODEL = "toy judge"  # what `report_runs.judge` calls the judge of pairs
PROBED = [
    "-s",
    "card.repeat=true",
    "-s",
    "card.probes=true",
    "-s",
    "card.rows=120",
    "-s",
    "card.per_kind=15",
    "-s",
    "card.cut=3",
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlawedJudge]:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    with flawed_judge.running() as judge:
        yield judge


@pytest.fixture
def run(tmp_path: Path, server: FlawedJudge) -> Run:
    (tmp_path / "rows.json").write_text(json.dumps(flawed_judge.rows(ROWS)))
    run = Run.open(str(tmp_path / "run"))
    ingest(Ingest(source=str(tmp_path / "rows.json")), run)
    score(Score(judge=Judge(model=MODEL, base_url=server.base_url)), run, in_process=True)
    server.asked.clear()
    return run


def _call(run: Run, server: FlawedJudge, *more: str) -> int:
    judge = ["-s", f"score.judge.model={MODEL}", "-s", f"score.judge.base_url={server.base_url}"]
    return command.main(["card", run.storage.root, *judge, *more])


def _card(run: Run) -> dict[str, Any]:
    card: dict[str, Any] = json.loads(run.judges().storage.read("judge/card.json"))
    return card


def test_the_card_of_a_judge_with_known_flaws_finds_each_of_them(run: Run, server: FlawedJudge, capsys: Any) -> None:
    outcomes = [TIE] * 30 + [WIN] * 50 + [LOSE] * 40
    compare(run, ("one", "other"), outcomes)  # what stands first wins in 30 of 120 pairs
    assert _call(run, server, *PROBED, "--plan") == 0
    assert server.asked == []
    planned = capsys.readouterr().out
    assert "120 repeat, 120 padded" in planned
    assert "dollars unknown" in planned
    assert _call(run, server, *PROBED, "--json") == 0
    asked = len(server.asked)
    made = _card(run)
    assert 0.05 < made["repeat"]["exact_agreement"]["low"] < made["repeat"]["exact_agreement"]["high"] < 0.6
    assert made["repeat"]["alpha"]["n"] == 120
    assert made["length"]["padding"]["low"] > 0.3
    assert made["position"]["first_slot"]["low"] > 0.5
    kinds = made["planted_defects"]["kinds"]
    assert abs(kinds[BLIND_TO]["auc"]["value"] - 0.5) < 0.25
    assert all(one["auc"]["low"] > 0.6 for kind, one in kinds.items() if kind != BLIND_TO)
    assert made["planted_defects"]["all"]["longest"]["n"] == sum(one["planted"] for one in kinds.values())
    assert abs(made["drift"]["since"][0]["mean_change"]["value"]) < 0.4, "noise, which may look like a change once in twenty"
    assert made["failures"]["failed"]["value"] == 0
    assert made["missing"].keys() == {"gold", "raters", "voters", "several"}
    assert (
        made["win_rate_note"]
        == made["win_rates"][0]["note"]
        == "This win rate is the judge's alone: no person has voted on these answers."
    )
    assert asked == 2 * 120 + sum(one["planted"] for one in kinds.values()) + 50
    # a second call returns at once; nothing is asked again, and the stored probes only where it is wished
    assert _call(run, server, *PROBED) == 0
    assert len(server.asked) == asked
    server.moved = True
    assert _call(run, server, *PROBED, "--again") == 0
    assert len(server.asked) == asked + 50
    drift = _card(run)["drift"]
    assert drift["since"][1]["changed"] is True
    assert drift["since"][1]["mean_change"]["low"] > 0.4
    assert "fp-later answered" in capsys.readouterr().err


def test_without_settings_nothing_is_asked_and_gold_marks_are_read(run: Run, server: FlawedJudge, tmp_path: Path) -> None:
    ids = [row["example_id"] for t in run.ratings("judge").tables(run.ratings("judge").finished()) for row in t.to_pylist()]
    (tmp_path / "gold.csv").write_text("example_id,score\n" + "".join(f"{row},{1 + n % 4}\n" for n, row in enumerate(ids[:80])))
    assert _call(run, server, "-s", f"card.gold=[{tmp_path}/gold.csv]", "-s", "card.cut=3") == 0
    made = _card(run)
    assert server.asked == []
    assert made["cost_usd"] == 0
    assert made["gold"]["at_cut"]["kappa"]["low"] > 0.3
    assert made["gold"]["beside"]["random"]["precision"]["value"] == 0.5
    assert abs(made["gold"]["beside"]["longest"]["kappa"]["value"]) < 0.4
    assert made["missing"]["repeat"] == "no rows were rated twice (card.repeat)"


def test_rating_tells_how_it_stands_beside_given_marks(
    run: Run, server: FlawedJudge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = run.ratings("judge")
    rated = [row for table in stage.tables(stage.finished()) for row in table.to_pylist() if row["score"] is not None]
    marks = [(row["example_id"], row["score"] - (n < 5) / 2, "") for n, row in enumerate(rated[:20])]
    marks += [(row["example_id"], 5 - row["score"], "wrong rating") for row in rated[20:23]]
    lines = ["example_id,score,mark,out_of", *(f"{row},{mark},{kind}," for row, mark, kind in marks)]
    lines += [f"{rated[30]['example_id']},8,,10", "nobody:1,3,,"]
    (tmp_path / "gold.csv").write_text("\n".join(lines))
    judge = ["-s", f"score.judge.model={MODEL}", "-s", f"score.judge.base_url={server.base_url}"]
    assert command.main(["score", run.storage.root, *judge, "-s", f"card.gold=[{tmp_path}/gold.csv]"]) == 0
    told = capsys.readouterr().err
    assert server.asked == []
    assert "card.gold: of 20 given marks 15 are what the judge says; it is +0.12 points from them in the mean" in told
    assert "card.gold: of 3 ratings marked as wrong" in told
    assert "card.gold: 1 marks are on another scale than these ratings" in told
    assert "card.gold: 1 given marks are of examples without a rating: left out" in told


def test_probes_stop_at_their_cap_and_go_on_from_there(run: Run, server: FlawedJudge) -> None:
    price = ["-s", "score.judge.price={input: 10, output: 10}", "-s", "card.repeat=true", "-s", "card.rows=60"]
    assert _call(run, server, *price, "-s", "card.max_cost_usd=0.1") == 3
    some = len(server.asked)
    assert 0 < some < 60
    assert run.judges().manifest() is None
    assert _call(run, server, *price, "-s", "card.max_cost_usd=10") == 0
    assert len(server.asked) == 60, "what was paid for is not asked again"
    made = _card(run)
    assert made["costs"]["repeat"]["rows"] == 60
    assert made["cost_usd"] == pytest.approx(60 * 310 * 10 / 1e6)


def test_another_model_under_the_same_name_is_asked_anew_and_the_change_is_told(run: Run, server: FlawedJudge) -> None:
    few = ["-s", "card.probes=true", "-s", "card.rows=10", "-s", "card.per_kind=2", "-s", "card.stored=40"]
    assert _call(run, server, *few) == 0
    asked = len(server.asked)
    run.ratings("judge").storage.delete_tree()
    server.moved = True
    score(Score(judge=Judge(model="later", base_url=server.base_url)), run, in_process=True)
    assert (
        command.main(
            ["card", run.storage.root, "-s", "score.judge.model=later", "-s", f"score.judge.base_url={server.base_url}", *few]
        )
        == 0
    )
    assert len(server.asked) == 2 * asked + ROWS
    drift = _card(run)["drift"]
    assert [(one["model"], one["answered_by_another"]) for one in drift["since"]] == [(MODEL, False), ("later", True)]
    assert drift["since"][1]["changed"] is True


def test_limits_of_the_verdict_are_the_recipes(run: Run, server: FlawedJudge, capsys: Any) -> None:
    assert _call(run, server, "-s", "card.limits={failures.failed: [0.5, 0.6], scale_use.most_used: [0.01, 0.02]}") == 0
    assert _card(run)["verdict"]["verdict"] == NO
    assert _call(run, server, "-s", "card.limits={repeat.alhpa: [1, 0]}") == 2
    assert _call(run, server, "-s", "card.ratings=[other]") == 2
    assert "'other' is not finished in this run; there are judge" in capsys.readouterr().err


def test_another_judge_than_made_the_ratings_is_not_asked(run: Run, server: FlawedJudge) -> None:
    assert command.main(["card", run.storage.root, "-s", "score.judge.model=other", *PROBED]) == 0
    assert server.asked == []
    assert "the judge of `score` is another than made ratings/judge/" in _card(run)["missing"]["repeat"]
    assert Recipe().card.repeat is Recipe().card.probes is False
