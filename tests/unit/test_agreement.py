"""Agreement between voters: values worked out by hand, and rows of votes that say what is wrong with them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation.agreement import Comparison, Vote, agreement, read_votes

VICUNA, KOALA = (Comparison(f"{name}-7", name, "small", "full") for name in ("vicuna", "koala"))
VOTES = st.lists(
    st.builds(Vote, st.sampled_from("1234567"), st.sampled_from("xyz"), st.sampled_from(["a", "b", "tie"])),
    unique_by=lambda vote: vote[:2],
)


def _votes(**ballots: str) -> list[Vote]:
    """One string of a, b, t (a tie) and - (no vote) for each voter."""
    names = {"a": "a", "b": "b", "t": "tie"}
    return [
        Vote(f"item{i}", voter, names[said])
        for voter, ballot in ballots.items()
        for i, said in enumerate(ballot)
        if said != "-"
    ]


def test_cohens_kappa_is_what_the_hand_works_out() -> None:
    # 20 a together, 5 and 10 apart, 15 b together: observed 0.70; chance 0.5 * 0.6 + 0.5 * 0.4 = 0.50
    (pair,) = agreement(_votes(x="a" * 25 + "b" * 25, y="a" * 20 + "b" * 5 + "a" * 10 + "b" * 15))["pairs"]
    assert pair == {"voters": ["x", "y"], "items": 50, "agreement": 0.7, "kappa": 0.4}


def test_fleiss_and_krippendorff_are_what_the_hand_works_out() -> None:
    # agreeing pairs of voters: 3, 1, 3, 0 of 3 an item, so 7/12; votes 4 a, 5 b, 3 ties of 12
    found = agreement(_votes(x="aaba", y="aabb", z="abbt") + _votes(w="---"))
    shares = {"a": 6 / 12, "b": 5 / 12, "tie": 1 / 12}
    chance = sum(share**2 for share in shares.values())
    assert found["fleiss"] == {
        "kappa": pytest.approx((7 / 12 - chance) / (1 - chance), abs=1e-6),
        "items": 4,
        "votes_per_item": 3,
    }
    # alpha draws the two votes without putting the first back
    chance = (6 * 5 + 5 * 4 + 1 * 0) / (12 * 11)
    assert found["krippendorff"] == {"alpha": pytest.approx((7 / 12 - chance) / (1 - chance), abs=1e-6), "items": 4}


def test_items_with_other_numbers_of_votes_count_for_alpha_alone() -> None:
    found = agreement(_votes(x="abab-a", y="abba-a", z="----bb"))
    assert found["fleiss"]["items"] == 4
    assert found["fleiss"]["votes_per_item"] == 2
    assert found["krippendorff"]["items"] == 5
    assert found["items"] == 6


def test_perfect_agreement_is_one() -> None:
    found = agreement(_votes(x="abtab", y="abtab", z="abtab"))
    assert {pair["kappa"] for pair in found["pairs"]} == {1.0}
    assert found["fleiss"]["kappa"] == found["krippendorff"]["alpha"] == 1.0


@pytest.mark.parametrize("votes", [[], _votes(x="aaa", y="aaa"), _votes(x="ab--", y="--ab")], ids=["none", "one kind", "apart"])
def test_what_is_undefined_is_missing_and_never_zero(votes: list[Vote]) -> None:
    found = agreement(votes)
    assert {pair["kappa"] for pair in found["pairs"]} <= {None}
    assert found["fleiss"]["kappa"] is found["krippendorff"]["alpha"] is None


def test_a_voter_with_two_votes_on_an_item_is_refused() -> None:
    with pytest.raises(UsageError, match="'x' has two votes on 'item0'"):
        agreement(_votes(x="a") + _votes(x="b"))


@settings(deadline=None)
@given(VOTES, st.randoms())
def test_measures_are_at_most_one_and_know_no_order_nor_sides(votes: list[Vote], random: object) -> None:
    found = agreement(votes)
    json.dumps(found, allow_nan=False)
    for value in [*(pair["kappa"] for pair in found["pairs"]), found["fleiss"]["kappa"], found["krippendorff"]["alpha"]]:
        assert value is None or -1 <= value <= 1
    shuffled = list(votes)
    random.shuffle(shuffled)
    turned = {"a": "b", "b": "a", "tie": "tie"}
    assert agreement([vote._replace(vote=turned[vote.vote]) for vote in shuffled]) == found


@pytest.mark.parametrize(
    ("row", "vote"),
    [
        ({"prompt_id": "vicuna-7", "voter": "x", "vote": "a"}, "a"),
        ({"prompt_id": "vicuna-7", "voter": "x", "vote": " Tie "}, "tie"),
        ({"question_id": 7, "test_set": "vicuna", "annotator": "x", "vote": "lose"}, "b"),
        ({"prompt_id": "vicuna-7", "voter": "x", "vote": "full"}, "b"),
        ({"prompt_id": "vicuna-7", "a": "small", "b": "full", "voter": "x", "vote": "win"}, "a"),
        ({"prompt_id": "vicuna-7", "a": "full", "b": "small", "voter": "x", "vote": "win"}, "b"),
        ({"prompt_id": "vicuna-7", "a": "full", "b": "small", "voter": "x", "vote": "b"}, "a"),
        ({"prompt_id": "vicuna-7", "a": "full", "b": "small", "voter": "x", "vote": "tie"}, "tie"),
        ({"prompt_id": "vicuna-7", "a": "full", "b": "small", "voter": "x", "vote": "small"}, "a"),
        ({"prompt_id": "vicuna-7", "a": None, "b": "", "voter": "x", "vote": "a"}, "a"),
    ],
)
def test_a_vote_is_told_from_the_side_of_the_comparison(row: dict[str, object], vote: str) -> None:
    assert read_votes([row], [VICUNA, KOALA]) == [Vote(VICUNA.item, "x", vote)]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"voter": "x", "vote": "a"}, "no `prompt_id` or `question_id`; the row has voter, vote"),
        ({"prompt_id": "vicuna-7", "vote": "a"}, "no `voter` or `annotator`"),
        ({"prompt_id": "vicuna-7", "voter": "x", "vote": ""}, "no `vote`"),
        ({"prompt_id": "vicuna-7", "voter": "x", "vote": "c"}, "the vote is 'c'.*small or full"),
        ({"prompt_id": "vicuna-8", "voter": "x", "vote": "a"}, "no comparison of this run is on prompt 'vicuna-8'"),
        ({"prompt_id": "vicuna-7", "a": "small", "b": "random", "voter": "x", "vote": "a"}, "b 'random'"),
        ({"prompt_id": "7", "voter": "x", "vote": "a"}, "fits 2 comparisons.*add `test_set`"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_with_its_file_and_value(row: dict[str, object], told: str) -> None:
    good = {"prompt_id": "vicuna-7", "voter": "x", "vote": "a"}
    with pytest.raises(UsageError, match=f"votes.csv, row 2: .*{told}"):
        read_votes([good, row], [VICUNA, KOALA], "votes.csv")
