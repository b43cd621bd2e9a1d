"""Runs for reports, without an engine: stages written as their jobs leave them, from what a test says came out."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alpagasus_ray.config import digest
from alpagasus_ray.data.schema import ANSWERS, CURVE, RATINGS, VERDICTS
from alpagasus_ray.judging.pairs import both_orders, lengths, write_pairs
from alpagasus_ray.judging.parse_verdict import STATUSES
from alpagasus_ray.reporting.training_data import MEASURES
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir, describe, shard_name
from toy_runs import ids

Outcomes = Sequence[tuple[str | None, str | None]]
"""Of each prompt the winner when a's answer stood first, and when b's did; None without a verdict."""
WIN, TIE, LOSE, NONE = ("a", "a"), ("a", "b"), ("b", "b"), (None, None)


def rate(
    run: Run,
    scores: Sequence[float | None],
    replies: Sequence[str] | None = None,
    name: str = "judge",
    scale: tuple[float, float] | None = None,
) -> None:
    """Ratings of all examples of the run, in order; without a `scale` they are on that of the shipped rubrics."""
    blank = dict.fromkeys(RATINGS.names)
    rows = [
        {
            **blank,
            "example_id": example_id,
            "request_hash": "toy",
            "status": "failed" if score is None else "scored",
            "score": score,
            "reply": None if score is None else (replies[row] if replies else f"{score:g}\nToy."),
            "attempts": 1,
            "maybe_billed_twice": 0,
            "error": "toy: no answer" if score is None else None,
        }
        for row, (example_id, score) in enumerate(zip(ids(run), scores, strict=True))
    ]
    on = {"scale": {"min": scale[0], "max": scale[1], "step": None}} if scale else {}
    begun = Begun(
        settings={"judge": {"kind": "rules"}, "rubric": {"dimension": "accuracy", "prompt": "toy", **on}},
        inputs={"examples": run.examples().finished().content_hash()},
        seconds=2.0,
    )
    stage = run.ratings(name)
    written = stage.storage.write_table(shard_name(0), pa.Table.from_pylist(rows, schema=RATINGS))
    entry = describe(shard_name(0), written, rows)
    details = {"histogram": {key: entry.histogram[key] for key in sorted(entry.histogram, key=float)}}
    stage.finish(stage.build(begun, [entry], ("scored", "failed"), details=details))


def train(run: Run, arm: str, losses: Sequence[float] = (3.0, 2.0, 1.5), **details: Any) -> None:
    """A model of an arm; `details` say what its training took, and nothing else is known."""
    stage, subset = run.model(arm), run.subset(arm).manifest()
    blank = {field.name: 1 for field in CURVE}
    rows = [{**blank, "step": step, "epoch": step / 10, "loss": loss} for step, loss in enumerate(losses, 1)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=CURVE), sink)
    written = stage.storage.write("curve.parquet", sink.getvalue())
    inputs = {f"subsets/{arm}": subset.content_hash()} if subset else {}
    told = {**dict.fromkeys(MEASURES), "model": "toy-7b", "steps": len(losses), "workers": 1, "device": "CPU"}
    told["loss"] = {"first": losses[0], "last_tenth": losses[-1]}
    rows_of_arm = subset.rows if subset else 0
    details = {**told, "examples": rows_of_arm, "tokens": 10 * rows_of_arm, **details}
    files = [FileEntry(name="curve.parquet", rows=len(rows), **written._asdict())]
    finish(stage, inputs, files, rows_of_arm, details)


def answer(
    run: Run, model: str, test_set: str, replies: Sequence[tuple[str | None, str | None]], arm: str | None = None
) -> None:
    """A model's answers: a reply and a reference for each prompt."""
    blank = dict.fromkeys(ANSWERS.names)
    rows = [
        {
            **blank,
            **prompt(test_set, number),
            "source": "toy#1",
            "request_hash": "toy",
            "status": "failed" if reply is None else "answered",
            "reply": reply,
            "reference": reference,
            "attempts": 1,
            "maybe_billed_twice": 0,
        }
        for number, (reply, reference) in enumerate(replies)
    ]
    stage = run.answers(model, test_set)
    written = stage.storage.write_table(shard_name(0), pa.Table.from_pylist(rows, schema=ANSWERS))
    trained = run.model(arm).manifest() if arm else None
    inputs = {f"models/{arm}": trained.content_hash()} if trained else {}
    finish(stage, inputs, [describe(shard_name(0), written, rows)], len(rows), {"reasons": {}, "mean_answer_words": 3.0})


