"""Rate rows with a judge: `ingest` and `score` in one call, in this process unless a cluster is to do it."""

import difflib
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from alpagasus_ray import recipe
from alpagasus_ray.api.rated import Rated, rated_of
from alpagasus_ray.api.rows import Given, as_lines, given
from alpagasus_ray.config import EngineConfig, Ingest, Judge, Recipe, Score, digest
from alpagasus_ray.data.readers import HUGGING_FACE
from alpagasus_ray.engines.identity import with_template
from alpagasus_ray.engines.prices import tariff
from alpagasus_ray.errors import InputError, SettingsChanged, UsageError
from alpagasus_ray.inference.addresses import routes_of
from alpagasus_ray.inference.backlog import Backlog
from alpagasus_ray.inference.shared_replies import SharedReplies
from alpagasus_ray.inference.tasks.rating import RatingTask
from alpagasus_ray.judging import rubric
from alpagasus_ray.judging.reply_format import reply_form
from alpagasus_ray.stages.ingest import fingerprints, ingest
from alpagasus_ray.stages.score import score
from alpagasus_ray.store import lock
from alpagasus_ray.store.run import Manifest, Run, StageDir
from alpagasus_ray.store.storage import Storage, resolve

CACHE = "ALPAGASUS_CACHE"
"""The variable that names the folder where ratings are kept whose `run` is not given."""
OF_A_RUN = ("cascade", "combine")
"""Knobs of `score` that need further ratings, which only a run of one's own has."""


class Place(NamedTuple):
    """Where ratings are kept."""

    run: Run
    name: str
    """Of the directory under `ratings/`."""
    shared: SharedReplies | None = None
    """Replies to other rows, and for other rows."""


def rate(
    rows: Any,
    judge: str | None = None,
    *,
    run: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    ray: bool | str = False,
    **knobs: Any,
) -> Rated:
    """Rate examples with a judge, and return once each has a score or a reason why it has none.

    `rows`: a list of dictionaries, a pandas or Arrow table, a Hugging Face dataset, a Ray dataset, or what `ingest.source`
    takes (a path, `s3://…`, `hf:…`); `columns` says which hold instruction, input and output where they have other names.
    `judge` is the model that an OpenAI-compatible server knows; further `knobs` are those of `score.judge` (`base_url`,
    `rubric`, `kind`, `temperature`, …) and of `score` (`max_cost_usd`, `concurrency`, `requests_per_minute`, …).

    Replies are kept in `run`, or without one in folders below `$ALPAGASUS_CACHE` (default `~/.cache/alpagasus-ray`): a row is
    not paid for again with the same judge and rubric, whatever other rows it is rated with; only processes at work at the same
    time do not see each other's replies. With `ray=True`, a cluster's address (`ray="head:6379"`) or a Ray dataset the work is
    spread over a Ray cluster; a model in the job (`kind="vllm"`) always is. Then what is paid once is these rows together.

    Raises `UsageError` for what cannot be asked, `StageFailed` where too much failed, `BudgetReached` at the cap; what was
    paid for is kept, and the same call goes on.

    >>> rated = rate([{"instruction": "Name a fruit.", "output": "An apple."}], kind="rules")
    >>> len(rated), rated.unscored
    (1, {})
    """
    renamed = dict(columns or {})
    rows = given(rows, renamed)
    asked = settings(judge, renamed, knobs)
    if isinstance(ray, str):
        from alpagasus_ray.raycluster.connect import connect

        connect(ray)
    spread = bool(ray) or rows.is_distributed or asked.score.judge.in_job
    place = cached(rows, asked, cache()) if run is None else Place(Run.open(str(run)), "judge")
    return carry_out(rows, asked, place if not spread else place._replace(shared=None), spread=spread)


def settings(judge: str | None, columns: Mapping[str, str], knobs: Mapping[str, Any]) -> Recipe:
    """The recipe of a call: each knob in its section. Raises `UsageError`, which names what is meant by a misspelt one."""
    known = {*Judge.model_fields, *Score.model_fields} - {"name", "judge", "limit", *OF_A_RUN}
    # None for a knob that has no such value is Python's way to say that it is not given
    knobs = {key: value for key, value in knobs.items() if value is not None or _may_be_none(key)}
    for key in knobs:
        if key in OF_A_RUN:
            raise UsageError(
                f"{key} = {knobs[key]!r}: it works with other ratings of a run; rate the rows into one, and then: "
                f"ag.Run('runs/mine').score({key}=…)"
            )
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            fix = f"did you mean {near[0]!r}?" if near else "`alpagasus score RUN --help-all` lists them"
            raise UsageError(f"{key} = {knobs[key]!r}: no knob of `score` or its judge; {fix}")
    model = {} if judge is None else {"model": judge}
    of_judge = model | {key: value for key, value in knobs.items() if key in Judge.model_fields}
    of_score = {key: value for key, value in knobs.items() if key not in Judge.model_fields}
    return recipe.checked({"ingest": {"columns": dict(columns)}, "score": {**of_score, "judge": of_judge}}).recipe


