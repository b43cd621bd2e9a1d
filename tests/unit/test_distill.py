"""A distilled judge: how good it is on real ratings, and that equal ratings make equal files."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from alpaca_rows import alpaca_table, judge_scores
from hypothesis import given
from hypothesis import strategies as st

from alpagasus_ray.distill import features, fit_report, student
from alpagasus_ray.distill.student import Labels, Student
from alpagasus_ray.errors import UsageError
from alpagasus_ray.judging.rubric import Scale

WHOLE = Scale(step=1.0)


def _made(count: int, seed: int = 0) -> tuple[pa.Table, pa.Table]:
    """Examples of made words, and ratings that follow a few of the words and hardly the length."""
    rng = np.random.default_rng(seed)
    texts = [[f"w{word}" for word in rng.zipf(1.5, rng.integers(5, 40)) % 500] for _ in range(count)]
    ids = [f"made:{row:05d}" for row in range(count)]
    scores = [float(np.clip(2 + 2 * ("w3" in text) - ("w5" in text) + rng.normal(0, 0.5), 0, 5)) for text in texts]
    examples = pa.table(
        {
            "example_id": ids,
            "instruction": [" ".join(text[:3]) for text in texts],
            "input": [""] * count,
            "output": [" ".join(text[3:]) for text in texts],
            "category": [("odd", "even")[row % 2] for row in range(count)],
        }
    )
    return examples, pa.table({"example_id": ids, "score": scores})


def _fitted(count: int = 400) -> tuple[Student, Labels]:
    labels = student.labels(*_made(count))
    return student.fit(labels, WHOLE)[0], labels


def test_a_thousand_labels_find_the_judges_choice_better_than_length_or_small_models(shared: Path) -> None:
    """Five seeds on gpt-4o-mini's scores of Alpaca; measured: AUC .826, precision .507 (longest .398, two 8B judges .339)."""
    scores = judge_scores(shared)
    every = student.of_table(alpaca_table(shared), scores)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(scores))
        linear = student.fit_linear(every.rows(order[:1000]))
        rest = order[1000:]
        seen = fit_report.Seen(scores, scores >= 3, every.length).rows(rest)
        measured = fit_report.measures(linear.of_labels(every)[rest], seen)
        by_length = fit_report.measures(seen.length, seen)
        assert measured["auc"] >= 0.81
        assert measured["precision"] >= 0.48
        assert measured["precision"] >= by_length["precision"] + 0.08


def test_equal_ratings_make_equal_files_in_any_order_of_reading(tmp_path: Path) -> None:
    examples, ratings = _made(400)
    order = np.random.default_rng(1).permutation(400)
    files = [tmp_path / "first.npz", tmp_path / "second.npz"]
    for file, (some, rated) in zip(
        files, ((examples, ratings), (examples.take(order), ratings.take(order[::-1]))), strict=True
    ):
        student.save(student.fit(student.labels(some, rated), WHOLE)[0], str(file))
    assert files[0].read_bytes() == files[1].read_bytes()


OTHER_PROCESSOR = """
import hashlib, sys
from test_distill import _fitted
from alpagasus_ray.distill import student
student.save(_fitted()[0], sys.argv[1])
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())
"""


def test_another_processors_linear_algebra_makes_the_same_file(tmp_path: Path) -> None:
    student.save(_fitted()[0], str(tmp_path / "own.npz"))
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent / "support"), str(here.parent), str(here.parent.parent)])
    env = os.environ | {"OPENBLAS_CORETYPE": "Prescott", "PYTHONHASHSEED": "77", "PYTHONPATH": path}
    command = [sys.executable, "-c", OTHER_PROCESSOR, str(tmp_path / "other.npz")]
    printed = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == hashlib.sha256((tmp_path / "own.npz").read_bytes()).hexdigest()


def test_a_student_that_was_saved_scores_as_before(tmp_path: Path) -> None:
    fitted, _ = _fitted()
    student.save(fitted, str(tmp_path / "model.npz"))
    examples, _ = _made(100, seed=5)
    for first, second in zip(
        fitted.score_table(examples), student.load(str(tmp_path / "model.npz")).score_table(examples), strict=True
    ):
        assert first.tolist() == second.tolist()


def test_a_student_of_other_features_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student.save(_fitted()[0], str(tmp_path / "model.npz"))
    monkeypatch.setattr(features, "VERSION", features.VERSION + 1)
    with pytest.raises(UsageError, match="distil again"):
        student.load(str(tmp_path / "model.npz"))


