"""What a call of `jobs/score.py` would do: rows left to ask, tokens, dollars, minutes, the first request.

It sends nothing and writes nothing, needs no key and no Ray, and may look at a run that a driver is working on. Knows what
a stage leaves behind while it is unfinished; nothing of how the rows are asked.
"""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from alpagasus_ray.batch_api.journal import at_provider
from alpagasus_ray.config import EngineConfig, Score, digest
from alpagasus_ray.engines import prices, tokens
from alpagasus_ray.engines.base import Rate, Request
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference import addresses, cascade_plan
from alpagasus_ray.inference.backlog import READERS, Backlog, Left, held, measure
from alpagasus_ray.inference.shared_replies import replies_of
from alpagasus_ray.inference.spec import AskSpec
from alpagasus_ray.inference.stage import InferenceStage, Target
from alpagasus_ray.inference.tasks.rating import RatingTask, check_model, prepare
from alpagasus_ray.inference.trial import drawn
from alpagasus_ray.judging import parse_rating
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir

SAMPLE = 200
"""Requests that are made and counted; all others are taken to be like them."""
SHORTEST_REPLY = 2
"""Tokens of a reply that is a score and nothing else."""
MEASURED = ("tokens_in", "tokens_out", "cost_usd", "latency_s")


class Part(NamedTuple):
    """What there is to do in one shard."""

    entry: FileEntry
    left: Left
    known: Counter[str]
    """Sums over the replies that are there: their `count`, the fields in `MEASURED`, and how many know each (`n <field>`)."""


class UnderWay(NamedTuple):
    """What earlier calls have at the provider's batch API; the next call collects it."""

    keys: dict[str, frozenset[str]]
    """Of the requests, by shard."""
    requests: int
    batches: int
    reserved_usd: float
    """The most that the requests can cost, as far as it is counted as spent."""
    at_most_usd: float | None
    """What is spent and reserved; None where the last call had no cap."""


class Volume(NamedTuple):
    """What is to be sent and received."""

    requests: int
    tokens_in: float
    out_low: float
    out_high: float | None
    """None where replies have no longest length."""


def plan(config: Score, run: Run) -> dict[str, Any]:
    """The summary of what `score(config, run)` would do now, plain JSON values; with `config.limit`, of the trial.

    Refuses what that call would refuse at its start, but for a missing key.
    """
    if config.combine is not None:
        return _of_others(config, run)
    check_model(config.judge)
    program, task, target = prepare(config, run)
    spec, stage, examples, settings = program.spec, target.home, target.listed, task.settings
    done = stage.manifest()
    if config.cascade is None:  # of a cascade the call itself looks, which knows the cheaper judge
        _check_same(target, done or stage.begun(), settings, spec.engine)
    if done is None:
        spec.check_cap()
    away = _under_way(stage)  # before the replies are read: what is collected meanwhile stands among those
    elsewhere = replies_of(program, config.reuse) if task.judge.is_model and done is None else {}
    parts = _parts(task, target, done, away, elsewhere)
    sample = _sample(task, target.source, parts)
    report = {
        "plan": True,
        "stage": stage.name,
        "location": stage.storage.root,
        "rows": examples.rows,
        "left": sum(part.left.rows for part in parts),
        "limit": target.limit,
        **(_paid(program, stage, parts, sample, away) if spec.engine.is_model else {"requests": 0, "prompt": None}),
        "asks": addresses.shown(spec.engine),
        "hashes": _hashes(settings, examples, sample),
        "notes": list(_notes(spec, parts, done, away)),
    }
    if config.cascade is None:
        return report
    there = held(stage, run.storage.all_names() if done is None else ())
    return cascade_plan.scaled(report, config.cascade, there, program.besides_usd)


def _of_others(config: Score, run: Run) -> dict[str, Any]:
    """The plan of `score.combine`, which asks nobody."""
    assert config.combine is not None, "the caller has looked"
    parts, stage = ", ".join(config.combine.ratings), run.ratings(config.name)
    return {
        "plan": True,
        "stage": stage.name,
        "location": stage.storage.root,
        "rows": run.examples().finished().rows,
        "left": 0,
        "limit": None,
        "requests": 0,
        "prompt": None,
        "asks": "nobody",
        "hashes": {},
        "notes": [f"the {config.combine.by} of {parts}: nothing is asked, and it costs nothing"],
    }


def _check_same(target: Target, made: Manifest | Begun | None, settings: dict[str, Any], engine: EngineConfig) -> None:
    if made is None:
        return
    target.home.same_or_refuse(made, settings, target.inputs)
    addresses.check(target.home, made, engine)
    if isinstance(made, Begun) and made.rescoring:
        raise UsageError(f"a --rescore of {target.home.name} was interrupted; run it to its end with --rescore first")


def _under_way(stage: StageDir) -> UnderWay:
    page, items = at_provider(stage.storage)
    keys: defaultdict[str, set[str]] = defaultdict(set)
    for item in items:
        keys[item.shard].add(item.key)
    reserved = sum(entry.usd for entry in page.entries if entry.lent)
    by_shard = {shard: frozenset(requests) for shard, requests in keys.items()}
    return UnderWay(by_shard, len(items), len(page.entries), reserved, page.at_most_usd)