def _may_be_none(key: str) -> bool:
    fields = Judge.model_fields if key in Judge.model_fields else Score.model_fields
    return key not in fields or type(None) in typing.get_args(fields[key].annotation)


def cache() -> str:
    """The folder where ratings are kept that have no run of their own."""
    return os.environ.get(CACHE) or str(Path.home() / ".cache" / "alpagasus-ray")


def cached(rows: Given, asked: Recipe, folder: str) -> Place:
    """The place of these rows below a folder. Both names hold all that decides the ratings, and nothing that may change
    between two calls that go on with the same work: files that have changed, or another text of a rubric, are another place."""
    content = as_lines(rows.records) if rows.source is None else _location(rows.source)
    kept = Storage.open(folder)
    run = Run(kept.at("rated", digest([content, sorted(asked.ingest.columns.items())])[:24]))
    return Place(run, f"judge-{_identity(asked.score.judge)[:12]}", SharedReplies(kept.at("replies"), _reached))


def _reached(engine: EngineConfig) -> None:
    """`UsageError` where its servers are not there, or refuse the key: a stage would wait for them for a minute."""
    from alpagasus_ray.feasibility import refuse, servers

    refuse(servers(engine))


def _identity(judge: Judge) -> str:
    """What decides the ratings of a judge: its own settings, what the rubric says, the files it reads, and who is asked."""
    criteria = rubric.load(judge.rubric)
    judge = with_template(judge)
    task = RatingTask(judge, criteria, reply_form(judge, criteria))
    return digest([task.settings, task.inputs, routes_of(judge)])


def _location(source: str) -> list[Any]:
    """A location and its files as they are now."""
    path = source if "://" in source or source.startswith(HUGGING_FACE) else resolve(source)[1]
    return [path, fingerprints(Ingest(source=source))]


def carry_out(rows: Given, asked: Recipe, place: Place, *, spread: bool) -> Rated:
    """Make the examples and the ratings."""
    with lock.held(place.run) as held:
        reading: dict[str, Any] = {"source": rows.source or _written(held, rows.records), "name": "rows"}
        if rows.source is None:  # a record without a text comes back, with that as its reason
            reading["max_rejected"] = 1.0
        try:
            ingest(asked.ingest.model_copy(update=reading), held)
        except SettingsChanged:
            root = place.run.storage.root
            raise SettingsChanged(
                f"run={root!r} holds other examples than these rows. Its own are rated by ag.Run({root!r}).score(…).rated; for "
                f"these rows give another `run`, or none. What the run has paid for is taken over by "
                f"reuse=['{root}/ratings/judge']"
            ) from None
        except InputError as error:
            raise UsageError(f"{error}. From Python: columns={{'instruction': …, 'output': …}}") from None
        config = asked.score.model_copy(update={"name": place.name})
        before = spent_usd(held.ratings(place.name), asked.score.judge)
        manifest = score(config, held, in_process=not spread, shared=place.shared)
    rated = rated_of(place.run, place.name, manifest, rows.records if rows.source is None else None)
    cost = rated.cost_usd
    spent = 0.0 if before.made == manifest else None if cost is None else max(0.0, round(cost - before.usd, 10))
    rated = replace(rated, index=rows.frame_index, spent_usd=spent)
    return _as_handed_in(rated, rows.order) if rows.order else rated


class Spent(NamedTuple):
    """What ratings have cost before a call."""

    made: Manifest | None
    """None where they are not finished."""
    usd: float


def spent_usd(stage: StageDir, judge: Judge) -> Spent:
    """What earlier calls have spent on these ratings."""
    made = stage.manifest()
    if made is not None:
        return Spent(made, made.usage.get("cost_usd", 0.0))
    backlog = Backlog(stage)
    shards = backlog.begun(f"{stage.name}/{name}" for name in stage.storage.all_names())
    return Spent(None, backlog.spent_usd(tariff(judge), backlog.stored_replies(sorted(shards)).values()))


def _as_handed_in(rated: Rated, order: Sequence[int]) -> Rated:
    """The same with the records in the order in which they came."""
    places = sorted(range(len(order)), key=order.__getitem__)
    columns: dict[str, Any] = {
        name: [getattr(rated, name)[place] for place in places] for name in ("records", "scores", "reasons")
    }
    return replace(rated, **columns)


def _written(run: Run, records: Sequence[Mapping[str, Any]]) -> str:
    """The records as a file of the run, for `ingest` to read."""
    content = as_lines(dict(record) for record in records)
    place, name = run.storage.at("source"), f"{digest(content)[:16]}.jsonl"
    # named by what it holds: other rows in the same run are refused, and must not take the place of the first
    if not place.exists(name):
        place.write(name, content.encode())
    return place.path(name)
