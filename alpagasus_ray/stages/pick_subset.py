"""Choose the arms of the experiment by the ratings, and write each with every dropped row and its reason."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alpagasus_ray.config import Arm, Pick, identity
from alpagasus_ray.config.engines import traits_of
from alpagasus_ray.data import write_back
from alpagasus_ray.data.alpaca_json import write_alpaca_json
from alpagasus_ray.data.originals import TRIPLE
from alpagasus_ray.data.schema import DROPPED, EXAMPLES, SUBSET, conformed
from alpagasus_ray.engines.tokens import load_tokenizer
from alpagasus_ray.errors import StageFailed, UsageError
from alpagasus_ray.judging.rubric import Scale
from alpagasus_ray.reporting.charts import histogram_file
from alpagasus_ray.selection import existing_arms
from alpagasus_ray.selection.cuts import cut_problems
from alpagasus_ray.selection.duplicates import among_all, dropped_for_that, only
from alpagasus_ray.selection.existing_arms import Wanted
from alpagasus_ray.selection.policies import Choice, Columns, choose
from alpagasus_ray.selection.report import BYTES_PER_TOKEN, CountedBy, selection_report
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir, shard_name
from alpagasus_ray.store.storage import Storage, Written

ROWS_PER_FILE = 1000
SUBSET_JSON = "subset.json"

Integers = NDArray[np.int64]


class Loaded(NamedTuple):
    """All that the arms are chosen by and reported on."""

    columns: Columns
    status: list[str]
    tokens: Integers
    counted_by: CountedBy
    duplicate_of: list[str | None]
    """The earlier example that a row repeats, where it is to be dropped for that."""
    scores: tuple[str, ...]
    """The score columns that the ratings have."""


def pick_subset(config: Pick, run: Run) -> list[Manifest]:
    """Make `subsets/<arm>/` for every arm; those that are made already are left as they are."""
    examples = run.examples().finished("ingest")
    inputs = {"examples": examples.content_hash()}
    ratings: Manifest | None = None
    if any(arm.traits.by_score for arm in config.arms):
        ratings = run.ratings(config.ratings).finished("score")
        _check_same_examples(ratings, examples)
        inputs[f"ratings/{config.ratings}"] = ratings.content_hash()
        _check_cuts(config, ratings)
    wanted = {arm.name: Wanted(_settings(arm, config), inputs) for arm in config.arms}
    made = existing_arms.made(run, wanted)
    manifests = [manifest for manifest in made.values() if manifest]
    if len(manifests) == len(config.arms):
        return manifests
    loaded = _load(run, config, examples, ratings)
    _check_unscored(config, loaded, ratings)
    choices = _choices(config.arms, loaded)
    return [
        made[arm.name] or _write_arm(run, run.subset(arm.name), _settings(arm, config), inputs, loaded, choices[arm.name])
        for arm in config.arms
    ]


def _settings(arm: Arm, config: Pick) -> dict[str, Any]:
    leader = _leader(config.arms)
    copies = arm.k is None and arm.traits.copies_size and leader
    return (
        {"arm": identity(arm), "tokenizer": config.tokenizer, existing_arms.VERSION: existing_arms.PRESENT}
        | ({"size_of": identity(leader)} if copies and leader else {})
        | ({"duplicates": "keep"} if config.duplicates == "keep" else {})  # as it was before they could be dropped
    )


def _leader(arms: Iterable[Arm]) -> Arm | None:
    """The arm whose size the controls take."""
    return next((arm for arm in arms if arm.traits.leads), None)


def _check_cuts(config: Pick, ratings: Manifest) -> None:
    """Refuse thresholds that mean nothing on the scale of the ratings."""
    scale = ratings.settings.get("rubric", {}).get("scale")
    if scale is not None:
        steps = not traits_of(ratings.settings.get("judge", {}).get("kind")).is_recorded
        if problems := cut_problems(config.arms, Scale.model_validate(scale), steps=steps):
            raise UsageError("\n".join(problems))


def _check_same_examples(ratings: Manifest, examples: Manifest) -> None:
    if ratings.inputs["examples"] != examples.content_hash():
        raise UsageError(
            f"{ratings.stage}/ rates other examples than this run now holds (examples/ was made anew since); "
            "rate them again under another score.name"
        )


def _load(run: Run, config: Pick, examples: Manifest, ratings: Manifest | None) -> Loaded:
    count = _token_counter(config.tokenizer)
    ids: list[str] = []
    category: list[str] = []
    repeats: list[str | None] = []
    lengths, tokens = [], []
    measure = _length_measure(config.tokenizer)
    fields = ["example_id", "instruction", "input", "output", "category", "duplicate_of"]
    for table in run.examples().tables(examples, fields):
        ids += table["example_id"].to_pylist()
        repeats += table["duplicate_of"].to_pylist()
        category += pc.fill_null(table["category"], "").to_pylist()
        lengths.append(measure(table["output"]))
        tokens.append(count(table))
    score, expected, status = _scores(run, config, ratings, ids)
    columns = Columns(ids, score, expected, np.concatenate(lengths), category)
    how = CountedBy(
        config.tokenizer or f"estimate: {BYTES_PER_TOKEN} bytes of UTF-8 a token",
        "tokens" if config.tokenizer else "characters",
    )
    scores = () if ratings is None else ("score",) if np.isnan(expected).all() else write_back.SCORES
    repeats = [None] * len(ids) if config.duplicates == "keep" else repeats
    return Loaded(columns, status, np.concatenate(tokens), how, repeats, scores)


def _length_measure(tokenizer: str | None) -> Callable[[pa.ChunkedArray], Integers]:
    """A function that measures texts in tokens, or in characters where no tokenizer is named; blank-separated words would make
    every text without blanks one word long."""
    if tokenizer is None:
        return lambda texts: pc.utf8_length(pc.utf8_trim_whitespace(texts)).to_numpy().astype(np.int64)
    encode = load_tokenizer(tokenizer, "pick.tokenizer")

    def measure(texts: pa.ChunkedArray) -> Integers:
        found = encode(texts.to_pylist(), add_special_tokens=False)["input_ids"] if len(texts) else []
        return np.array([len(ids) for ids in found], dtype=np.int64)

    return measure


def _scores(
    run: Run, config: Pick, ratings: Manifest | None, ids: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Score, expected score and status of each id; joined by id, whatever the order of the ratings."""
    if ratings is None:
        nothing = np.full(len(ids), np.nan)
        return nothing, nothing, ["not rated"] * len(ids)
    fields = ["example_id", "score", "expected_score", "status"]
    table = pa.concat_tables(run.ratings(config.ratings).tables(ratings, fields))
    place = {example_id: row for row, example_id in enumerate(table["example_id"].to_pylist())}
    if len(place) != len(ids) or place.keys() != set(ids):
        raise StageFailed(f"{ratings.stage}: its example ids are not those of examples/")
    order = np.fromiter((place[example_id] for example_id in ids), dtype=np.int64, count=len(ids))
    score, expected = (
        np.asarray(pc.fill_null(table[field].cast(pa.float64()), np.nan).to_numpy(), dtype=np.float64)[order]
        for field in ("score", "expected_score")
    )
    return score, expected, pc.take(table["status"], pa.array(order)).to_pylist()