def test_scores_do_not_depend_on_how_rows_are_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, _ = _fitted()
    examples, _ = _made(60, seed=5)
    together = fitted.score_table(examples)[1].tolist()
    apart = [fitted.score_table(examples.slice(row, 1))[1][0] for row in range(60)]
    assert together == apart
    assert fitted.score_table(examples.slice(0, 0))[1].tolist() == []


def test_rows_and_matrix_give_the_same_values() -> None:
    fitted, labels = _fitted()
    examples, _ = _made(400)
    by_id = dict(zip(examples["example_id"].to_pylist(), fitted.score_table(examples)[1], strict=True))
    values = np.clip(fitted.offset + fitted.slope * fitted.linear.of_labels(labels), 0, 5)
    assert np.allclose(values, [by_id[example_id] for example_id in labels.ids], atol=1e-9)


@given(st.floats(0, 5), st.sampled_from([0.5, 1.0, 2.0, None]))
def test_a_score_is_the_nearest_that_the_scale_has(expected: float, step: float | None) -> None:
    scale = Scale(step=step)
    score = float(student.on_steps(np.array([expected]), scale)[0])
    assert scale.holds(score)
    assert abs(score - expected) <= (step or 0) / 2 + 1e-9 or score + (step or 0) > 5


def test_ratings_may_cover_a_part_and_what_has_no_score_is_no_label() -> None:
    examples, ratings = _made(300)
    scores: list[Any] = ratings["score"].to_pylist()
    scores[:10] = [None] * 10
    some = pa.table({"example_id": ratings["example_id"], "score": pa.array(scores, pa.float64())}).slice(0, 100)
    labels = student.labels(examples, some)
    assert sorted(labels.ids) == [f"made:{row:05d}" for row in range(10, 100)]


def test_too_few_labels_are_refused_with_the_way_out() -> None:
    examples, ratings = _made(300)
    with pytest.raises(UsageError, match=r"only 20 .*distill\.labels"):
        student.labels(examples, ratings.slice(0, 20))


def test_an_expected_score_of_the_judge_takes_the_place_of_the_score() -> None:
    examples, ratings = _made(100)
    expected = pa.array([None, *(value + 0.25 for value in ratings["score"].to_pylist()[1:])], pa.float64())
    labels = student.labels(examples, ratings.append_column("expected_score", expected))
    by_id = dict(zip(labels.ids, labels.scores, strict=True))
    assert by_id["made:00000"] == ratings["score"][0].as_py()
    assert by_id["made:00007"] == ratings["score"][7].as_py() + 0.25


def test_a_report_sets_a_student_beside_length_and_within_equal_length() -> None:
    labels = student.labels(*_made(900))
    _, expected = student.fit(labels, WHOLE)
    report = fit_report.fit_report(labels, expected, cut=3.0)
    assert report["student"]["auc"] > report["length"]["auc"] + 0.1
    assert report["given_length"]["student"]["auc"] > 0.7
    assert [entry["labels"] for entry in report["learning_curve"]] == [250, 500, 720]
    lines = fit_report.in_words(report)
    assert lines[0].startswith("900 labels")
    assert any(line.startswith("with 500 labels") for line in lines)
    assert {entry["category"] for entry in report["categories"]} == {"odd", "even"}
    assert all(abs(group["expected"] - group["score"]) < 0.35 for group in report["calibration"])


def test_a_student_that_knows_only_length_has_nothing_within_equal_length() -> None:
    rng = np.random.default_rng(0)
    length = rng.integers(1, 200, 5000).astype(np.float64)
    scores = length / 40 + rng.normal(0, 0.5, 5000)
    seen = fit_report.Seen(scores, scores >= 4, length)
    by_length = fit_report.within_length(length // 20, seen)
    assert fit_report.measures(length, seen)["auc"] > 0.9
    assert by_length["student"]["auc"] < 0.7


def test_where_the_judge_keeps_nothing_no_number_pretends_to_be_one() -> None:
    seen = fit_report.Seen(np.ones(50), np.zeros(50, dtype=bool), np.arange(50.0))
    assert fit_report.measures(np.arange(50.0), seen) == {"auc": None, "precision": None, "rank_correlation": None}
    assert fit_report.by_category(np.arange(50.0), seen, ["a"] * 50)[0]["student"] is None


def test_a_gain_that_no_fold_knows_is_none_in_the_file_and_unknown_in_words() -> None:
    labels = student.labels(*_made(400))
    report = fit_report.fit_report(labels, np.arange(400.0), cut=99.0)
    assert "NaN" not in json.dumps(report, allow_nan=False)
    assert report["learning_curve"][1]["gain"] is None
    assert any("added brought is unknown" in line for line in fit_report.in_words(report))
