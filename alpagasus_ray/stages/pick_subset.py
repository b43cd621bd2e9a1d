"""Choose the arms of the experiment by the ratings, and write each with every dropped row and its reason."""

import itertools
import json
import posixpath
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from alpagasus_ray.config import Arm, Pick, TestSet, identity
from alpagasus_ray.config.pick import POLICIES
from alpagasus_ray.data import write_back
from alpagasus_ray.data.alpaca_json import write_alpaca_json
from alpagasus_ray.data.originals import TRIPLE
from alpagasus_ray.data.schema import DROPPED, EXAMPLES, conformed
from alpagasus_ray.errors import StageFailed, UsageError
from alpagasus_ray.pick_inputs import arm_rows, cleaning, columns, vectors
from alpagasus_ray.pick_inputs.breadth import of_arms
from alpagasus_ray.pick_inputs.cleaning import Cleaned
from alpagasus_ray.pick_inputs.columns import Loaded
from alpagasus_ray.pick_inputs.vectors import Made
from alpagasus_ray.reporting.charts import histogram_file
from alpagasus_ray.selection import clean, existing_arms
from alpagasus_ray.selection.budgeted import Beside, chosen
from alpagasus_ray.selection.budgets import Budget
from alpagasus_ray.selection.cuts import cut_problems, scale_of
from alpagasus_ray.selection.duplicates import among_all, only
from alpagasus_ray.selection.existing_arms import Wanted
from alpagasus_ray.selection.policies import Choice, Flags
from alpagasus_ray.selection.report import selection_report
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, shard_name
from alpagasus_ray.store.storage import Storage, Written

Scores = Mapping[str, float | None]

ROWS_PER_FILE = 1000
SUBSET_JSON, CONTAMINATION = "subset.json", "contamination.tsv"


class Chosen(NamedTuple):
    """One arm, before it is written."""

    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    choice: Choice
    breadth: dict[str, Any] | None
    """How broad it is (`pick_inputs/breadth.py`)."""


def pick_subset(config: Pick, run: Run, test_sets: Sequence[TestSet] = ()) -> list[Manifest]:
    """Make `subsets/<arm>/` for every arm; those that are made already are left as they are. `test_sets` are the run's own,
    which `pick.clean` looks for unless it names others."""
    examples = run.examples().finished()
    inputs = {"examples": examples.content_hash()}
    ratings: Manifest | None = None
    if any(arm.traits.by_score for arm in config.arms):
        ratings = run.ratings(config.ratings).finished()
        _check_same_examples(ratings, examples)
        inputs[f"ratings/{config.ratings}"] = ratings.content_hash()
        _check_cuts(config, ratings)
    tests = cleaning.looked_for(config.clean, test_sets) if config.clean else ()
    inputs |= cleaning.prints(tests)
    inputs |= vectors.prints(config.vectors)
    wanted = {arm.name: Wanted(_settings(arm, config), inputs) for arm in config.arms}
    made = existing_arms.made(run, wanted)
    manifests = [manifest for manifest in made.values() if manifest]
    if len(manifests) == len(config.arms):
        return manifests
    loaded = columns.load(run, config, examples, ratings)
    _check_unscored(config, loaded, ratings)
    cleaned = _cleaned(config, tests, run, examples, loaded)
    made_vectors = _vectors(config, run, examples)
    choices = _choices(config.arms, loaded, cleaned, made_vectors)
    left = {name: choice.kept for name, choice in choices.items() if made[name] is None}
    breadth = of_arms(made_vectors, left) if made_vectors else {}
    return [
        made[arm.name] or _write_arm(run, Chosen(*wanted[arm.name], choices[arm.name], breadth.get(arm.name)), loaded, cleaned)
        for arm in config.arms
    ]


def _cleaned(config: Pick, tests: Sequence[TestSet], run: Run, examples: Manifest, loaded: Loaded) -> Cleaned | None:
    """What `pick.clean` takes out. Of two near repeats the better rated stays, or the earlier one."""
    if config.clean is None:
        return None
    if not tests and config.clean.tests is None and config.clean.near is None:
        raise UsageError(
            "pick.clean looks for the test sets of `generate.test_sets`, and there are none: name some in `pick.clean.tests`, "
            "or set `pick.clean.near`"
        )
    order = np.argsort(-np.nan_to_num(loaded.columns.score, nan=-np.inf), kind="stable")
    return cleaning.find(config.clean, tests, run, examples, order, loaded.repeats)


def _vectors(config: Pick, run: Run, examples: Manifest) -> Made | None:
    """Vectors of the examples, where an arm is spread by them or there are enough rows for figures to say something."""
    if any(arm.spread for arm in config.arms):
        return vectors.of_run(run, examples, vectors.WORDS if config.vectors == vectors.NONE else config.vectors)
    if config.vectors == vectors.NONE or examples.rows < vectors.FEWEST:
        return None
    if config.vectors != vectors.WORDS:
        return vectors.of_run(run, examples, config.vectors)
    try:
        return vectors.of_run(run, examples)
    except UsageError:  # examples without words, whose figures nobody has asked for
        return None


