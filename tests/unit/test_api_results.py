"""What `ag.rate` gives back: on the table it came from, in a line at a prompt, with what it cost; what `pick` refuses."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import alpagasus_ray as ag
from alpagasus_ray.errors import UsageError
from loopback import JudgeStarter

ROWS = [{"instruction": f"Name {n} fruits.", "output": ", ".join(["apple"] * n), "ticket": f"T-{n}"} for n in range(1, 9)]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPAGASUS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def rated() -> ag.Rated:
    return ag.rate(ROWS, kind="rules")


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(ROWS)[lambda table: table["ticket"] > "T-3"].sample(frac=1, random_state=1),
        pd.DataFrame(ROWS, index=[7, 6, 5, 4, 3, 2, 1, 0]),
        pd.DataFrame(ROWS, index=[1] * 8),
        pd.DataFrame(ROWS).set_index("ticket"),
        pd.DataFrame(ROWS, index=pd.date_range("2026-01-01", periods=8, name="day")),
        pd.DataFrame(ROWS, index=pd.MultiIndex.from_product([["a", "b"], range(4)], names=["part", None])),
        pd.DataFrame(ROWS).set_index("ticket", drop=False),
    ],
)
def test_scores_are_assigned_to_the_table_that_they_are_of_by_its_own_index(frame: pd.DataFrame) -> None:
    rated = ag.rate(frame, kind="rules")
    table = rated.to_pandas()
    assert table.index.equals(frame.index)
    assert list(table.columns) == [*frame.columns, "score", "reason"]
    frame = frame.copy()
    frame["score"] = table["score"]
    by_text = {record["instruction"]: record["score"] for record in rated.to_list()}
    assert list(frame["score"]) == [by_text[text] for text in frame["instruction"]]
    best = rated.pick(top=2)
    chosen = best.to_pandas()
    assert set(chosen.index) <= set(frame.index)
    assert list(chosen["score"]) == best.scores


def test_an_index_with_a_name_is_a_column_of_the_records_and_of_what_is_written(tmp_path: Path) -> None:
    rated = ag.rate(pd.DataFrame(ROWS).set_index("ticket"), kind="rules")
    assert [record["ticket"] for record in rated.to_list()] == [row["ticket"] for row in ROWS]
    written = rated.pick(top=1).to_jsonl(tmp_path / "best.jsonl").read_text()
    assert written.startswith('{"ticket": "T-')
    assert (
        "ticket"
        in ag.rate(pd.DataFrame(ROWS).set_index("instruction").set_index("ticket", append=True), kind="rules").records[0]
    )


def test_a_result_is_a_line_at_a_prompt(rated: ag.Rated) -> None:
    best = rated.pick(top=3)
    assert repr(best) == f"Selection(3 records, score {min(best.scores):g} to {max(best.scores):g})"
    run = ag.Run(rated.run.storage.root)
    own = (ag.Rater(kind="rules"), ag.scorer("width")(lambda record: len(record["output"])))
    stored = (rated.run, rated.run.storage, rated.run.examples(), rated.manifest)
    for shown in (rated, best, run, rated.histogram(), *stored, *own):
        assert len(repr(shown)) < 200
        assert "object at 0x" not in repr(shown)
    assert repr(rated.run) == f"Run({rated.run.storage.root!r})"


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        (45, "would be empty (the highest score is 5): its threshold is 45"),
        (-1, "would be everything"),
        (4.2, "cuts at 4.2, which is no score there"),
        (5, "would be empty (the highest score is"),
        (float("nan"), "give a number"),
    ],
)
def test_pick_refuses_the_thresholds_that_a_run_refuses(rated: ag.Rated, tmp_path: Path, threshold: float, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        rated.pick(threshold=threshold)
    assert said in str(refused.value)
    ag.rate(ROWS, kind="rules", run=tmp_path / "run")
    with pytest.raises(UsageError) as same:
        ag.Run(tmp_path / "run").pick(threshold=threshold)
    assert threshold != threshold or said in str(same.value)
    if "no score there" in said:
        assert str(same.value).partition("selected' ")[2] == str(refused.value).partition(") ")[2], "word for word"


def test_a_choice_of_nothing_is_refused_and_a_scorer_has_no_scale(rated: ag.Rated) -> None:
    with pytest.raises(UsageError, match=r"pick\(share=0\.01\) would be empty \(the highest score is"):
        rated.pick(share=0.01)
    ag.scorer("width")(lambda record: len(record["output"]))
    assert len(rated.pick(threshold=20.3, by="width")) > 0
    with pytest.raises(UsageError, match=r"the highest width is"):
        rated.pick(threshold=1000, by="width")


def test_what_a_call_has_spent_adds_up_and_what_ratings_have_cost_does_not(judge: JudgeStarter) -> None:
    server = judge()
    price = {"input": 1000.0, "output": 1000.0}

    def rate(rows: Any, **more: Any) -> ag.Rated:
        return ag.rate(rows, "toy", base_url=server.base_url, **more)

    first = rate(ROWS[:4], price=price)
    again = rate(ROWS[:4], price=price)
    more = rate(ROWS[:6], price=price)
    assert first.spent_usd == first.cost_usd == again.cost_usd
    assert again.spent_usd == 0
    assert repr(first) == f"Rated(4 records, 4 with a score, ${first.cost_usd:,.4f})"
    assert repr(again) == f"Rated(4 records, 4 with a score, ${first.cost_usd:,.4f} in all, $0.0000 by this call)"
    assert first.cost_usd
    assert more.spent_usd
    assert 0 < more.spent_usd < first.cost_usd, "two rows of six"
    assert more.spent_usd == more.cost_usd, "the other four were bought with other rows"
    free = rate(ROWS[6:])
    assert free.spent_usd is free.cost_usd is None
    assert rate(ROWS[6:], price=price).spent_usd == 0, "nothing was asked"


def test_a_control_of_a_size_that_is_gone_is_told_and_one_that_is_made_again_is_not(tmp_path: Path) -> None:
    ag.rate(ROWS, kind="rules", run=tmp_path / "run")
    run = ag.Run(tmp_path / "run")
    controls: list[dict[str, Any]] = [{"name": "random", "policy": "random"}, {"name": "longest", "policy": "longest"}]
    assert run.pick(arms=[{"name": "selected", "policy": "top", "k": 5}, *controls]).notes == []
    picked = run.pick(top=3)
    assert picked.notes == [
        (
            "longest was made to be as large as selected, has 5 examples, and selected has 3 now; it is left as it is. "
            "Name it in pick.arms beside the others to make it anew"
        )
    ]
    assert picked.notes[0] in str(picked)
    assert run.pick(arms=[{"name": "selected", "policy": "top", "k": 3}, *controls]).notes == []
