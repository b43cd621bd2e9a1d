"""The judge card finds what is wrong with judges made to be wrong, and its intervals hold the truth."""

import csv
import json
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

import made_judges as made
from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation import judge_agreement, judge_card, judge_sections
from alpagasus_ray.evaluation.agreement import Vote
from alpagasus_ray.evaluation.estimates import alpha, auc, kappa, proportion, rank_correlation
from alpagasus_ray.evaluation.judge_card import FIT, NEAR_CUT, NO, line, with_limits
from alpagasus_ray.evaluation.judge_sections import Asked, Planted, ProbeRound

CUT = 4.0
MOST_MISSED = 7
JUDGES = ("gpt-4o-mini", "llama-3.1-8b-instruct", "mistral-7b-v0.3-instruct")


def _repeat(random: np.random.Generator, rows: int) -> made.Figures:
    true = made.quality(random, rows)
    section = judge_sections.repeat(made.read(random, true), made.read(random, true), CUT)
    return {name: section[name] for name in ("exact_agreement", "alpha", "crossing", "flips_among_chosen")}


def _length(random: np.random.Generator, rows: int) -> made.Figures:
    long = made.words(random, rows)
    true = made.quality(random, rows)
    plain = made.read(random, true, bias=0.6 * (np.log2(long) - 5.8))
    padded = made.read(random, true, bias=0.6 * (np.log2(1.5 * long) - 5.8))
    section = judge_sections.length(plain, long, plain, padded)
    return {name: section[name] for name in ("spearman", "points_per_doubling", "padding")}


def _position(random: np.random.Generator, rows: int) -> made.Figures:
    section = judge_sections.position(made.games(random, rows, first=0.3))
    return {name: section[name] for name in ("consistency", "turned", "first_slot")}


def _planted(random: np.random.Generator, rows: int) -> list[Planted]:
    """A judge that takes two points for an empty answer and does not see a wrong number."""
    true = np.maximum(made.quality(random, rows), 2)
    original = made.read(random, true)
    empty, number = made.read(random, true, bias=-2.0), made.read(random, true)
    return [Planted("empty", *both) for both in zip(original, empty, strict=True)] + [
        Planted("wrong_number", *both) for both in zip(original, number, strict=True)
    ]


def _defects(random: np.random.Generator, rows: int) -> made.Figures:
    kinds = judge_sections.planted_defects(_planted(random, rows), CUT)["kinds"]
    return {f"{kind} {figure}": kinds[kind][figure] for kind in kinds for figure in ("auc", "detected")}


def _gold(random: np.random.Generator, rows: int) -> made.Figures:
    true = made.quality(random, rows)
    section = judge_agreement.gold(made.read(random, true), made.read(random, true, noise=0.5), CUT)
    return {"kappa": section["kappa"], "at_cut": section["at_cut"]["kappa"], "precision": section["at_cut"]["precision"]}


def _several(random: np.random.Generator, rows: int) -> made.Figures:
    true = made.quality(random, rows)
    noise = {"a": 0.6, "b": 0.8, "c": 3.0}
    section = judge_agreement.several({name: made.read(random, true, sigma) for name, sigma in noise.items()}, CUT)
    return {"alpha": section["alpha"], "kappa": section["pairs"][0]["kappa"], "gain": section["alpha_gained_without"]["c"]}


def _drift(random: np.random.Generator, rows: int) -> made.Figures:
    true = made.quality(random, rows)
    rounds = [
        ProbeRound(day, model, "", made.read(random, true, bias=bias))
        for day, model, bias in (("1 May", "old", 0.0), ("1 June", "new", 0.7))
    ]
    (since,) = judge_sections.drift(rounds)["since"]
    return {name: since[name] for name in ("mean_change", "exact_agreement")}


@pytest.mark.parametrize(
    ("section", "rows"),
    [(_repeat, 200), (_length, 200), (_position, 160), (_defects, 60), (_gold, 100), (_several, 200), (_drift, 50)],
)
def test_intervals_hold_the_truth_in_93_of_100_seeds(section: object, rows: int) -> None:
    # a right interval of 95 percent misses by chance 8 times or more of 100 once in eight figures: one figure alone may miss 10
    truth = made.true_values(section, 20_000 if section is _position else made.MANY)
    missed = made.uncovered(section, rows, truth)
    assert sum(missed.values()) <= MOST_MISSED * len(missed), missed
    assert max(missed.values()) <= 10, missed


