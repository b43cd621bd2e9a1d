"""The human study without a browser: who sees what, what a file of votes must be, and what is told of it."""

import json
from collections import Counter

import numpy as np
import pytest

from alpagasus_ray.errors import InputError, UsageError
from alpagasus_ray.evaluation.agreement import Comparison, Vote, agreement, in_one_order, read_votes
from alpagasus_ray.people import assign, exchange, votes
from alpagasus_ray.people.ballot import CHOICES, ballot, keys_of, named_in, scores_to_choose
from alpagasus_ray.people.words import LANGUAGES, WORDS
from alpagasus_ray.stages.people import _ballot_of
from made_ballots import ARMS, SETS, exported, pairs, side_of

VOTERS = ("Ana", "Bo", "Cléo")
CHOSEN = assign.pairs_for_votes(pairs(), assign.PER_TEST_SET, "secret")
STUDY = assign.vote_study(CHOSEN, VOTERS, "secret")
BALLOT = ballot(STUDY, "vote", *ARMS)
KEY = json.loads(json.dumps(BALLOT.key))


def _always(said: str, voter: str = "Ana", limit: int | None = None) -> str:
    return exported(KEY, voter, lambda slot: side_of(KEY, slot, said), limit)


def test_160_prompts_are_40_of_each_test_set_with_each_skill_in_its_share() -> None:
    assert Counter(pair.test_set for pair in CHOSEN) == dict.fromkeys(SETS, 40)
    for name in SETS:
        skills = Counter(pair.skill for pair in CHOSEN if pair.test_set == name)
        assert all(13 <= count <= 14 for count in skills.values())
    assert assign.pairs_for_votes(pairs()[::-1], 40, "secret") == CHOSEN
    assert assign.pairs_for_votes(pairs(), 40, "other") != CHOSEN


def test_each_voter_has_an_order_of_her_own_and_each_side_80_times() -> None:
    orders = []
    for voter in VOTERS:
        slots = STUDY.layouts[voter]
        assert Counter(slot.kind for slot in slots) == {"main": 160, "repeat": 10, "check": 4}
        main = [slot for slot in slots if slot.kind == "main"]
        a_first = [slot.first == STUDY.items[slot.item].a_is for slot in main]
        assert sum(a_first) == 80
        for name in SETS:
            of_set = [a for a, slot in zip(a_first, main, strict=True) if STUDY.items[slot.item].test_set == name]
            assert sum(of_set) == 20
        orders.append([slot.item for slot in main])
    assert orders[0] != orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[1])


def test_the_order_in_which_a_ballot_lists_its_items_does_not_tell_which_answers_are_of_one_model() -> None:
    """Neighbours of one voter have the same side about as often as not."""
    sides = {slot.item: slot.first == STUDY.items[slot.item].a_is for slot in STUDY.layouts[VOTERS[0]] if slot.kind == "main"}
    same = sum(sides[item] == sides[item + 1] for item in range(0, 160, 2))
    assert 20 < same < 60


def test_hidden_repeats_come_late_with_their_sides_swapped() -> None:
    for slots in STUDY.layouts.values():
        place = {slot.item: (number, slot.first) for number, slot in enumerate(slots) if slot.kind == "main"}
        for number, slot in enumerate(slots):
            if slot.kind == "repeat":
                first, shown = place[slot.item]
                assert number - first > 20
                assert slot.first == 1 - shown


def test_the_page_holds_no_name_and_nothing_that_the_side_of_an_answer_could_be_worked_out_from() -> None:
    page = BALLOT.html
    assert not any(arm in page for arm in ARMS)
    assert not any(hidden in page for hidden in ("a_is", "is_check", '"main"', '"repeat"', "check-"))
    assert "default-src 'none'" in page
    # which of the two texts comes first in the page is as good as chance
    a_is = [item.a_is for item in STUDY.items if not item.is_check]
    assert 60 < sum(a_is) < 100
    other = assign.vote_study(CHOSEN, VOTERS, "another secret")
    assert [item.a_is for item in other.items] != [item.a_is for item in STUDY.items]
    assert not any(arm in json.dumps(BALLOT.items) for arm in ARMS)


def test_answers_that_say_whose_they_are_are_found() -> None:
    boastful = CHOSEN[0]._replace(answer_a="I am Alpagasus-13B, and I think so.")
    study = assign.vote_study([boastful, *CHOSEN[1:]], VOTERS, "secret")
    assert boastful.prompt_id in named_in(study, ARMS)
    assert named_in(STUDY, ARMS) == []


