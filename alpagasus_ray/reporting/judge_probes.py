"""What a judge said of its probes, as sections of its card: from the directories that asking has left."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from alpagasus_ray.evaluation import judge_sections
from alpagasus_ray.evaluation.estimates import Floats
from alpagasus_ray.evaluation.judge_sections import Planted, ProbeRound
from alpagasus_ray.reporting.judge_material import Lengths, Ratings, answered_by, length_of
from alpagasus_ray.store.run import Run, StageDir

REPEAT, PADDED, PLANTED, STORED = KINDS = ("repeat", "padded", "planted", "stored")
OF_SECTION = {"repeat": REPEAT, "length": PADDED, "planted_defects": PLANTED, "drift": STORED}
"""The kind of probes that each section of a card rests on, where it rests on some."""


PURPOSE = "purpose"
"""The setting that tells a judge's probes from its ratings."""


def times_asked(run: Run, judge: str, kind: str) -> list[str]:
    """The directories of a kind of probes, finished or not, the first one first: `repeat-001`, …."""
    names = run.judge(judge).storage.all_names()
    return sorted({name.split("/")[0] for name in names if name.startswith(f"{kind}-") and name.count("/") == 1})


def answered(run: Run, one: Ratings) -> dict[str, StageDir]:
    """What the judge was asked for its card and has answered in full, by directory: the last time of each kind, if the judge is
    still the one that rates; of the stored probes every time, whoever answered."""
    stages = {}
    for kind in KINDS:
        for name in times_asked(run, one.name, kind):
            stage = run.judge(one.name, name)
            made = stage.manifest()
            if made is not None and (kind == STORED or _without_purpose(made.settings) == one.manifest.settings):
                stages[name if kind == STORED else kind] = stage
    return stages


def _without_purpose(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != PURPOSE}


def cost(stage: StageDir) -> dict[str, Any]:
    """Rows that were asked about, and dollars; None where nobody knows a price."""
    manifest = stage.finished()
    return {"rows": manifest.rows, "cost_usd": manifest.usage.get("cost_usd")}


def sections(run: Run, one: Ratings, lengths: Lengths, cut: float) -> dict[str, Any]:
    """The sections of a card that rest on probes, and that on length, which rests on them in part."""
    stages, words = answered(run, one), lengths.of(one.ids)
    of_row = one.of_row
    scores = {name: _scores(stage) for name, stage in stages.items() if name in (REPEAT, PADDED, PLANTED)}
    found: dict[str, Any] = {"length": judge_sections.length(one.scores, words)}
    if (again := scores.get(REPEAT)) is not None:
        first = [of_row.get(row, np.nan) for row in again]
        found["repeat"] = judge_sections.repeat(first, list(again.values()), cut, int((one.scores >= cut).sum()))
    if (padded := scores.get(PADDED)) is not None:
        plain = [of_row.get(row.rpartition("~")[0], np.nan) for row in padded]
        found["length"] = judge_sections.length(one.scores, words, plain, list(padded.values()))
    if (planted := scores.get(PLANTED)) is not None:
        texts = _outputs(run.probes(one.name, PLANTED), lengths.unit)
        found["planted_defects"] = judge_sections.planted_defects(list(_planted(planted, of_row, lengths, texts)), cut)
    later = [_round(stage) for name, stage in stages.items() if name.startswith(STORED)]
    if later:
        first_round, order = _first_round(run.probes(one.name, STORED))
        found["drift"] = judge_sections.drift([first_round, *(_in_order(one, order) for one in later)])
    return found


def _table(stage: StageDir) -> pa.Table:
    return pa.concat_tables(stage.tables(stage.finished()))


def _numbers(column: pa.ChunkedArray) -> list[float]:
    return [np.nan if value is None else float(value) for value in column.to_pylist()]


def _scores(stage: StageDir) -> dict[str, float]:
    table = _table(stage)
    return dict(zip(table["example_id"].to_pylist(), _numbers(table["score"]), strict=True))


def _outputs(stage: StageDir, unit: str) -> dict[str, float]:
    """The length of each probe's output."""
    table = _table(stage)
    return {
        row: length_of(text, unit)
        for row, text in zip(*(table[name].to_pylist() for name in ("example_id", "output")), strict=True)
    }


def _planted(
    scores: Mapping[str, float], of_row: Mapping[str, float], lengths: Lengths, texts: Mapping[str, float]
) -> Iterator[Planted]:
    for name, score in scores.items():
        row, _, kind = name.rpartition("~")
        yield Planted(kind, of_row.get(row, np.nan), score, lengths.of_row.get(row, np.nan), texts[name])


def _round(stage: StageDir) -> tuple[ProbeRound, list[str]]:
    """The stored probes as they were answered at one time, with their ids."""
    table, details = _table(stage), stage.finished().details
    asked = ProbeRound(details["asked_at"], *answered_by(table), _numbers(table["score"]))
    return asked, table["example_id"].to_pylist()


def _first_round(stage: StageDir) -> tuple[ProbeRound, list[str]]:
    """The stored probes as the judge rated them among all rows, before there was a card."""
    table, details = _table(stage), stage.finished().details
    asked = ProbeRound("the ratings", details["model"], details["fingerprint"], _numbers(table["first_score"]))
    return asked, table["example_id"].to_pylist()


def _in_order(one: tuple[ProbeRound, list[str]], ids: list[str]) -> ProbeRound:
    asked, own = one
    of_row: dict[str, float] = dict(zip(own, np.asarray(asked.scores, dtype=np.float64).tolist(), strict=True))
    scores: Floats = np.array([of_row[row] for row in ids])
    return asked._replace(scores=scores)
