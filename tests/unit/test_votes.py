"""Votes are read against the pair as judges were told it, whatever the models are called and whichever is told first."""

import json
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray.config import Report
from alpagasus_ray.errors import InputError
from alpagasus_ray.evaluation.agreement import Comparison, in_one_order, read_votes
from alpagasus_ray.evaluation.match_rules import OUTCOMES, decide
from alpagasus_ray.reporting.measures import Agreement
from alpagasus_ray.reporting.report_data import report_contents
from alpagasus_ray.reporting.run_reader import finished_stages
from alpagasus_ray.reporting.verdicts import comparisons, matches
from alpagasus_ray.store.run import Run
from report_runs import LOSE, TIE, WIN, judge

OUTCOME = [WIN] * 9 + [LOSE] * 3 + [TIE] * 4
PAIRS = [("selected", "full"), ("full", "selected"), ("alpha", "omega"), ("omega", "alpha")]
WORDS = {"sides": ("a", "tie", "b"), "outcomes": ("win", "tie", "lose")}


def ballot(folder: Path, run: Run, words: tuple[str, str, str], **more: Any) -> str:
    """A file of votes that says what the judge's own verdicts say."""
    [told] = comparisons(run)
    said = dict(zip(OUTCOMES.values(), words, strict=True))
    votes = [
        {"prompt_id": match.prompt_id, "voter": "copy", "vote": said[outcome], **more}
        for match in matches(run, told)
        if (outcome := decide("alpagasus", match))
    ]
    path = folder / "votes.jsonl"
    path.write_text("\n".join(map(json.dumps, votes)))
    return str(path)


def agreement(run: Run, votes: str, arm: str | None = None) -> Agreement:
    found = report_contents(Report(votes=(votes,), arm=arm), finished_stages(run)).data.agreement
    assert found is not None
    return found


def kappa(run: Run, votes: str, arm: str) -> float | None:
    [pair] = agreement(run, votes, arm).pairs
    assert pair.voters == ["copy", "toy judge"]
    assert pair.items == len(OUTCOME)
    return pair.kappa


@pytest.mark.parametrize("side", [0, 1], ids=["told from a", "told from b"])
@pytest.mark.parametrize("pair", PAIRS, ids=" against ".join)
@pytest.mark.parametrize("words", WORDS)
def test_a_judges_own_verdicts_as_votes_agree_with_it_wholly(
    tmp_path: Path, pair: tuple[str, str], side: int, words: str
) -> None:
    run = Run.open(str(tmp_path / "run"))
    judge(run, pair, OUTCOME)
    assert kappa(run, ballot(tmp_path, run, WORDS[words]), pair[side]) == 1


@pytest.mark.parametrize("pair", PAIRS, ids=" against ".join)
def test_a_row_that_names_its_models_counts_from_its_own_side(tmp_path: Path, pair: tuple[str, str]) -> None:
    run = Run.open(str(tmp_path / "run"))
    judge(run, pair, OUTCOME)
    a, b = pair
    assert kappa(run, ballot(tmp_path, run, ("b", "tie", "a"), a=b, b=a), a) == 1
    assert kappa(run, ballot(tmp_path, run, ("a", "tie", "b"), a=a, b=b), b) == 1
    assert kappa(run, ballot(tmp_path, run, (a, "tie", b)), a) == 1


def test_where_two_judges_were_told_a_pair_in_two_orders_a_vote_has_to_name_the_better_model(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    judge(run, ("selected", "full"), [WIN, WIN, LOSE, TIE])
    judge(run, ("full", "selected"), [LOSE, LOSE, WIN, TIE], name="second")
    votes = tmp_path / "votes.csv"
    votes.write_text("prompt_id,voter,vote\ntoys-0,ann,selected\ntoys-2,ann,full\ntoys-3,ann,tie\n")
    agreed = agreement(run, str(votes))
    assert {pair.kappa for pair in agreed.pairs} == {1.0}
    votes.write_text("prompt_id,voter,vote\ntoys-0,ann,a\n")
    with pytest.raises(InputError, match=r"the vote 'a' can mean full or selected; write the better model, or add `a` and `b`"):
        agreement(run, str(votes))
    votes.write_text(
        "prompt_id,voter,vote,a,b\ntoys-0,ann,win,selected,full\ntoys-2,ann,lose,selected,full\ntoys-3,ann,tie,,\n"
    )
    assert agreement(run, str(votes)) == agreed


def test_a_vote_that_is_a_side_and_the_other_models_name_is_refused() -> None:
    about = [Comparison("p", "toys", "b", "a")]
    row = {"prompt_id": "p", "voter": "x"}
    with pytest.raises(InputError, match="the vote 'a' can mean a or b"):
        read_votes([{**row, "vote": "a"}], about)
    [vote] = read_votes([{**row, "vote": "win"}], about)
    assert vote.vote == "a"
    [turned] = in_one_order([vote], about)
    assert (turned.item, turned.vote) == ("toys/p: a vs b", "b")
