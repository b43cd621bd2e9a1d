"""What a judge is asked for its card: rows once more, the same with filler or planted defects, and stored probes.

Each kind is a directory `probes/<judge>/<kind>/` of rows, and one `judges/<judge>/<kind>-001/` of what the judge says of them,
filled by the same program as ratings, with ledger and cap. Requests have keys of their own, so that nothing stored answers
them. Each time that probes are asked is a directory, `stored-001`, `stored-002`, …; the rows stay the same.
"""

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from alpagasus_ray.config import Card, Score, digest
from alpagasus_ray.data.schema import EXAMPLES, conformed
from alpagasus_ray.engines import tokens
from alpagasus_ray.engines.base import Request
from alpagasus_ray.engines.identity import with_template
from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation.planted_defects import Row, pad, plant
from alpagasus_ray.inference.spec import AskSpec
from alpagasus_ray.inference.stage import InferenceStage, Target
from alpagasus_ray.inference.tasks.rating import RatingTask, check_model
from alpagasus_ray.judging import rubric
from alpagasus_ray.judging.reply_format import reply_form
from alpagasus_ray.reporting.judge_probes import PADDED, PLANTED, PURPOSE, REPEAT, STORED, times_asked
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir, differences, shard_name

POOL = 2_000
"""Rows, at most, that defects are planted into, and that an answer may be taken from."""
SHORTEST_REPLY = 2
"""Tokens of a reply that is a score and nothing else."""
FIRST_SCORE = "first_score"
"""Column of stored probes: what the judge said of the row when it rated the run."""
CHINESE = r"[一-鿿]"


@dataclass(frozen=True)
class ProbeTask(RatingTask):
    """Asking for a rating of a probe."""

    about: tuple[tuple[str, str], ...] = ()
    """What the manifest says besides."""

    def request(self, row: Mapping[str, Any]) -> Request:
        made = super().request(row)
        # rows may be asked once more (`repeat`) and stored besides: without keys of their own, one reply would serve both
        return made._replace(key=f"card:{STORED}:{made.key}" if FIRST_SCORE in row else f"card:{made.key}")

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, PURPOSE: "card"}

    def manifest(self, target: Target, files: list[FileEntry], begun: Begun) -> Manifest:
        made = super().manifest(target, files, begun)
        told = {**made.details, **dict(self.about), "asked_at": datetime.now(UTC).isoformat(timespec="seconds")}
        return made.model_copy(update={"details": told})


class Probes(NamedTuple):
    """A judge's probes: the rows of each kind that are to be asked about."""

    judge: str
    rows: Mapping[str, pa.Table]
    """By kind; rows of a kind that is laid out already are read from the run."""

    def target(self, run: Run, kind: str, directory: str) -> Target:
        source = run.probes(self.judge, kind)
        return Target.of(run.judge(self.judge, directory), source, source.finished())


def why_not(run: Run, name: str, score: Score) -> str | None:
    """Why the judge of these ratings cannot be asked; None where it can."""
    made = run.ratings(name).finished().settings
    if "combine" in made:
        return f"{name} is made of other ratings: there is nobody to ask; its parts have cards of their own"
    if made.get("judge", {}).get("kind") == "recorded":
        return "a recorded judge cannot be asked again"
    if score.name != name:
        return f"only the judge of `score` is asked, which is {score.name!r}: call again with that judge's `score` section"
    changed = differences(made, task_of(score).settings_of_ratings)
    if changed:
        return f"the judge of `score` is another than made ratings/{name}/ ({'; '.join(changed)})"
    return None


class AskedBy(NamedTuple):
    """A judge as it is asked, and how its ratings are known."""

    task: ProbeTask
    settings_of_ratings: dict[str, Any]


def task_of(score: Score) -> AskedBy:
    """How the judge of `score` is asked about probes: live, whatever its mode."""
    judge = with_template(score.judge).model_copy(update={"mode": "live"})
    criteria = rubric.load(judge.rubric)
    form = reply_form(judge, criteria)
    return AskedBy(ProbeTask(judge, criteria, form), RatingTask(judge, criteria, form).settings)


