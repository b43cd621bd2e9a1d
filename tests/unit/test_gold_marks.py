"""Marks that are taken to be right: what a file may say is a closed set."""

from typing import Any

import pytest

from alpagasus_ray.errors import InputError
from alpagasus_ray.judging.gold_marks import GoldMark, gold_marks
from alpagasus_ray.judging.rubric import Scale

PAGE = {"example_id": "toys:1", "score": "4.5", "judged": "2", "mark": "wrong rating", "comment": "it is right"}


def read(*records: dict[str, Any], known: set[str] | None = None) -> list[GoldMark]:
    return gold_marks([(f"record {number}", one) for number, one in enumerate(records, 1)], "gold.csv", [Scale()], known)


def test_marks_of_the_page_and_ratings_of_people_are_read_alike() -> None:
    people = {"example_id": "toys:1", "voter": "ann", "score": 3.0}
    assert read(PAGE, people) == [GoldMark("toys:1", 4.5, "", "it is right", chosen=True), GoldMark("toys:1", 3.0, "ann")]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"score": "4.3"}, "what the example deserves, from 0 to 5"),
        ({"score": "nan"}, "what the example deserves"),
        ({"score": ""}, "what the example deserves"),
        ({"score": "6"}, "what the example deserves"),
        ({"example_id": " "}, "there is no `example_id`"),
        ({"mark": "right"}, "the mark is 'right'"),
        ({"rating": 3}, "no column is called rating"),
        ({"drawn": "by me"}, "`drawn` is 'by me'; write 'random' or 'near the cut'"),
        ({"out_of": "ten"}, "`out_of` is 'ten'"),
        ({"out_of": "4"}, "`score` is '4.5'; write what the example deserves, from 0 to 4"),
        ({"example_id": "toys:9"}, "the run has no example 'toys:9'"),
    ],
)
def test_what_is_no_mark_is_told_with_its_place(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=f"gold.csv, record 1: .*{told}"):
        read({**PAGE, **changed}, known={"toys:1"})


def test_two_marks_of_one_voter_on_one_example_are_told() -> None:
    with pytest.raises(InputError, match="'toys:1' is marked twice"):
        read(PAGE, {**PAGE, "score": "1"})


def test_a_mark_may_say_which_scale_it_is_on_and_has_to_where_there_are_several() -> None:
    of_ten = {"example_id": "toys:1", "score": 9, "out_of": 10}
    assert [mark.out_of for mark in read(of_ten, {"example_id": "toys:2", "score": 4})] == [10, 5]
    several = [Scale(), Scale(min=1, max=10)]
    assert gold_marks([("record 1", of_ten)], "gold.csv", several)[0].out_of == 10
    with pytest.raises(InputError, match=r"several scales \(0 to 5, 1 to 10\).*`out_of`"):
        gold_marks([("record 1", {"example_id": "toys:1", "score": 4})], "gold.csv", several)


def test_what_people_rated_because_it_is_near_the_cut_is_told_apart() -> None:
    near, drawn = ({"example_id": "toys:1", "score": 3, "voter": how, "drawn": how} for how in ("near the cut", "random"))
    assert [mark.near for mark in read(near, drawn)] == [True, False]
