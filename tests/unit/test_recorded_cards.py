"""The cards of three recorded judges of Alpaca by the real job: what is known of them, to three digits."""

import csv
import json
from pathlib import Path

import pytest

from alpagasus_ray.config import Ingest, Judge, Recipe, Score
from alpagasus_ray.stages.card import card
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from report_runs import rate

JUDGES = {"gpt-4o-mini": 0.498, "llama-3.1-8b-instruct": 0.373, "mistral-7b-v0.3-instruct": 0.325}
"""Rank correlation of score and words over all rows."""
CSV = "ratings/alpaca52k_three_llm_scores.csv"


def _told(run: Run) -> tuple[dict[str, dict], dict]:  # type: ignore[type-arg]
    summary = card(Recipe(), run)
    assert [one["name"] for one in summary["cards"]] == list(JUDGES)
    storage = run.judges().storage
    return {name: json.loads(storage.read(f"{name}/card.json")) for name in JUDGES}, json.loads(storage.read("together.json"))


def test_every_fifth_row_has_the_known_alpha_and_what_cannot_be_asked_is_said(
    shared: Path, alpaca: str, tmp_path: Path
) -> None:
    files = sorted(Path(alpaca).parent.glob("*.json"), key=lambda file: int(file.stem.split("-")[1]))
    rows = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
    (tmp_path / "fifth.json").write_text(json.dumps(rows[::5]))
    run = Run.open(str(tmp_path / "run"))
    ingest(Ingest(source=str(tmp_path / "fifth.json")), run)
    with (shared / CSV).open() as file:
        recorded = list(csv.DictReader(file))[::5]
    for name in JUDGES:
        rate(run, [float(row[name]) for row in recorded], name=name)
    cards, together = _told(run)
    assert round(together["alpha"]["value"], 3) == 0.136
    assert together["odd_one_out"] == "gpt-4o-mini"
    for name, one in cards.items():
        assert abs(one["length"]["spearman"]["value"] - JUDGES[name]) < 0.02
        assert one["length"]["padding"] is None
        assert one["cost_usd"] == 0
        assert "planted_defects" in one["missing"]


@pytest.mark.long
def test_over_all_rows_alpha_kappas_and_length_correlations_are_the_known_ones(
    shared: Path, alpaca: str, tmp_path: Path
) -> None:
    run = Run.open(str(tmp_path / "run"))
    ingest(Ingest(source=alpaca, name="alpaca"), run)
    for name in JUDGES:
        columns = {"index": "alpaca_index", "score": name}
        judge = Judge.model_validate({"kind": "recorded", "ratings": str(shared / CSV), "columns": columns})
        score(Score(name=name, judge=judge), run, in_process=True)
    cards, together = _told(run)
    assert {name: round(one["length"]["spearman"]["value"], 3) for name, one in cards.items()} == JUDGES
    assert [round(pair["kappa"]["value"], 3) for pair in together["pairs"]] == [0.212, 0.209, 0.188]
    assert round(together["alpha"]["value"], 3) == 0.139
    reasons = {one["missing"]["repeat"] for one in cards.values()}
    assert reasons == {"a recorded judge cannot be asked again"}