def _settings(arm: Arm, config: Pick) -> dict[str, Any]:
    leader = _leader(config.arms)
    copies = arm.k is None and arm.traits.copies_size and leader
    return (
        {"arm": identity(arm), "tokenizer": config.tokenizer, existing_arms.VERSION: existing_arms.PRESENT}
        | ({existing_arms.SIZE_OF: identity(leader)} if copies and leader else {})
        | ({"duplicates": "keep"} if config.duplicates == "keep" else {})  # as it was before they could be dropped
        | ({"clean": identity(config.clean)} if config.clean else {})
    )


def _leader(arms: Iterable[Arm]) -> Arm | None:
    """The arm whose size the controls take."""
    return next((arm for arm in arms if arm.traits.leads), None)


def _check_cuts(config: Pick, ratings: Manifest) -> None:
    """Refuse thresholds that mean nothing on the scale of the ratings."""
    known = scale_of(ratings.settings)
    problems = cut_problems(config.arms, known[0], steps=known[1]) if known else []
    if problems:
        raise UsageError("\n".join(problems))


def _check_same_examples(ratings: Manifest, examples: Manifest) -> None:
    if ratings.inputs["examples"] != examples.content_hash():
        raise UsageError(
            f"{ratings.stage}/ rates other examples than this run now holds (examples/ was made anew since); "
            "rate them again under another score.name"
        )


def _check_unscored(config: Pick, loaded: Loaded, ratings: Manifest | None) -> None:
    """Scores that are missing for a reason of their own would bias what is chosen."""
    missing = loaded.unscored
    counts = Counter({name: int((loaded.status[missing] == number).sum()) for number, name in enumerate(loaded.statuses)})
    if any(arm.by == "expected" for arm in config.arms) and not np.isnan(loaded.columns.expected).all():
        counts["scored without an expected score"] = int((np.isnan(loaded.columns.expected) & ~missing).sum())
        missing = missing | np.isnan(loaded.columns.expected)
    unscored = int(missing.sum())
    rows = len(loaded.status)
    if ratings is None or unscored <= config.max_unscored * rows:
        return
    why = ", ".join(f"{count:,} {status}" for status, count in counts.most_common() if count)
    refused = "cascade" in ratings.details or "combine" in ratings.settings  # ratings that are not asked again
    way = "Allow it: " if refused else "Ask again for what failed (`alpagasus score RUN --retry-failed`), or allow it: "
    raise StageFailed(
        f"{unscored:,} of {rows:,} rows ({unscored / rows:.1%}) have no score: {why}; pick.max_unscored allows "
        f"{config.max_unscored:.1%}. {way}--set pick.max_unscored={np.ceil(unscored / rows * 100) / 100:g}"
    )


def _choices(arms: Iterable[Arm], loaded: Loaded, cleaned: Cleaned | None, made: Made | None) -> dict[str, Choice]:
    """What each arm keeps. Duplicates that are to be dropped, and near repeats, take part in none but `full`, which is
    everything; what holds a test set's text takes part in no arm."""
    columns = loaded.columns
    clean, once = _pools(loaded, cleaned)
    vectors_of = made.all() if made and any(arm.spread == "apart" for arm in arms) else None
    beside = Beside(loaded.tokens, loaded.source, made.cluster if made else None, vectors_of)
    pool = only(columns, once), beside.only(once)
    leader = _leader(arms)
    size = None
    if leader:
        kept = chosen(leader, *pool, None).kept
        size = Budget(tokens=leader.tokens) if leader.tokens else Budget(rows=int(kept.sum()))
    choices = {
        arm.name: among_all(chosen(arm, only(columns, clean), beside.only(clean), size), clean)
        if arm.traits.takes_duplicates
        else among_all(chosen(arm, *pool, size), once)
        for arm in arms
    }
    for name, choice in choices.items():
        if not choice.kept.any():
            scored = columns.score[~np.isnan(columns.score)]
            best = f"the highest score is {scored.max():g}" if len(scored) else "no row has a score"
            raise UsageError(f"pick.arms: arm {name!r} would be empty ({best}); lower its threshold, or take the `top` k")
    return choices


def _pools(loaded: Loaded, cleaned: Cleaned | None) -> tuple[Flags, Flags]:
    """Which rows `full` may hold, and which all other arms."""
    clean = ~cleaned.contaminated if cleaned else np.ones(len(loaded.tokens), dtype=bool)
    return clean, clean & ~loaded.repeats & (~cleaned.near_rows if cleaned else True)


