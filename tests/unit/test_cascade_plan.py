"""The plan of a cascade and of labels: what is asked, what it costs, and what is saved."""

from pathlib import Path

import pytest
from test_whole_experiment import toy

from alpagasus_ray.config import Cascade, Distill, Price, Score
from alpagasus_ray.plan_all import plan as plan_all
from alpagasus_ray.reporting.terminal_plan import score_plan_lines, whole_plan_lines
from alpagasus_ray.run_all import steps
from alpagasus_ray.stages.plan_score import plan
from alpagasus_ray.store.run import Run
from toy_runs import api_judge, toy_run


def test_a_cascade_is_planned_as_its_share_of_all_rows_and_tells_what_it_saves(tmp_path: Path) -> None:
    run = toy_run(tmp_path, 500)
    judge = api_judge("http://127.0.0.1:9/v1", price=Price(input=1, output=2))
    every = plan(Score(judge=judge), run)
    part = plan(Score(judge=judge, cascade=Cascade(calls=0.2)), run)
    assert (every["requests"], part["requests"]) == (500, 100)
    assert part["dollars"]["low"] == pytest.approx(every["dollars"]["low"] / 5, rel=1e-3)
    assert part["cascade"]["saved"]["low"] == pytest.approx(every["dollars"]["low"] * 0.8, rel=1e-3)
    told = "\n".join(score_plan_lines(part))
    assert "a cascade: 20.00% of the rows are asked about, best first; 2.00% at random" in told
    assert "what is not asked saves $" in told
    assert not run.ratings("judge").storage.all_names()


def test_labels_of_a_distilled_judge_are_part_of_the_whole_plan_and_are_asked_for_first(tmp_path: Path) -> None:
    judge = {"kind": "api", "model": "gpt-4o-mini"}
    recipe = toy(tmp_path, score={"judge": judge}, distill={"labels": 4})
    told = plan_all(recipe, Run.open(str(tmp_path / "run")))
    assert told["distill"]["labels"] == 4
    assert told["distill"]["dollars"]["high"] == pytest.approx(told["score"]["dollars"]["high"] / 2, rel=1e-3)
    assert "the judge is asked about 4 rows first" in "\n".join(whole_plan_lines(told))
    names = [step.name for step in steps(recipe)]
    assert names[:3] == ["ingest", "distill", "score"]
    later = recipe.model_copy(update={"distill": Distill()})
    assert [step.name for step in steps(later)][:3] == ["ingest", "score", "distill"]
    assert "distill" not in [step.name for step in steps(toy(tmp_path))]