def test_texts_cannot_end_the_element_that_holds_them() -> None:
    assert "<script>document.title" not in BALLOT.html
    assert BALLOT.html.count("</script>") == 3


def test_every_part_of_the_page_is_said_in_every_language() -> None:
    assert list(WORDS) == list(LANGUAGES) == ["en", "zh", "es", "de"]
    assert len({frozenset(words) for words in WORDS.values()}) == 1
    assert all(text.strip() for words in WORDS.values() for text in words.values())
    for name in WORDS["en"]:
        holes = {tuple(sorted(part.split("}")[0] for part in WORDS[code][name].split("{")[1:])) for code in WORDS}
        assert len(holes) == 1, name


def test_a_whole_file_is_read_from_the_models_side() -> None:
    cast = votes.read_votes(_always("a"), KEY)
    assert len(cast) == 174
    assert {vote.said for vote in cast} == {"a"}
    rows = votes.rows(cast, KEY)
    assert len(rows) == 160
    assert (rows[0]["a"], rows[0]["b"], rows[0]["voter"], rows[0]["vote"]) == (*ARMS, "Ana", "a")
    comparisons = [Comparison(pair.prompt_id, pair.test_set, *ARMS) for pair in CHOSEN]
    assert {vote.vote for vote in read_votes(rows, comparisons)} == {"a"}


def test_a_comment_may_hold_the_signs_that_end_a_line_elsewhere() -> None:
    comment = "one\u2028two\u2029three\x85four"
    text = exported(KEY, "Ana", lambda slot: "first", limit=3, comment=comment)
    for sent in (text, text.replace("\n", "\r\n")):
        assert [vote.comment for vote in votes.read_votes(sent, KEY)] == [comment] * 3
        assert _ballot_of(sent, "ana.jsonl") == KEY["ballot"]


def test_an_unfinished_file_is_read_and_told() -> None:
    (report,) = votes.voter_reports(votes.read_votes(_always("b", limit=50), KEY), KEY)
    assert (report["votes"], report["missing"]) == (50, 124)