@pytest.mark.parametrize("seed", range(5))
def test_alpha_kappa_and_auc_are_those_of_the_packages(seed: int) -> None:
    random = made.rng(seed)
    true = made.quality(random, 150)
    ratings = np.column_stack([made.read(random, true, noise) / 2 for noise in (0.5, 1, 2)])
    ratings[random.random(ratings.shape) < 0.1] = np.nan
    assert alpha(ratings)["value"] == pytest.approx(krippendorff.alpha(ratings.T, level_of_measurement="ordinal"), abs=1e-6)
    one, other = made.read(random, true), made.read(random, true)
    assert kappa(one, other)["value"] == pytest.approx(cohen_kappa_score(one, other), abs=1e-6)
    weighted = cohen_kappa_score(one, other, labels=range(6), weights="quadratic")
    assert kappa(one, other, quadratic=True)["value"] == pytest.approx(weighted, abs=1e-6)
    labels = np.repeat([1, 0], 150)
    assert auc(one, other - 1)["value"] == pytest.approx(roc_auc_score(labels, np.concatenate([one, other - 1])), abs=1e-6)


def test_the_card_finds_each_flaw_that_a_judge_was_made_with() -> None:
    random = made.rng(1)
    true, long = made.quality(random, 200), made.words(random, 200)
    noisy = judge_sections.repeat(made.read(random, true, 2.0), made.read(random, true, 2.0), CUT, chosen=9_000)
    assert noisy["crossing"]["low"] > 0.2
    assert noisy["expected_flips"]["value"] == pytest.approx(9_000 * noisy["flips_among_chosen"]["value"], abs=0.01)
    wordy = judge_sections.length(made.read(random, true, bias=np.log2(long) - 5.8), long)
    assert wordy["points_per_doubling"]["low"] > 0.5
    assert judge_sections.position(made.games(random, 160, first=0.4))["first_slot"]["low"] > 0.55
    defects = judge_sections.planted_defects(_planted(random, 60), CUT)
    assert judge_card.blind_to(defects) == ["wrong_number"]
    probes = [made.read(random, true[:50], bias=bias) for bias in (0, 0, 0, 1.0)]
    rounds = [ProbeRound(f"day {i}", "m", f"fp{i // 3}", scores) for i, scores in enumerate(probes)]
    drift = judge_sections.drift(rounds)
    assert [one["changed"] for one in drift["since"]] == [False, False, True]
    card = judge_card.judge_card({"name": "j"}, {"repeat": noisy, "planted_defects": defects, "drift": drift})
    assert card["verdict"]["verdict"] == NO
    assert "cross the cut" in line(card)
    assert "wrong_number" in " ".join(card["verdict"]["also"])
    assert "day 3, when m fp1 answered" in " ".join(card["verdict"]["also"])


def test_a_judge_that_repeats_itself_and_sees_defects_is_fit() -> None:
    random = made.rng(2)
    true = np.maximum(made.quality(random, 200), 2)
    scores = made.read(random, true, 0.3)
    seen = [Planted("empty", score, 0.0) for score in scores]
    sections = {
        "repeat": judge_sections.repeat(scores, scores, CUT),
        "planted_defects": judge_sections.planted_defects(seen, CUT),
        "gold": judge_agreement.gold(scores, true, CUT),
        "failures": judge_sections.failures([Asked("scored", cost_usd=0.001, latency_s=1.0)] * 200),
    }
    card = judge_card.judge_card({"name": "good"}, sections)
    assert card["verdict"]["verdict"] == FIT
    assert set(card["missing"]) == set(judge_card.WITHOUT) - set(sections)
    strict = judge_card.verdict("good", card, with_limits({"gold.at_cut.kappa": [0.999, 0.99]}))
    assert strict["verdict"] == NO
    assert "kappa with the given marks" in strict["why"][0]


def test_a_small_model_that_answers_half_and_guesses_is_no_judge() -> None:
    random = made.rng(3)
    guesses = random.choice(made.SCALE, (2, 100))
    sections = {
        "planted_defects": judge_sections.planted_defects([Planted("empty", *both) for both in guesses.T], CUT),
        "failures": judge_sections.failures([Asked("scored")] * 50 + [Asked("unparsed", "no number")] * 50),
    }
    outcome = judge_card.judge_card({"name": "tiny"}, sections)["verdict"]
    assert outcome["verdict"] == NO
    assert [words in " ".join(outcome["why"]) for words in ("AUC for planted defects", "without a rating")] == [True, True]


def test_without_evidence_that_it_is_right_no_judge_is_fit() -> None:
    scores = made.read(made.rng(4), made.quality(made.rng(4), 100))
    card = judge_card.judge_card({"name": "x"}, {"scale_use": judge_sections.scale_use(scores, CUT)})
    assert card["verdict"]["verdict"] == NEAR_CUT
    assert "neither people's marks nor planted defects" in line(card)
    few = judge_sections.planted_defects([Planted("empty", 5.0, 0.0)] * 9, CUT)
    assert judge_card.judge_card({"name": "x"}, {"planted_defects": few})["verdict"]["verdict"] == NEAR_CUT