def lay_out(card: Card, run: Run, judge: str, scored: Mapping[str, float]) -> Probes:
    """The rows of the probes that the card wants: those that are stored in the run, others drawn from the rows that have a
    score. Nothing is written."""
    wanted = [*([REPEAT] if card.repeat else ()), *([PADDED, PLANTED, STORED] if card.probes else ())]
    made = {kind: _stored_rows(run.probes(judge, kind), _settings(card, kind)) for kind in wanted}
    sizes = {REPEAT: card.rows, PADDED: card.rows, PLANTED: max(POOL, 20 * card.per_kind), STORED: card.stored}
    missing = {kind: _drawn(card.seed, kind, scored, sizes[kind]) for kind in wanted if made[kind] is None}
    drawn = _examples(run, {row for ids in missing.values() for row in ids})
    for kind, ids in missing.items():
        made[kind] = _changed(card, kind, [drawn[row] for row in ids], scored)
    return Probes(judge, {kind: table for kind, table in made.items() if table is not None})


def write(probes: Probes, card: Card, run: Run, details: Mapping[str, Any]) -> None:
    """Store the rows that are not stored yet."""
    for kind, table in probes.rows.items():
        stage = run.probes(probes.judge, kind)
        if stage.manifest() is None:
            written = stage.storage.write_table(shard_name(0), table)
            entry = FileEntry(name=shard_name(0), rows=len(table), **written._asdict())
            stage.finish(stage.build(Begun(settings=_settings(card, kind), inputs={}), [entry], details=details))


def ask(card: Card, run: Run, score: Score, probes: Probes, *, again: bool) -> None:
    """Ask what is not asked yet, under one cap. Raises as every stage that asks: `BudgetReached`, `StageFailed`, ….

    The stored probes are asked once more where the judge's ratings are others than when it was last asked, or `again`."""
    check_model(score.judge)
    rated = run.ratings(probes.judge).finished().content_hash()
    asked = task_of(score).task
    task = replace(asked, about=(("ratings", rated),))
    spec = AskSpec.of(card, asked.judge)
    stage = InferenceStage("card", spec, task, run.judge(probes.judge), in_process=not asked.judge.in_job)
    targets = [probes.target(run, kind, directory) for kind, directory in directories(run, probes, task, rated, again=again)]
    if targets:
        scale = task.settings["rubric"]["scale"]
        stage.fill([replace(target, asked_scale=scale) for target in targets])


def directories(run: Run, probes: Probes, task: ProbeTask, rated: str, *, again: bool) -> Iterator[tuple[str, str]]:
    """The kinds of probes, and the directories of what this judge was and is to be asked about each. What another judge of the
    name has answered is none of its; the stored probes are asked anew where `rated`, the hash of its ratings, has changed."""
    for kind in probes.rows:
        before = times_asked(run, probes.judge, kind)
        mine = [name for name in before if _made_with(run.judge(probes.judge, name)) == task.settings]
        yield from ((kind, name) for name in mine)
        last = run.judge(probes.judge, mine[-1]).manifest() if mine else None
        is_used_since = kind == STORED and last is not None and (again or last.details.get("ratings") != rated)
        if not mine or is_used_since:
            yield kind, f"{kind}-{len(before) + 1:03d}"


def _made_with(stage: StageDir) -> dict[str, Any] | None:
    made = stage.manifest() or stage.begun()
    return None if made is None else made.settings