def test_a_voter_who_always_presses_one_key_is_seen() -> None:
    cast = votes.read_votes(exported(KEY, "Bo", lambda slot: "first"), KEY)
    (report,) = votes.voter_reports(cast, KEY)
    assert report["first_side"]["value"] == 1.0
    assert report["self_consistency"]["value"] == 0.0
    (steady,) = votes.voter_reports(votes.read_votes(_always("a"), KEY), KEY)
    assert steady["first_side"]["value"] == pytest.approx(0.5, abs=0.03)
    assert steady["self_consistency"] == {**steady["self_consistency"], "value": 1.0, "n": 10}
    assert steady["checks_passed"]["value"] == 1.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace('"choice":"first"', '"choice":"second"', 1), "changed since"),
        (lambda text: "".join(text.splitlines(keepends=True)[1:]), "changed since"),
        (lambda text: "".join(text.splitlines(keepends=True)[:-1]), "changed since"),
        (lambda text: "".join(text.splitlines(keepends=True)[::-1]), "changed since"),
        (lambda text: text.replace(KEY["ballot"], "0" * 64), "another ballot"),
        (lambda text: "prompt_id,vote\n1,a\n", "no vote of a ballot"),
    ],
)
def test_files_that_were_changed_and_files_of_other_ballots_are_refused(change: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        votes.read_votes(change(_always("a")), KEY, "votes-Ana.jsonl")


def test_voters_and_choices_that_the_ballot_has_not_are_refused() -> None:
    strange = {**KEY, "voters": {**KEY["voters"], "Eve": KEY["voters"]["Ana"]}}
    with pytest.raises(InputError, match="no voter 'Eve'"):
        votes.read_votes(exported(strange, "Eve", lambda slot: "first"), KEY)
    with pytest.raises(InputError, match="it can be first, second, neither"):
        votes.read_votes(exported(KEY, "Ana", lambda slot: "both"), KEY)
    with pytest.raises(InputError, match="voted otherwise in another file"):
        votes.together({"1": votes.read_votes(_always("a"), KEY), "2": votes.read_votes(_always("b"), KEY)})
    assert len(votes.together(dict.fromkeys("12", votes.read_votes(_always("a"), KEY)))) == 174
    with pytest.raises(UsageError, match="name of her own"):
        assign.vote_study(CHOSEN, ["Ana", "Ana"], "s")


def _three(outcomes: list[str]) -> list[Vote]:
    """Three people of whom two give the outcome, or all three differ where it is a split; the third is of another mind."""
    third = {"a": "tie", "tie": "b", "b": "b"}
    return [
        Vote(f"i{i}", voter, said)
        for i, outcome in enumerate(outcomes)
        for voter, said in zip(
            VOTERS, ("a", "b", "tie") if outcome == "split" else (outcome, outcome, third[outcome]), strict=True
        )
    ]


def test_the_papers_counts_come_out_of_votes_made_for_them() -> None:
    tally = votes.tally(_three(["a"] * 63 + ["tie"] * 64 + ["b"] * 33))
    assert (tally["win"], tally["tie"], tally["lose"], tally["split"]) == (63, 64, 33, 0)
    assert tally["winning_score"]["value"] == pytest.approx(1.1875)
    assert tally["winning_score"]["low"] > 1
    assert tally["sign_test_p"] == pytest.approx(0.003, abs=0.0005)


def test_three_people_of_three_minds_are_no_tie() -> None:
    tally = votes.tally(_three(["a"] * 63 + ["tie"] * 60 + ["b"] * 33 + ["split"] * 4))
    assert (tally["win"], tally["tie"], tally["lose"], tally["split"]) == (63, 60, 33, 4)
    assert tally["items"] == 160


def test_agreement_is_that_of_the_report_with_an_interval() -> None:
    random = np.random.default_rng(0)
    cast = [Vote(f"i{i}", voter, "a" if random.random() < 0.6 else "tie") for i in range(160) for voter in VOTERS]
    report = votes.people_report(cast, {f"i{i}": "a" for i in range(200)})
    plain = agreement(cast)
    assert report["fleiss"]["value"] == pytest.approx(plain["fleiss"]["kappa"], abs=1e-6)
    assert report["alpha"]["value"] == pytest.approx(plain["krippendorff"]["alpha"], abs=1e-6)
    assert report["fleiss"]["low"] < report["fleiss"]["value"] < report["fleiss"]["high"]
    assert report["judge"]["with_majority"]["kappa"]["value"] == 0.0
    assert report["rates"]["raw"]["value"] == 1.0
    assert report["rates"]["ppi"]["value"] < 0.9
    assert votes.people_report(in_one_order([], []))["fleiss"]["value"] is None


def test_ratings_are_near_the_cut_and_at_random_and_come_back_as_gold() -> None:
    random = np.random.default_rng(1)
    scores = np.where(random.random(2_000) < 0.1, np.nan, random.integers(0, 11, 2_000) / 2)
    drawn = assign.rows_for_ratings(scores, 4.5, "s")
    rows = [*drawn.near, *drawn.at_random]
    assert len(set(rows)) == 100
    assert (scores[drawn.near] == 4.5).all()
    assert np.abs(scores[drawn.at_random] - 4.5).mean() > 1
    singles = [assign.Single(f"x:{row}", "Do it.", "A long answer. " * 5, "random") for row in rows]
    study = assign.rating_study(singles, ["Ana"], "s")
    asked = ballot(study, "rate")
    key = json.loads(json.dumps(asked.key))
    text = exported(key, "Ana", lambda slot: "1" if slot["kind"] == "check" else "4")
    cast = votes.read_votes(text, key)
    gold = votes.rows(cast, key)
    assert {row["example_id"] for row in gold} == {f"x:{row}" for row in rows}
    assert {(row["score"], row["out_of"], row["drawn"]) for row in gold} == {(4.0, 5.0, "random")}
    (report,) = votes.voter_reports(cast, key)
    assert report["checks_passed"]["value"] == report["self_consistency"]["value"] == 1.0


def test_the_rows_at_random_are_a_sample_of_all_that_have_a_score() -> None:
    """Those near the cut are drawn from what is left, so that the sample does not lack them."""
    scores = np.array([4.5] * 50 + [2.0] * 50)
    shares = [(scores[assign.rows_for_ratings(scores, 4.5, f"s{n}", 30, 40).at_random] == 4.5).mean() for n in range(200)]
    assert abs(np.mean(shares) - 0.5) < 0.02


@pytest.mark.parametrize(
    ("scale", "choices", "keys"),
    [
        ((0, 5), "0 1 2 3 4 5", "012345"),
        ((1, 5), "1 2 3 4 5", "12345"),
        ((1, 10), "1 2 3 4 5 6 7 8 9 10", "123456789x"),
        ((0, 10), "0 1 2 3 4 5 6 7 8 9 10", "0123456789x"),
        ((0, 1), "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1", "0123456789x"),
        ((0, 100), "0 10 20 30 40 50 60 70 80 90 100", "0123456789x"),
        ((-2, 2), "-2 -1 0 1 2", "01234"),
    ],
)
def test_people_choose_from_the_scale_of_the_judge(scale: tuple[float, float], choices: str, keys: str) -> None:
    chosen = scores_to_choose(*scale)
    assert (" ".join(chosen), "".join(keys_of("rate", chosen))) == (choices, keys)
    study = assign.rating_study([assign.Single("x:1", "Do it.", "An answer of some words. " * 5)], ["Ana"], "s", 0)
    key = json.loads(json.dumps(ballot(study, "rate", choices=chosen).key))
    lowest, highest = (
        votes.read_votes(exported(key, "Ana", lambda slot, end=end: end), key) for end in (chosen[0], chosen[-1])
    )
    assert {vote.said for vote in highest} == {scale[1]}
    assert [votes.voter_reports(cast, key)[0]["checks_passed"]["value"] for cast in (lowest, highest)] == [1, 0]
    assert f"from {chosen[0]} to {chosen[-1]}?" in exchange.label_studio_config(key)
    with pytest.raises(InputError, match=r"the choice is '5\.5'"):
        votes.read_votes(exported(key, "Ana", lambda slot: "5.5"), key)


def test_a_key_of_an_earlier_version_has_scores_from_0_to_5_and_no_random_rows() -> None:
    study = assign.rating_study([assign.Single("x:1", "Do it.", "An answer.", "random")], ["Ana"], "s", 0, 0)
    key = json.loads(json.dumps(ballot(study, "rate").key))
    del key["choices"], key["items"][0]["drawn"]
    [row] = votes.rows(votes.read_votes(exported(key, "Ana", lambda slot: "3"), key), key)
    assert (row["score"], row["out_of"], row["drawn"]) == (3.0, 5.0, "near the cut")


def test_label_studio_takes_the_ballot_and_gives_back_votes() -> None:
    tasks = json.loads(json.dumps(exchange.label_studio_tasks(STUDY, KEY, "Ana")))
    assert not any(arm in json.dumps(tasks) for arm in ARMS)
    slots = {slot["slot"]: slot for slot in KEY["voters"]["Ana"]}
    for task in tasks:
        choice = side_of(KEY, slots[task["data"]["slot"]], "b")
        result = [{"from_name": "choice", "to_name": "prompt", "type": "choices", "value": {"choices": [choice]}}]
        task["annotations"] = [
            {"completed_by": 7, "result": result, "lead_time": 4.5, "was_cancelled": False},
            {"completed_by": {"id": 8, "email": "bo@example.org"}, "result": [], "was_cancelled": True},
        ]
    cast = exchange.read_label_studio(tasks, KEY)
    assert len(cast) == 174
    assert {(vote.voter, vote.said, vote.seconds) for vote in cast} == {("7", "b", 4.5)}
    (report,) = votes.voter_reports(cast, KEY)
    assert (report["missing"], report["self_consistency"]["value"]) == (0, 1.0)
    config = exchange.label_studio_config(KEY)
    assert all(f'<Choice value="{choice}"' in config for choice in CHOICES["vote"])
    with pytest.raises(InputError, match="task 1: this was made for another ballot"):
        exchange.read_label_studio([{**tasks[0], "data": {}}], KEY)


@pytest.mark.parametrize("form", [1, 2])
def test_argilla_takes_the_ballot_and_gives_back_votes(form: int) -> None:
    records = json.loads(json.dumps(exchange.argilla_records(STUDY, KEY, "Bo")))
    slots = {slot["slot"]: slot for slot in KEY["voters"]["Bo"]}
    for record in records:
        value = side_of(KEY, slots[record["metadata"]["slot"]], "tie")
        done, draft = ({"user_id": who, "status": status} for who, status in (("u1", "submitted"), ("u2", "draft")))
        old = [{**one, "values": {"choice": {"value": value}}} for one in (done, draft)]
        new = {"choice": [{**one, "value": value} for one in (done, draft)]}
        record["responses"] = old if form == 1 else new
    cast = exchange.read_argilla(records, KEY)
    assert len(cast) == 174
    assert {(vote.voter, vote.said) for vote in cast} == {("u1", "tie")}
    assert exchange.argilla_settings(KEY)["questions"][0]["labels"] == list(CHOICES["vote"])