def _token_counter(tokenizer: str | None) -> Callable[[pa.Table], Integers]:
    """A function that counts the tokens of instruction, input and output together, of each row."""
    fields = ("instruction", "input", "output")
    if tokenizer is None:
        return lambda table: (
            -(-sum(pc.binary_length(table[field]).to_numpy().astype(np.int64) for field in fields) // BYTES_PER_TOKEN)
        )
    encode = load_tokenizer(tokenizer, "pick.tokenizer")

    def count(table: pa.Table) -> Integers:
        texts = ["\n".join(parts) for parts in zip(*(table[field].to_pylist() for field in fields), strict=True)]
        return np.array([len(ids) for ids in encode(texts)["input_ids"]], dtype=np.int64)

    return count


def _check_unscored(config: Pick, loaded: Loaded, ratings: Manifest | None) -> None:
    """Scores that are missing for a reason of their own would bias what is chosen."""
    missing = np.isnan(loaded.columns.score)
    counts = Counter(status for status in loaded.status if status != "scored")
    if any(arm.by == "expected" for arm in config.arms) and not np.isnan(loaded.columns.expected).all():
        counts["scored without an expected score"] = int((np.isnan(loaded.columns.expected) & ~missing).sum())
        missing = missing | np.isnan(loaded.columns.expected)
    unscored = int(missing.sum())
    rows = len(loaded.status)
    if ratings is None or unscored <= config.max_unscored * rows:
        return
    why = ", ".join(f"{count:,} {status}" for status, count in counts.most_common() if count)
    raise StageFailed(
        f"{unscored:,} of {rows:,} rows ({unscored / rows:.1%}) have no score: {why}; pick.max_unscored allows "
        f"{config.max_unscored:.1%}. Ask again for what failed (jobs/score.py --retry-failed), or allow it: "
        f"--set pick.max_unscored={np.ceil(unscored / rows * 100) / 100:g}"
    )


def _choices(arms: Iterable[Arm], loaded: Loaded) -> dict[str, Choice]:
    """What each arm keeps; duplicates that are to be dropped take part in none but `full`, which is everything."""
    columns = loaded.columns
    first = np.array([earlier is None for earlier in loaded.duplicate_of], dtype=bool)
    once = only(columns, first)
    leader = _leader(arms)
    size = int(choose(leader, once, None).kept.sum()) if leader else None
    choices = {
        arm.name: choose(arm, columns, size) if arm.traits.takes_duplicates else among_all(choose(arm, once, size), first)
        for arm in arms
    }
    for name, choice in choices.items():
        if not choice.kept.any():
            scored = columns.score[~np.isnan(columns.score)]
            best = f"the highest score is {scored.max():g}" if len(scored) else "no row has a score"
            raise UsageError(f"pick.arms: arm {name!r} would be empty ({best}); lower its threshold, or take the `top` k")
    return choices


def _write_arm(
    run: Run, stage: StageDir, settings: dict[str, Any], inputs: dict[str, str], loaded: Loaded, choice: Choice
) -> Manifest:
    started = time.monotonic()
    replaced = existing_arms.changed(stage.manifest(), Wanted(settings, inputs))
    stage.storage.delete_tree()
    begun = Begun(settings=settings, inputs=inputs)
    stage.begin(begun)
    report = selection_report(loaded.columns, choice, loaded.tokens, loaded.counted_by)
    files = list(_write_rows(stage.storage, _kept_tables(run, loaded, choice), SUBSET, "part"))
    files += _write_rows(stage.storage, _dropped_tables(loaded, choice), DROPPED, "dropped")
    kept = (row for table in _kept_tables(run, loaded, choice) for row in table.to_pylist())
    written = {
        SUBSET_JSON: write_alpaca_json(stage.storage, SUBSET_JSON, kept),
        "selection.json": stage.storage.write("selection.json", json.dumps(report, indent=2, ensure_ascii=False).encode()),
        "histogram.svg": stage.storage.write("histogram.svg", _histogram_svg(report, settings["arm"]["name"]).encode()),
    }
    rows = int(choice.kept.sum())
    extra = [FileEntry(name=name, rows=rows if name == SUBSET_JSON else 0, **to._asdict()) for name, to in written.items()]
    came = _write_back(run, stage.storage, loaded, choice)
    extra += [FileEntry(name=name, rows=count, **to._asdict()) for name, (to, count) in came.items()]
    details = {
        **{key: report[key] for key in ("tokens", "mean_output_length", "unscored")},
        **({"replaced": replaced} if replaced else {}),
        "duplicates": dropped_for_that(loaded.duplicate_of, choice),
        "as_it_came": list(came),
    }
    manifest = stage.build(begun.after(time.monotonic() - started), files + extra, details=details)
    manifest = manifest.model_copy(update={"counts": {"kept": rows, "dropped": len(choice.kept) - rows}})
    stage.finish(manifest)
    return manifest


def _kept_tables(run: Run, loaded: Loaded, choice: Choice) -> Iterator[pa.Table]:
    """The kept examples with their scores, a table for each shard of examples."""
    examples = run.examples()
    start = 0
    for table in examples.tables(examples.finished("ingest")):
        here, scored = slice(start, start + len(table)), conformed(table, EXAMPLES)
        for field, values in (("score", loaded.columns.score), ("expected_score", loaded.columns.expected)):
            scored = scored.append_column(field, pa.array(values[here], from_pandas=True))
        yield scored.drop_columns("record").filter(pa.array(choice.kept[here]))
        start = here.stop


def _write_back(run: Run, storage: Storage, loaded: Loaded, choice: Choice) -> dict[str, tuple[Written, int]]:
    """The chosen records as they came, beside `subset.json`."""
    made = run.examples().finished("ingest")
    several = made.settings.get("turns") == "all"
    rows = _examples(run, made, loaded, choice)
    return write_back.write(storage, made.details, rows, loaded.scores, several=several)


def _examples(run: Run, made: Manifest, loaded: Loaded, choice: Choice) -> Iterator[write_back.Example]:
    number = 0
    for table in run.examples().tables(made):
        for row in conformed(table, EXAMPLES).select(["row", "example_id", *TRIPLE, "record"]).to_pylist():
            found = {"score": loaded.columns.score[number], "expected_score": loaded.columns.expected[number]}
            scores = {name: None if np.isnan(value) else float(value) for name, value in found.items()}
            triple = (row["instruction"], row["input"], row["output"])
            yield write_back.Example(row["row"], row["example_id"], triple, row["record"], bool(choice.kept[number]), scores)
            number += 1


def _dropped_tables(loaded: Loaded, choice: Choice) -> Iterator[pa.Table]:
    dropped = np.flatnonzero(~choice.kept)
    score = loaded.columns.score
    by_score = choice.reason.startswith(("score", "expected score", "not among"))
    for start in range(0, len(dropped), ROWS_PER_FILE * 10):
        rows = dropped[start : start + ROWS_PER_FILE * 10]
        reasons = [_reason(loaded, choice.reason, by_score and bool(np.isnan(score[row])), row) for row in rows]
        ids = [loaded.columns.ids[row] for row in rows]
        yield pa.table({"example_id": ids, "score": pa.array(score[rows], from_pandas=True), "reason": reasons}, schema=DROPPED)


def _reason(loaded: Loaded, reason: str, is_unscored: bool, row: int) -> str:
    """Why a row was dropped."""
    if loaded.duplicate_of[row]:
        return f"an exact duplicate of {loaded.duplicate_of[row]}"
    return f"no score: {loaded.status[row]}" if is_unscored else reason


def _write_rows(storage: Storage, tables: Iterable[pa.Table], schema: pa.Schema, prefix: str) -> Iterator[FileEntry]:
    """Write rows in files of `ROWS_PER_FILE` (dropped rows are small: ten times as many)."""
    size = ROWS_PER_FILE if prefix == "part" else ROWS_PER_FILE * 10
    waiting, number = schema.empty_table(), 0
    for table in tables:
        waiting = pa.concat_tables([waiting, table.cast(schema)])
        while len(waiting) >= size:
            yield _write_one(storage, shard_name(number, prefix), waiting.slice(0, size))
            waiting, number = waiting.slice(size), number + 1
    if len(waiting):
        yield _write_one(storage, shard_name(number, prefix), waiting)


def _write_one(storage: Storage, name: str, table: pa.Table) -> FileEntry:
    return FileEntry(name=name, rows=len(table), **storage.write_table(name, table)._asdict())


def _histogram_svg(report: Mapping[str, Any], arm: str) -> str:
    bins = report["histogram"]
    counts = {f"{entry['score']:g}": entry["rows"] for entry in bins}
    kept = {f"{entry['score']:g}": entry["kept"] for entry in bins}
    return histogram_file(counts, kept, f"{arm}: {report['rows']['kept']:,} of {report['rows']['all']:,} examples kept")