def _parts(task: RatingTask, target: Target, done: Manifest | None, away: UnderWay, elsewhere: Collection[str]) -> list[Part]:
    """Every shard, with what is left to ask of the rows that the call is about; `elsewhere` are keys of further replies."""
    backlog = Backlog(target.home, keeps_replies=task.judge.is_model)
    committed = {} if done else {entry.shard: entry for entry in backlog.done()}
    trial = None if target.limit is None else drawn(target.listed, target.limit)

    def part(entry: FileEntry) -> Part:
        record = committed.get(entry.name)
        # as for a call of an unfinished stage: what failed gets another chance
        over = done is not None or (record is not None and not record.counts.get(parse_rating.FAILED))
        rows: Sequence[int] = () if over else range(entry.rows) if trial is None else trial.get(entry.name, ())
        if not task.judge.is_model:
            return Part(entry, Left(len(rows), ()), Counter())
        known = backlog.known(entry.name).replies
        answered = {*known, *away.keys.get(entry.name, ()), *elsewhere}
        left = backlog.left(
            target.source, entry, lambda row: task.request(row).key, answered, numbers=rows, stand_in="content_hash"
        )
        return Part(entry, left, measure(known.values(), MEASURED))

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(part, target.listed.parts()))


def _mean(known: Counter[str], field: str) -> float | None:
    return known[field] / known[f"n {field}"] if known[f"n {field}"] else None