def prompt(test_set: str, number: int, skills: Sequence[str] = ("math", "writing", "coding", "facts")) -> dict[str, Any]:
    skill = skills[number % len(skills)]
    said = {"instruction": f"Question {number} about {skill}?", "input": "", "category": f"all {skill}", "skill": skill}
    return {"prompt_id": f"{test_set}-{number}", "test_set": test_set, "difficulty": None, "reference": None, **said}


def judge(
    run: Run,
    pair: tuple[str, str],
    outcomes: Outcomes,
    name: str | None = None,
    prompts: Sequence[Mapping[str, Any]] = (),
    label: str | None = None,
) -> None:
    """The games of two models on the test set `toys`; a judge's `name` is its `compare.name`, its `label` the model."""
    a, b = pair
    asked = prompts or [prompt("toys", number) for number in range(len(outcomes))]
    games = [game for one in asked for game in both_orders(one, f"{a} says {one['prompt_id']}", f"{b} says it too")]
    pairs, stage = run.pairs(a, b, "toys"), run.verdicts(name, f"{a}-vs-{b}", "toys")
    if pairs.manifest() is None:
        write_pairs(pairs, Begun(settings={"pair": [a, b]}, inputs={}), games)
    winners = [winner for both in outcomes for winner in both]
    rows = [_verdict(game, winner) for game, winner in zip(games, winners, strict=True)]
    written = stage.storage.write_table(shard_name(0), pa.Table.from_pylist(rows, schema=VERDICTS))
    inputs = {pairs.name: pairs.finished().content_hash()}
    label = label or (f"judge {name}" if name else "toy judge")
    begun = Begun(settings={"judge": {"kind": "api", "model": label}}, inputs=inputs, seconds=1.5)
    details = {"a": a, "b": b, "test_set": "toys", "judge": label}
    stage.finish(stage.build(begun, [describe(shard_name(0), written, rows)], STATUSES, details=details))


def _verdict(game: Mapping[str, Any], winner: str | None) -> dict[str, Any]:
    """Both answers have their lengths, and the winner 8 points to 6."""
    scores = {"a": (8.0, 6.0), "b": (6.0, 8.0), "tie": (7.0, 7.0)}.get(winner or "", (None, None))
    return {
        **dict.fromkeys(VERDICTS.names),
        **{name: game[name] for name in ("prompt_id", "test_set", "category", "skill", "difficulty", "order")},
        "request_hash": "toy",
        "status": "judged" if winner else "unparsed",
        "winner": winner,
        "score_a": scores[0],
        "score_b": scores[1],
        **lengths(game),
        "reply": f"The reply of order {game['order']}: {winner}",
        "attempts": 1,
        "maybe_billed_twice": 0,
        "error": None if winner else "no verdict in it",
    }


def finish(
    stage: StageDir, inputs: Mapping[str, str], files: Sequence[FileEntry], rows: int, details: Mapping[str, Any]
) -> Manifest:
    """A finished stage of toys."""
    manifest = Manifest(
        stage=stage.name,
        settings={},
        settings_hash=digest({}),
        inputs=dict(inputs),
        files=list(files),
        rows=rows,
        counts={"answered": rows},
        seconds=60.0,
        versions={"alpagasus-ray": "toy"},
        details=dict(details),
    )
    stage.finish(manifest)
    return manifest