def test_unknown_limits_and_sections_are_refused() -> None:
    with pytest.raises(UsageError, match="no graded figure"):
        with_limits({"repeat.alhpa": [0.9, 0.5]})
    with pytest.raises(UsageError, match="two different numbers"):
        with_limits({"repeat.alpha": [0.5, 0.9]})
    with pytest.raises(UsageError, match="no section colour"):
        judge_card.judge_card({}, {"colour": {}})


def test_nothing_to_compute_from_is_none_and_never_zero() -> None:
    none = np.full(3, np.nan)
    section = judge_sections.repeat(none, none, CUT)
    assert {section[name]["value"] for name in ("exact_agreement", "alpha", "crossing", "flips_among_chosen")} == {None}
    assert proportion(0, 0) == {"value": None, "low": None, "high": None, "n": 0}
    assert judge_sections.position([])["first_slot"]["value"] is None
    assert judge_sections.scale_use(none, CUT)["entropy_bits"]["value"] is None
    assert judge_sections.drift([])["changed"] is None
    assert judge_sections.failures([])["failed"]["value"] is None
    assert judge_agreement.several({"a": none, "b": none}, CUT)["alpha"]["value"] is None


def test_scale_use_counts_ties_at_the_cut_and_bits() -> None:
    section = judge_sections.scale_use([4.0] * 50 + [2.0] * 25 + [5.0] * 25, CUT)
    assert section["ties_at_cut"]["value"] == 0.5
    assert section["at_or_above_cut"]["value"] == 0.75
    assert section["entropy_bits"]["value"] == pytest.approx(1.5 + 2 / (200 * np.log(2)), abs=1e-6)
    assert [bar["value"] for bar in section["histogram"]] == [0.25, 0.5, 0.25]


def test_judge_and_people_are_told_raw_and_beyond_chance_together() -> None:
    votes = [Vote(f"i{i}", voter, "a" if (i * 7 + k) % 10 else "tie") for i in range(60) for k, voter in enumerate("xyz")]
    found = judge_agreement.voters({f"i{i}": "a" for i in range(60)}, votes)
    assert found["with_majority"]["agreement"]["value"] > 0.9
    assert abs(found["with_majority"]["kappa"]["value"] or 0) < 0.01
    assert found["calibration"][0]["a"]["value"] == pytest.approx(0.9, abs=0.02)
    rating = judge_agreement.raters(
        {i: i % 6 for i in range(60)},
        {name: {i: (i + k) % 6 for i in range(60)} for k, name in enumerate("xyz")},
        CUT,
        dict.fromkeys(range(60), 9),
    )
    assert rating["exact_agreement"]["n"] == rating["people_alpha"]["n"] == 60


@pytest.fixture(scope="module")
def recorded(shared: Path) -> dict[str, np.ndarray]:
    with (shared / "ratings" / "alpaca52k_three_llm_scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in JUDGES}


def test_the_three_recorded_judges_of_alpaca_agree_as_little_as_is_known(recorded: dict[str, np.ndarray]) -> None:
    section = judge_agreement.several(recorded, CUT)
    fifth = judge_agreement.several({name: scores[::5] for name, scores in recorded.items()}, CUT)
    assert round(fifth["alpha"]["value"], 3) == 0.136
    assert fifth["alpha"]["low"] < section["alpha"]["value"] < fifth["alpha"]["high"]
    assert all(0.185 <= pair["kappa"]["value"] < 0.215 for pair in section["pairs"])
    assert section["alpha"]["n"] == 52_002
    assert section["odd_one_out"] == "gpt-4o-mini"
    assert section["alpha"]["high"] - section["alpha"]["low"] < 0.02


@pytest.mark.parametrize("name", JUDGES)
def test_the_card_of_a_recorded_judge_says_what_it_has_no_material_for(recorded: dict[str, np.ndarray], name: str) -> None:
    sections = {
        "scale_use": judge_sections.scale_use(recorded[name], CUT),
        "several": judge_agreement.several(recorded, CUT),
    }
    card = judge_card.judge_card({"name": name}, sections, missing={"repeat": "a recorded judge cannot be asked again"})
    assert card["missing"]["repeat"] == "a recorded judge cannot be asked again"
    assert "card.probes" in card["missing"]["planted_defects"]
    assert card["verdict"]["verdict"] == NEAR_CUT
    assert ("odd one out" in line(card)) == (name == "gpt-4o-mini")
    assert json.loads(json.dumps(card)) == card


def test_recorded_scores_follow_length_as_is_known(recorded: dict[str, np.ndarray], alpaca: str) -> None:
    files = sorted(Path(alpaca).parent.glob("*.json"), key=lambda file: int(file.stem.split("-")[1]))
    words = [len(row["output"].split()) for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
    found = [round(rank_correlation(recorded[name], words)["value"], 3) for name in JUDGES]
    assert found == [0.498, 0.373, 0.325]