def _write_arm(run: Run, arm: Chosen, loaded: Loaded, cleaned: Cleaned | None) -> Manifest:
    settings, inputs, choice, stage = arm.settings, arm.inputs, arm.choice, run.subset(arm.settings["arm"]["name"])
    started = time.monotonic()
    replaced = existing_arms.changed(stage.manifest(), Wanted(settings, inputs))
    stage.storage.delete_tree()
    begun = Begun(settings=dict(settings), inputs=dict(inputs))
    stage.begin(begun)
    _, pool = _pools(loaded, cleaned)
    report = selection_report(loaded.columns, choice, loaded.tokens, loaded.counted_by, pool)
    report |= {"breadth": arm.breadth} if arm.breadth else {}
    by_score = POLICIES[settings["arm"]["policy"]].by_score
    files = list(_write_rows(stage.storage, arm_rows.kept_tables(run, loaded, choice), arm_rows.schema(loaded), "part"))
    files += _write_rows(
        stage.storage, arm_rows.dropped_tables(run, loaded, choice, cleaned, by_score=by_score), DROPPED, "dropped"
    )
    kept = (row for table in arm_rows.kept_tables(run, loaded, choice) for row in table.to_pylist())
    written = {
        SUBSET_JSON: write_alpaca_json(stage.storage, SUBSET_JSON, kept),
        "selection.json": stage.storage.write("selection.json", json.dumps(report, indent=2, ensure_ascii=False).encode()),
        "histogram.svg": stage.storage.write("histogram.svg", _histogram_svg(report, stage.name, loaded.scale).encode()),
    }
    if cleaned and cleaned.hits:
        table = clean.to_tsv(arm_rows.ids_of(run, [hit.row for hit in cleaned.hits]), cleaned.hits)
        written[CONTAMINATION] = stage.storage.write(CONTAMINATION, table.encode())
    rows = int(choice.kept.sum())
    extra = [FileEntry(name=name, rows=rows if name == SUBSET_JSON else 0, **to._asdict()) for name, to in written.items()]
    came = _write_back(run, stage.storage, loaded, choice)
    extra += [FileEntry(name=name, rows=count, **to._asdict()) for name, (to, count) in came.items()]
    details = {
        **{key: report[key] for key in ("tokens", "mean_output_length", "unscored")},
        **({"replaced": replaced} if replaced else {}),
        "duplicates": int((loaded.repeats & ~choice.kept).sum()),
        **({"clean": cleaned.told()} if cleaned else {}),
        **({"breadth": {key: value for key, value in arm.breadth.items() if key != "clusters"}} if arm.breadth else {}),
        **arm_rows.whose_scores(loaded, choice),
        "as_it_came": list(came),
    }
    manifest = stage.build(begun.after(time.monotonic() - started), files + extra, details=details)
    manifest = manifest.model_copy(update={"counts": {"kept": rows, "dropped": len(choice.kept) - rows}})
    stage.finish(manifest)
    return manifest


def _write_back(run: Run, storage: Storage, loaded: Loaded, choice: Choice) -> dict[str, tuple[Written, int]]:
    """The chosen records as they came, beside `subset.json`."""
    made, columns = run.examples().finished(), loaded.columns

    def scores_of(number: int, _: str) -> Scores | None:
        if not choice.kept[number]:
            return None
        found = {"score": columns.score[number], "expected_score": columns.expected[number]}
        return {name: None if np.isnan(value) else float(value) for name, value in found.items()}

    return write_back.write(storage, made.details, _examples(run, made, scores_of), loaded.scores, several=_several(made))


def write_lines(run: Run, arm: str, target: str) -> int:
    """Write an arm's records to a file or URI as JSON lines, as they came, each with its score; the answer is their number."""
    stage, made = run.subset(arm), run.examples().finished()
    tables = stage.tables(stage.finished(), ["example_id", *write_back.SCORES])
    chosen = {row.pop("example_id"): row for table in tables for row in table.to_pylist()}
    scores = [name for name in write_back.SCORES if any(row[name] is not None for row in chosen.values())]
    examples = _examples(run, made, lambda _, example_id: chosen.get(example_id))
    folder, name = posixpath.split(target)
    with Storage.open(folder or ".").writing(name) as stream:
        return write_back.write_lines(stream, made.details, examples, scores, several=_several(made))


def _several(made: Manifest) -> bool:
    """Whether a record may have several examples."""
    return made.settings.get("turns") == "all"


def _examples(run: Run, made: Manifest, scores_of: Callable[[int, str], Scores | None]) -> Iterator[write_back.Example]:
    """All examples; the chosen ones are those that `scores_of` gives scores for, by their number and their id."""
    numbers = itertools.count()
    for table in run.examples().tables(made):
        for row in conformed(table, EXAMPLES).select(["row", "example_id", *TRIPLE, "record"]).to_pylist():
            scores = scores_of(next(numbers), row["example_id"])
            triple = (row["instruction"], row["input"], row["output"])
            yield write_back.Example(row["row"], row["example_id"], triple, row["record"], scores is not None, scores or {})


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


def _histogram_svg(report: Mapping[str, Any], stage: str, scale: Mapping[str, float | None] | None) -> str:
    bins = report["histogram"]
    counts = {f"{entry['score']:g}": entry["rows"] for entry in bins}
    kept = {f"{entry['score']:g}": entry["kept"] for entry in bins}
    title = f"{stage.rpartition('/')[2]}: {report['rows']['kept']:,} of {report['rows']['all']:,} examples kept"
    return histogram_file(counts, kept, title, scale)
