"""One rating of several judges: what each way does with a broken one, and what Dawid-Skene and smoothing learn about judges."""

import csv
from pathlib import Path

import numpy as np
import pytest

import made_judges as made
from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation.combine import BY, beside_held, combine, moved
from alpagasus_ray.evaluation.dawid_skene import codes_of, dawid_skene
from alpagasus_ray.evaluation.smooth_ratings import nearest, smooth

ROWS = 4_000
NAN = np.nan


@pytest.fixture(scope="module")
def recorded(shared: Path) -> list[np.ndarray]:
    with (shared / "ratings" / "alpaca52k_three_llm_scores.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    return list(np.array(rows, dtype=float)[:, 1:].T)


def _judges(seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    random = made.rng(seed)
    true = made.quality(random, ROWS)
    noise = {"good": 0.5, "fair": 0.9, "poor": 1.6}
    return true, {name: made.read(random, true, sigma) for name, sigma in noise.items()}


def test_each_way_does_what_its_name_says() -> None:
    ratings = {"a": [1, 5, NAN, NAN], "b": [2, NAN, 4, NAN], "c": [5, 4, NAN, NAN]}
    scores = {by: combine(ratings, by).score.tolist() for by in BY}
    assert scores["median"][:3] == [2, 4.5, 4]
    assert scores["mean"][:3] == [pytest.approx(8 / 3), 4.5, 4]
    assert scores["worst"][:3] == [1, 4, 4]
    assert all(np.isnan(one[3]) for one in scores.values())


def test_dawid_skene_finds_the_confusion_that_the_judges_were_made_with() -> None:
    random = np.random.default_rng(0)
    prior = np.array([0.2, 0.3, 0.3, 0.2])
    confusion = np.array(
        [
            [[0.9, 0.1, 0, 0], [0.05, 0.9, 0.05, 0], [0, 0.05, 0.9, 0.05], [0, 0, 0.1, 0.9]],
            [[0.7, 0.3, 0, 0], [0.2, 0.6, 0.2, 0], [0, 0.2, 0.6, 0.2], [0, 0, 0.3, 0.7]],
            [[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 1]],
        ]
    )
    true = random.choice(4, 20_000, p=prior)
    chance = random.random((3, len(true), 1))
    codes = (chance > confusion[:, true].cumsum(axis=2)[:, :, :3]).sum(axis=2).T
    fit = dawid_skene(codes, 4)
    assert np.abs(fit.prior - prior).max() < 0.03
    assert np.abs(fit.confusion - confusion).max() < 0.05
    assert (fit.medians() == true).mean() > (codes[:, 0] == true).mean()


def test_dawid_skene_is_nearer_the_truth_than_the_best_judge_and_says_who_that_is() -> None:
    true, ratings = _judges()
    combined = combine(ratings, "dawid-skene")
    error = {name: np.abs(scores - true).mean() for name, scores in {**ratings, "all": combined.score}.items()}
    assert min(error, key=lambda name: error[name]) == "all"
    right = {name: one["right"] for name, one in combined.judges["judges"].items()}
    assert right["good"] > right["fair"] > right["poor"]
    assert np.abs(combined.expected - true).mean() < 0.5


def test_a_rating_that_is_missing_says_nothing() -> None:
    true, ratings = _judges()
    gaps = {name: np.where(made.rng(9).random(ROWS) < 0.2, NAN, scores) for name, scores in ratings.items()}
    combined = combine(gaps, "dawid-skene")
    nobody = np.all([np.isnan(scores) for scores in gaps.values()], axis=0)
    assert (np.isnan(combined.score) == nobody).all()
    assert np.abs(combined.score - true)[~nobody].mean() < 0.6


def _slips(random: np.random.Generator, true: np.ndarray, share: float) -> np.ndarray:
    """A judge that is a point off on a share of the rows."""
    off = random.choice([-1, 0, 1], len(true), p=[share / 2, 1 - share, share / 2])
    return np.clip(true + off, 0, 5)


def test_one_of_three_judges_as_noise_moves_what_the_median_chooses_by_less_than_5_percent(
    recorded: list[np.ndarray],
) -> None:
    """Of judges that agree where it counts. The recorded three, with an alpha of .136, do not: there it is a third."""
    random = made.rng(5)
    judges = {name: _slips(random, recorded[0], 0.03) for name in "abc"}
    noise = random.choice(made.SCALE, len(recorded[0]))
    share = {by: moved(combine(judges, by).score, combine({**judges, "c": noise}, by).score, 3.0) for by in BY}
    assert share["median"] < 0.05
    assert min(share["mean"], share["worst"]) > 0.2
    assert share["dawid-skene"] < 0.08


def test_noise_among_the_recorded_judges_moves_the_median_less_than_the_mean(recorded: list[np.ndarray]) -> None:
    judges = dict(zip("abc", recorded, strict=True))
    noisy = {**judges, "c": made.rng(0).choice(recorded[2], len(recorded[2]))}
    share = {by: moved(combine(judges, by).score, combine(noisy, by).score, 3.0) for by in ("median", "mean")}
    assert share["median"] < share["mean"]


def test_wrong_input_is_refused() -> None:
    with pytest.raises(UsageError, match="two judges or more"):
        combine({"a": [1, 2]})
    with pytest.raises(UsageError, match="the same rows"):
        combine({"a": [1, 2], "b": [1]})
    with pytest.raises(UsageError, match="median, mean, dawid-skene, worst"):
        combine({"a": [1], "b": [1]}, "best")
    with pytest.raises(UsageError, match="not on the scale"):
        codes_of(np.array([1.0, 2.5]), np.arange(6.0))
    with pytest.raises(UsageError, match="k of 2 or more"):
        smooth(np.array([1.0]), np.zeros((1, 1), dtype=np.int64))


def _clusters(seed: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in clusters of 20 that deserve one score, a judge that reads it with noise, and vectors that lie together."""
    random = made.rng(seed)
    centres = random.normal(size=(40, 8))
    cluster = np.repeat(np.arange(40), 20)
    true = made.quality(random, 40)[cluster]
    return true, made.read(random, true, noise), centres[cluster] + random.normal(0, 0.1, (800, 8))


def test_smoothing_brings_a_weak_judge_nearer_the_truth_and_finds_its_transitions() -> None:
    true, given, vectors = _clusters(0, noise=1.0)
    result = smooth(given, *nearest(vectors))
    assert (result.score == true).mean() > (given == true).mean() + 0.1
    real = np.array([[((true == k) & (given == j)).mean() for j in range(6)] for k in range(6)])
    shares = np.array([(true == k).mean() for k in range(6)])
    assert np.abs(shares[:, None] * result.transition - real).max() < 0.05
    assert (result.score[~result.changed] == given[~result.changed]).all()


def test_smoothing_leaves_a_judge_alone_that_its_neighbours_do_not_contradict() -> None:
    true, _, vectors = _clusters(1, noise=1.0)
    assert smooth(true, *nearest(vectors)).changed.mean() < 0.01
    same = np.full(len(true), 3.0)
    assert not smooth(same, *nearest(vectors)).changed.any()


def test_rows_without_a_rating_stay_without_when_smoothed() -> None:
    _, given, vectors = _clusters(2, noise=1.0)
    given[::7] = NAN
    result = smooth(given, *nearest(vectors))
    assert (np.isnan(result.score) == np.isnan(given)).all()
    assert not result.changed[::7].any()


def test_the_gain_of_smoothing_is_told_with_length_taken_out() -> None:
    random = made.rng(3)
    long = made.words(random, 2_000)
    held, raw = np.log(long) + random.normal(0, 0.3, 2_000), np.log(long) + random.normal(0, 1, 2_000)
    told = beside_held(raw, np.log(long) + random.normal(0, 0.1, 2_000), held, long)
    assert told["smoothed"]["value"] > told["raw"]["value"] + 0.2
    assert abs(told["smoothed_given_length"]["value"]) < 0.1
