"""Whether length won a comparison is seen in every script, and verdicts of earlier versions, which count words, say so."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from alpagasus_ray.config import Compare, PairJudge, Report
from alpagasus_ray.data.schema import VERDICTS
from alpagasus_ray.engines.base import Reply
from alpagasus_ray.evaluation.length_control import length_controlled
from alpagasus_ray.evaluation.statistics import summarize
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.inference.stage import Target
from alpagasus_ray.inference.tasks.pair import PairTask
from alpagasus_ray.judging import pair_rubric
from alpagasus_ray.judging.pairs import Bout, pair_up
from alpagasus_ray.reporting.verdicts import comparisons, matches
from alpagasus_ray.stages.compare import compare
from alpagasus_ray.stages.report import report
from alpagasus_ray.store.run import Begun, Run, describe, shard_name
from report_runs import answer

MODELS = ("one", "two")
PROMPTS = 120
NEW = ("length_a", "length_b")
CONFIG = Compare(pairs=(MODELS,), judge=PairJudge(model="toy", base_url="http://127.0.0.1:9/v1"))
WORK = PairTask(CONFIG.judge, pair_rubric.load("pairwise"))


def _compared(run: Run, test_set: str, sentence: str, without: tuple[str, ...] = ()) -> list[tuple[int, float]]:
    """Answers that repeat a sentence, of which the longer one is the likelier to win and nothing else counts; the first model's
    are mostly longer. By how many sentences, and the first model's points, for each prompt."""
    draw = np.random.default_rng(3)
    repeats = draw.integers([5, 1], [14, 10], (PROMPTS, 2))
    longer = repeats[:, 0] - repeats[:, 1]
    wins = draw.random(PROMPTS) < 1 / (1 + np.exp(-2.0 * np.tanh(longer / longer.std())))
    for side, model in enumerate(MODELS):
        answer(run, model, test_set, [(sentence * int(times), None) for times in repeats[:, side]])
    bout = Bout(*MODELS, test_set)
    listed, pairs, stage = pair_up(run, bout), run.pairs(*bout), run.verdicts(None, bout.pair, test_set)
    games = pairs.storage.read_table(shard_name(0)).to_pylist()
    rows = []
    for game, won in zip(games, np.repeat(wins, 2), strict=True):
        reply = "9 4" if won == (game["order"] == "ab") else "4 9"
        rows.append(WORK.result(game, WORK.request(game), Outcome(Reply(reply), None, 1, 1.0)))
    table = pa.Table.from_pylist(rows, schema=VERDICTS).drop_columns(list(without))
    begun = Begun(settings=WORK.settings, inputs={pairs.name: listed.content_hash()})
    file = describe(shard_name(0), stage.storage.write_table(shard_name(0), table), rows)
    stage.finish(WORK.manifest(Target.of(stage, pairs, listed), [file], begun))
    return list(zip(longer.tolist(), wins.astype(float).tolist(), strict=True))


def _summary(run: Run) -> dict[str, Any]:
    [comparison] = comparisons(run)
    return summarize(matches(run, comparison), "alpagasus", 100)


def _page(run: Run) -> str:
    report(Report(), run)
    return run.report().storage.read("index.html").decode()


def test_a_chinese_pair_won_by_the_longer_answers_is_at_parity_at_equal_length(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    drawn = _compared(run, "toys", "春天来了，花都开了。")
    summary = _summary(run)
    length, controlled = summary["length"], summary["length"]["length_controlled_win_rate"]
    assert (length["unit"], length["prompts"], controlled["why_not"]) == ("characters", PROMPTS, None)
    assert length["mean_length_a"] - length["mean_length_b"] == pytest.approx(10 * np.mean([longer for longer, _ in drawn]))
    assert summary["win_rate"]["low"] > 0.6
    assert length["longer_win_share"] > 0.7
    assert controlled["low"] < 0.5 < controlled["high"]
    assert abs(controlled["value"] - 0.5) < 0.12
    longer, points = (np.array(column, dtype=float) for column in zip(*drawn, strict=True))
    assert controlled["value"] == pytest.approx(length_controlled(longer, points).value, abs=1e-5), "as it is by sentences"
    page = _page(run)
    assert f"{length['mean_length_a']:.1f} characters" in page
    assert f"{length['mean_length_b']:.1f} characters" in page


def test_verdicts_of_an_earlier_version_are_told_in_words(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    drawn = _compared(run, "toys", "Spring is here. ", without=NEW)
    length = _summary(run)["length"]
    assert length["unit"] == "words"
    assert length["mean_length_a"] - length["mean_length_b"] == pytest.approx(3 * np.mean([longer for longer, _ in drawn]))
    assert length["length_controlled_win_rate"]["value"] is not None
    page = _page(run)
    assert f"{length['mean_length_a']:.1f} words" in page
    assert " characters</td>" not in page


def test_earlier_verdicts_beside_new_ones_are_all_told_in_words_until_they_are_read_again(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    _compared(run, "toys", "Spring is here. ", without=NEW)
    _compared(run, "more toys", "Spring is here. ")
    assert (_summary(run)["length"]["unit"], _summary(run)["length"]["prompts"]) == ("words", 2 * PROMPTS)
    compare(CONFIG.model_copy(update={"test_sets": ("toys",)}), run, "rescore")
    assert (_summary(run)["length"]["unit"], _summary(run)["length"]["prompts"]) == ("characters", 2 * PROMPTS)
