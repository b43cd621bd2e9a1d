"""How sure scores of benchmarks are: intervals that cover, tests that do not cry wolf, the smallest difference shown."""

import numpy as np
import pytest
from scipy.stats import binomtest

from alpagasus_ray.evaluation import benchmark_scores
from alpagasus_ray.evaluation.benchmark_scores import paired, score, smallest


def named(values: np.ndarray) -> dict[str, float]:
    return {f"{n:05d}": float(value) for n, value in enumerate(values)}


def test_rights_and_wrongs_have_the_exact_interval() -> None:
    found = score([1.0] * 82 + [0.0] * 82)
    ends = binomtest(82, 164).proportion_ci(method="exact")
    assert (found["value"], found["n"]) == (0.5, 164)
    assert (found["low"], found["high"]) == pytest.approx((ends.low, ends.high), abs=1e-6)


def test_questions_that_share_a_passage_make_the_interval_wider() -> None:
    rng = np.random.default_rng(0)
    passages = rng.uniform(size=60)
    scores = [float(rng.uniform() < chance) for chance in passages for _ in range(10)]
    clusters = [f"p{n}" for n in range(60) for _ in range(10)]
    alone, together = score(scores), score(scores, clusters)
    assert alone["value"] == pytest.approx(together["value"])
    width = [one["high"] - one["low"] for one in (alone, together)]  # type: ignore[operator]
    assert width[1] > 1.3 * width[0]


def test_intervals_over_clusters_cover_in_about_95_of_100_cases() -> None:
    rng, covered = np.random.default_rng(1), 0
    for _ in range(200):
        chances = np.clip(rng.normal(0.6, 0.2, size=50), 0, 1)
        scores = (rng.uniform(size=(50, 8)) < chances[:, None]).astype(float)
        found = score(scores.ravel().tolist(), np.repeat(np.arange(50), 8).tolist())
        covered += found["low"] <= 0.6 <= found["high"]  # type: ignore[operator]
    assert 0.89 <= covered / 200 <= 0.99


def test_mcnemar_is_the_exact_test_of_documents_that_one_model_alone_solves() -> None:
    ours, theirs = np.zeros(100), np.zeros(100)
    ours[:12] = 1
    theirs[9:14] = 1
    found = paired(named(ours), named(theirs))
    assert (found["first_only"], found["second_only"], found["documents"]) == (9, 2, 100)
    assert found["p"] == pytest.approx(binomtest(9, 11).pvalue, abs=1e-6)
    assert found["difference"]["value"] == pytest.approx(0.07)
    in_passages = paired(named(ours), named(theirs), {name: n // 4 for n, name in enumerate(named(ours))})
    assert in_passages["first_only"] == 9
    assert in_passages["p"] != found["p"], "documents of one passage are not so many witnesses"


def test_scores_that_are_no_rights_and_wrongs_have_the_p_value_of_their_interval() -> None:
    rng = np.random.default_rng(3)
    false_alarms = 0
    for _ in range(200):
        first, second = rng.uniform(size=(2, 120))
        found = paired(named(first), named(second))
        outside = found["difference"]["low"] > 0 or found["difference"]["high"] < 0
        assert (found["p"] < 0.05) == outside or 0.045 < found["p"] < 0.055
        false_alarms += found["p"] < 0.05
    assert false_alarms / 200 <= 0.09


def test_models_are_compared_on_the_documents_that_both_have() -> None:
    found = paired({"a": 1.0, "b": 0.0, "c": 1.0}, {"b": 1.0, "c": 1.0, "d": 0.0})
    assert found["documents"] == 2
    assert found["difference"]["value"] == -0.5
    assert paired({"a": 1.0}, {"b": 1.0})["difference"]["value"] is None


def test_equal_models_are_called_different_in_at_most_about_5_of_100_cases_and_the_smallest_difference_is_shown_in_80() -> None:
    rng = np.random.default_rng(2)
    size, least = 400, smallest(400, spread=np.sqrt(0.2))
    assert least is not None
    wrong = shown = 0
    for _ in range(200):
        disagree, coin = rng.uniform(size=size) < 0.2, rng.uniform(size=size)
        for gap in (0.0, least):
            # of the documents on which they differ, the first solves so many more that the scores lie `gap` apart
            first = np.where(disagree, coin < (1 + gap / 0.2) / 2, 0.0).astype(float)
            second = np.where(disagree, 1 - first, 0.0)
            ends = paired(named(first), named(second))["difference"]
            found = ends["low"] is not None and (ends["low"] > 0 or ends["high"] < 0)
            wrong += found and not gap
            shown += found and bool(gap)
    assert wrong / 200 <= 0.09
    assert 0.7 <= shown / 200 <= 0.9


def test_no_difference_smaller_than_one_document_is_promised() -> None:
    assert smallest(164, spread=0.0) == pytest.approx(1 / 164, abs=1e-6)
    assert smallest(1) is None
    assert benchmark_scores.smallest(164) == pytest.approx(0.1198, abs=1e-3)


def test_two_equal_columns_have_no_interval_that_looks_like_certainty() -> None:
    found = paired(named(np.ones(50)), named(np.ones(50)))
    assert found["difference"]["value"] == 0
    assert found["difference"]["low"] is None