def price(card: Card, run: Run, score: Score, probes: Probes, *, again: bool) -> dict[str, Any]:
    """What asking what is not asked yet would cost: `asks` by kind, `requests`, `dollars` from least to most."""
    task = task_of(score).task
    spec, made = AskSpec.of(card, task.judge), run.ratings(probes.judge).manifest()
    rated = made.content_hash() if made else ""
    asks: dict[str, int] = {}
    low = high = 0.0
    unknown = task.judge.is_remote and spec.tariff.price is None
    counter = tokens.counter(task.judge) if task.judge.is_model else None
    for kind, directory in directories(run, probes, task, rated, again=again):
        if run.judge(probes.judge, directory).manifest() is not None:
            continue
        rows = probes.rows[kind].to_pylist()
        asks[kind] = asks.get(kind, 0) + len(rows)
        if counter is not None and task.judge.is_remote and not unknown:
            tokens_in = sum(counter.lengths([task.request(row).messages for row in rows]))
            longest = spec.tariff.max_tokens
            low += spec.tariff.dollars(tokens_in, SHORTEST_REPLY * len(rows)) or 0.0
            high += (spec.tariff.dollars(tokens_in, longest * len(rows)) or 0.0) if longest else float("inf")
    bounded = {"low": round(low, 6), "high": None if high == float("inf") else round(high, 6)}
    return {
        "judge": probes.judge,
        "asks": asks,
        "requests": sum(asks.values()) if task.judge.is_model else 0,
        "dollars": {"low": None, "high": None} if unknown else bounded,
        "max_cost_usd": card.max_cost_usd,
    }


def _settings(card: Card, kind: str) -> dict[str, Any]:
    """What the rows of a kind are known by; they stay when examples are added, so that nothing is asked about twice."""
    size = {REPEAT: card.rows, PADDED: card.rows, PLANTED: card.per_kind, STORED: card.stored}[kind]
    return {"probes": kind, "size": size, "seed": card.seed}


def _stored_rows(stage: StageDir, settings: Mapping[str, Any]) -> pa.Table | None:
    manifest = stage.made(settings, {})
    return None if manifest is None else pa.concat_tables(stage.tables(manifest))


def _drawn(seed: int, kind: str, scored: Mapping[str, float], size: int) -> list[str]:
    """So many rows at random, for each kind of probes others; the same ones for the same rows in any order."""

    def chance(row: str) -> bytes:
        return hashlib.sha256(f"card\0{kind}\0{seed}\0{row}".encode()).digest()

    return heapq.nsmallest(size, scored, key=chance)


def _examples(run: Run, ids: set[str]) -> dict[str, dict[str, Any]]:
    if not ids:
        return {}
    stage, wanted = run.examples(), pa.array(sorted(ids))
    tables = (conformed(table, EXAMPLES) for table in stage.tables(stage.finished()))
    rows = (row for table in tables for row in table.filter(pc.is_in(table["example_id"], wanted)).to_pylist())
    return {row["example_id"]: row for row in rows}


def _changed(card: Card, kind: str, rows: Sequence[dict[str, Any]], scored: Mapping[str, float]) -> pa.Table:
    """The rows of a kind of probes; stored ones with the score that the judge gave them at first."""
    if not rows:
        raise UsageError(
            f"card.{'repeat' if kind == REPEAT else 'probes'}: no row has a score that could be compared with another"
        )
    if kind == PADDED:
        rows = [_with(row, PADDED, pad(row["output"])) for row in rows]
    if kind == PLANTED:
        by_id = {row["example_id"]: row for row in rows}
        planted, _ = plant([_row(row) for row in rows], card.per_kind, card.seed)
        rows = [_with(by_id[one.row.example_id], one.kind, one.output) for one in planted]
    table = pa.Table.from_pylist(list(rows), schema=EXAMPLES)
    if kind == STORED:
        table = table.append_column(FIRST_SCORE, pa.array([scored.get(row["example_id"]) for row in rows], pa.float64()))
    return table


def _with(row: Mapping[str, Any], kind: str, output: str) -> dict[str, Any]:
    """A copy of an example with another output, under a name of its own: `<id>~<kind>`."""
    content = digest([row["content_hash"], kind, output])
    return {**row, "example_id": f"{row['example_id']}~{kind}", "output": output, "content_hash": content, "record": None}


def _row(row: Mapping[str, Any]) -> Row:
    """Chinese is told by its signs; other languages count as English, whose defects need no words of a language but for two."""
    text = row["output"]
    chinese = pc.sum(pc.count_substring_regex(pa.array([text]), CHINESE)).as_py() or 0
    language = "zh" if chinese > 0.2 * max(len(text), 1) else "en"
    return Row(row["example_id"], row["instruction"], row["input"], text, language)