def evenly(total: int, most: int = SAMPLE) -> list[int]:
    """At most so many numbers below `total`, evenly spread, 0 among them: the same ones every time."""
    size = min(total, most)
    return [place * total // size for place in range(size)]


def _sample(task: RatingTask, source: StageDir, parts: Sequence[Part]) -> list[Request]:
    """Requests evenly spread over those that would be sent, the first among them."""
    chosen = evenly(sum(len(part.left.numbers) for part in parts))
    requests, start = [], 0
    for part in parts:
        end = start + len(part.left.numbers)
        rows = [part.left.numbers[number - start] for number in chosen if start <= number < end]
        if rows:
            requests += [task.request(row) for row in source.table(part.entry.name, part.entry.sha256).take(rows).to_pylist()]
        start = end
    return requests


def _paid(
    program: InferenceStage, stage: StageDir, parts: Sequence[Part], sample: Sequence[Request], away: UnderWay
) -> dict[str, Any]:
    """The part of the summary that only judges have which are asked over a network."""
    spec = program.spec
    known, longest = _all_known(parts), spec.tariff.max_tokens
    requests = sum(len(part.left.numbers) for part in parts)
    counted = _count_in(spec, sample, requests)
    reply = _mean(known, "tokens_out")
    volume = Volume(
        requests,
        requests * counted["in_each"],
        requests * (SHORTEST_REPLY if reply is None else reply),
        None if longest is None else float(requests * longest),
    )
    out = {"out_low": round(volume.out_low), "out_high": None if volume.out_high is None else round(volume.out_high)}
    return {
        "model": spec.engine.model,
        "mode": spec.engine.mode,
        "requests": requests,
        "under_way": {"requests": away.requests, "batches": away.batches},
        "replies": {"count": known["count"]} | {field: _rounded(_mean(known, field)) for field in MEASURED},
        "tokens": {**counted, "in": round(volume.tokens_in), **out, "longest_reply": longest},
        "dollars": _dollars(spec, volume, _spent(known, stage, away, program.besides_usd), away),
        "minutes": _minutes(spec, volume, sum(1 for part in parts if part.left.numbers), _mean(known, "latency_s")),
        "prompt": sample[0].messages if sample else None,
    }


def _all_known(parts: Sequence[Part]) -> Counter[str]:
    return sum((part.known for part in parts), Counter())


def _count_in(spec: AskSpec, sample: Sequence[Request], requests: int) -> dict[str, Any]:
    """Mean tokens of the sampled prompts, and by which share of it the mean over all may differ (two standard errors)."""
    if not sample:
        return {"counted_by": None, "estimate": False, "sampled": 0, "in_each": 0.0, "margin": 0.0}
    counter = tokens.counter(spec.engine)
    lengths = counter.lengths([request.messages for request in sample])
    mean, seen = statistics.fmean(lengths), len(lengths)
    # the sample is drawn without putting back, which makes the error of its mean smaller (finite population)
    error = statistics.stdev(lengths) * math.sqrt((1 - seen / requests) / seen) if seen < requests else 0.0
    return {
        "counted_by": counter.by,
        "estimate": counter.estimate,
        "sampled": seen,
        "in_each": round(mean, 2),
        "margin": round(2 * error / mean, 4),
    }


def _spent(known: Counter[str], stage: StageDir, away: UnderWay, besides_usd: float) -> float | None:
    """Dollars spent so far, at most: the cost of the replies, what is reserved for batches under way, and what a call that
    was killed may have spent besides. None where there are replies and nothing tells."""
    # a call that was killed has left its bound; where batches are under way theirs is the later one
    bound = Backlog(stage).at_most_usd() if away.at_most_usd is None else away.at_most_usd
    at_most = max(float(known["cost_usd"]) + besides_usd, bound)
    return None if known["count"] and not known["n cost_usd"] and not at_most else at_most


def _dollars(spec: AskSpec, volume: Volume, spent: float | None, away: UnderWay) -> dict[str, Any]:
    """What is to be paid, and for how many requests `max_cost_usd` is enough (null: for all). What is reserved for batches
    under way comes back, but for what their requests cost."""
    low = spec.tariff.dollars(volume.tokens_in, volume.out_low)
    high = None if volume.out_high is None else spec.tariff.dollars(volume.tokens_in, volume.out_high)
    cap, free = spec.max_cost_usd, (spec.max_cost_usd or 0.0) - (spent or 0.0) + away.reserved_usd
    all_requests = volume.requests + away.requests
    reached = {
        name: None
        if cap is None or not cost or (each := cost / volume.requests) * all_requests <= free
        else max(0, int(free / each - away.requests))
        for name, cost in (("low", low), ("high", high))
    }
    return {
        "low": _rounded(low),
        "high": _rounded(high),
        "spent": _rounded(spent),
        "max_cost_usd": cap,
        "cap_reached_after": reached,
        "price": _price(spec),
    }


def _price(spec: AskSpec) -> dict[str, Any] | None:
    """Dollars a million tokens, and who says so."""
    tariff = spec.tariff
    if tariff.price is None:
        return None
    listed = spec.engine.price is None
    source = f"listed {prices.price_list()['as_of']}" if listed else "score.judge.price"
    return {"input": tariff.price.input, "output": tariff.price.output, "share": tariff.share, "source": source}


def _minutes(spec: AskSpec, volume: Volume, open_shards: int, latency_s: float | None) -> dict[str, Any]:
    """The least time that the known limits allow, and which of them decides; null where none is known."""
    ways: dict[str, float] = {}
    if spec.engine.mode == "live" and volume.requests:
        limits = _limits(spec.limits.rates)
        loads = Rate(float(volume.requests), volume.tokens_in + volume.out_low)
        ways = {f"score.{kind}_per_minute": loads._asdict()[kind] / limit for kind, limit in limits.items()}
        if latency_s is not None:
            actors = spec.processes.actors
            actors = actors if isinstance(actors, int) else max(actors or (1,))
            in_flight = spec.limits.concurrency * min(actors, open_shards or 1)
            ways["score.concurrency"] = volume.requests * latency_s / 60 / in_flight
    # the slowest of the limits decides
    binding = max(ways, key=lambda way: ways[way]) if ways else None
    return {"least": None if binding is None else round(ways[binding], 2), "bound_by": binding}


def _limits(rates: Sequence[Rate]) -> dict[str, float]:
    """`requests` and `tokens` a minute over all endpoints together; one without a limit takes whatever comes."""
    each = {kind: [getattr(rate, kind) for rate in rates] for kind in Rate._fields}
    return {kind: sum(limits) for kind, limits in each.items() if None not in limits}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _hashes(settings: dict[str, Any], examples: Manifest, sample: Sequence[Request]) -> dict[str, str | None]:
    return {
        "settings": digest(settings),
        "prompt": settings["rubric"]["prompt"],
        "examples": examples.content_hash(),
        "request": sample[0].key if sample else None,
    }


def _notes(spec: AskSpec, parts: Sequence[Part], done: Manifest | None, away: UnderWay) -> Iterator[str]:
    """What a reader has to know besides the numbers."""
    judge = spec.engine
    if done is not None:
        yield "the stage is finished: a call returns at once"
        without = sum(done.counts.get(status, 0) for status in parse_rating.UNSCORED)
        if without and judge.is_model:
            again = "" if "cascade" in done.details else "; --retry-failed asks for them again"
            yield f"{without:,} rows have no score{again}"
    if not judge.is_model:
        yield f"score.judge.kind={judge.kind} sends nothing and costs nothing"
        return
    if away.reserved_usd:
        yield f"what is spent includes {away.reserved_usd:,.4g} dollars, the most that the requests under way can cost"
    if judge.in_job:
        yield "a model in the job: what it costs is its machines' time"
    elif spec.tariff.price is None:
        yield (
            f"no price is known for {judge.model} at {' and '.join(_hosts(judge))}; give one in dollars a million tokens, e.g. "
            "--set 'score.judge.price={input: 0.15, output: 0.6}'"
        )
    if spec.tariff.max_tokens is None:
        yield "score.judge.max_tokens is null: nothing bounds what a reply can cost"
    if judge.mode == "batch":
        yield "through the batch API: up to 24 hours per round"
    elif any(part.left.numbers for part in parts) and not (_all_known(parts)["n latency_s"] or _limits(spec.limits.rates)):
        yield "how long it takes is not known: no limit is set and no reply was timed; --limit 100 without --plan tells"


def _hosts(engine: EngineConfig) -> list[str]:
    """The hosts of the endpoints, each once."""
    return list(dict.fromkeys(prices.host(place) for place in engine.at_each_endpoint()))
