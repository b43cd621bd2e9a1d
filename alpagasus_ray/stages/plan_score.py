"""What a call of `jobs/score.py` would do: rows left to ask, tokens, dollars, minutes, the first request.

It sends nothing and writes nothing, needs no key and no Ray, and may look at a run that a driver is working on. Knows what
a stage leaves behind while it is unfinished; nothing of how the rows are asked.
"""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from alpagasus_ray.batch_api.journal import at_provider
from alpagasus_ray.config import Judge, Score, digest
from alpagasus_ray.engines import prices, tokens
from alpagasus_ray.engines.base import Rate, Request
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference import addresses, asking, shards
from alpagasus_ray.inference.budget import at_most_spent
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.inference.trial import drawn
from alpagasus_ray.judging import parse_rating, rubric
from alpagasus_ray.judging.reply_format import reply_form
from alpagasus_ray.stages.rating_task import ScoreWork, check_model, inputs_of, settings_of
from alpagasus_ray.store.run import FileEntry, Manifest, Run, StageDir

SAMPLE = 200
"""Requests that are made and counted; all others are taken to be like them."""
SHORTEST_REPLY = 2
"""Tokens of a reply that is a score and nothing else."""
MEASURED = ("tokens_in", "tokens_out", "cost_usd", "latency_s")


class Part(NamedTuple):
    """What there is to do in one shard."""

    entry: FileEntry
    rows: int
    """Rows left to ask."""
    places: Sequence[int]
    """One of them for each request: rows with the same prompt are asked once."""
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
    config = config.model_copy(update={"judge": asking.with_template(config.judge)})
    asked = rubric.load(config.judge.rubric)
    work = ScoreWork(config.judge, asked, reply_form(config.judge, asked))
    check_model(config.judge, "score")
    stage, examples = run.ratings(config.name), run.examples().finished("ingest")
    settings = settings_of(config, work.rubric)
    done = stage.manifest()
    _check_same(stage, done, config.judge, settings, {"examples": examples.content_hash()} | inputs_of(config.judge))
    if done is None:
        asking.check_cap(config, config.judge, prices.tariff(config.judge))
    away = _under_way(stage)  # before the replies are read: what is collected meanwhile stands among those
    parts = _parts(config, work, run, examples, done, away)
    sample = _sample(work, run.examples(), parts)
    return {
        "plan": True,
        "stage": stage.name,
        "location": stage.storage.root,
        "rows": examples.rows,
        "left": sum(part.rows for part in parts),
        "limit": config.limit,
        **(_paid(config, stage, parts, sample, away) if config.judge.is_model else {"requests": 0, "prompt": None}),
        "asks": addresses.shown(config.judge),
        "hashes": _hashes(settings, examples, sample),
        "notes": list(_notes(config, parts, done, away)),
    }


def _check_same(stage: StageDir, done: Manifest | None, judge: Judge, settings: dict[str, Any], inputs: dict[str, str]) -> None:
    begun = None if done else stage.begun()
    made = done or begun
    if made is not None:
        stage.same_or_refuse(made, settings, inputs)
        addresses.check(stage, made, judge)
    if begun is not None and begun.rescoring:
        raise UsageError(f"a --rescore of {stage.name} was interrupted; run it to its end with --rescore first")


def _under_way(stage: StageDir) -> UnderWay:
    page, items = at_provider(stage.storage)
    keys: defaultdict[str, set[str]] = defaultdict(set)
    for item in items:
        keys[item.shard].add(item.key)
    reserved = sum(entry.usd for entry in page.entries if entry.lent)
    by_shard = {shard: frozenset(found) for shard, found in keys.items()}
    return UnderWay(by_shard, len(items), len(page.entries), reserved, page.at_most_usd)


def _parts(config: Score, work: ScoreWork, run: Run, examples: Manifest, done: Manifest | None, away: UnderWay) -> list[Part]:
    """Every shard, with what is left to ask of the rows that the call is about."""
    stage = run.ratings(config.name)
    committed = {} if done else {entry.shard: entry for entry in shards.committed(stage)}
    trial = None if config.limit is None else drawn(examples, config.limit)
    jobs: list[tuple[FileEntry, Sequence[int], frozenset[str]]] = []
    for entry in examples.parts():
        record = committed.get(entry.name)
        # as for a call of an unfinished stage: what failed gets another chance
        over = done is not None or (record is not None and not record.counts.get(parse_rating.FAILED))
        rows: Sequence[int] = () if over else range(entry.rows) if trial is None else trial.get(entry.name, ())
        jobs.append((entry, rows, away.keys.get(entry.name, frozenset())))
    if not config.judge.is_model:
        return [Part(entry, len(rows), (), Counter()) for entry, rows, _ in jobs]
    with ThreadPoolExecutor(shards.READERS) as pool:
        return list(pool.map(lambda job: _part(work, run.examples(), stage, *job), jobs))


def _part(
    work: ScoreWork, source: StageDir, stage: StageDir, entry: FileEntry, rows: Sequence[int], away: frozenset[str]
) -> Part:
    """What is left of the rows at these places of a shard, without the requests that are `away` in batches."""
    known = shards.stored_replies(stage, entry.name).replies
    keys: list[str] = []
    if rows and (known or away):
        keys = [work.request(row).key for row in source.table(entry.name, entry.sha256).take(list(rows)).to_pylist()]
    elif rows:
        # the content decides the prompt, and is read in a hundredth of the time that making the prompts takes
        table = source.table(entry.name, entry.sha256, ["content_hash"])
        keys = (table if len(rows) == entry.rows else table.take(list(rows)))["content_hash"].to_pylist()
    left = [(place, key) for place, key in zip(rows, keys, strict=True) if key not in known and key not in away]
    first = {key: place for place, key in reversed(left)}
    return Part(entry, len(left), sorted(first.values()), _measure(known.values()))


def _measure(outcomes: Iterable[Outcome]) -> Counter[str]:
    """Sums over replies that were asked for themselves, not taken from an equal row."""
    sums: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.reply is not None and outcome.attempts:
            found = {**outcome.reply._asdict(), "latency_s": outcome.latency_s, "count": 1}
            for field in ("count", *MEASURED):
                if found[field] is not None:
                    sums.update({field: found[field], f"n {field}": 1})
    return sums


def _mean(known: Counter[str], field: str) -> float | None:
    return known[field] / known[f"n {field}"] if known[f"n {field}"] else None


def evenly(total: int, most: int = SAMPLE) -> list[int]:
    """At most so many numbers below `total`, evenly spread, 0 among them: the same ones every time."""
    size = min(total, most)
    return [place * total // size for place in range(size)]


def _sample(work: ScoreWork, source: StageDir, parts: Sequence[Part]) -> list[Request]:
    """Requests evenly spread over those that would be sent, the first among them."""
    chosen = evenly(sum(len(part.places) for part in parts))
    requests, start = [], 0
    for part in parts:
        end = start + len(part.places)
        places = [part.places[number - start] for number in chosen if start <= number < end]
        if places:
            requests += [work.request(row) for row in source.table(part.entry.name, part.entry.sha256).take(places).to_pylist()]
        start = end
    return requests


def _paid(config: Score, stage: StageDir, parts: Sequence[Part], sample: Sequence[Request], away: UnderWay) -> dict[str, Any]:
    """The part of the summary that only judges have which are asked over a network."""
    tariff, known = prices.tariff(config.judge), _all_known(parts)
    requests = sum(len(part.places) for part in parts)
    counted = _count_in(config, sample, requests)
    reply = _mean(known, "tokens_out")
    volume = Volume(
        requests,
        requests * counted["in_each"],
        requests * (SHORTEST_REPLY if reply is None else reply),
        None if tariff.max_tokens is None else float(requests * tariff.max_tokens),
    )
    out = {"out_low": round(volume.out_low), "out_high": None if volume.out_high is None else round(volume.out_high)}
    return {
        "model": config.judge.model,
        "mode": config.judge.mode,
        "requests": requests,
        "under_way": {"requests": away.requests, "batches": away.batches},
        "replies": {"count": known["count"]} | {field: _rounded(_mean(known, field)) for field in MEASURED},
        "tokens": {**counted, "in": round(volume.tokens_in), **out, "longest_reply": tariff.max_tokens},
        "dollars": _dollars(config, tariff, volume, _spent(known, stage, away), away),
        "minutes": _minutes(config, volume, sum(1 for part in parts if part.places), _mean(known, "latency_s")),
        "prompt": sample[0].messages if sample else None,
    }


def _all_known(parts: Sequence[Part]) -> Counter[str]:
    return sum((part.known for part in parts), Counter())


def _count_in(config: Score, sample: Sequence[Request], requests: int) -> dict[str, Any]:
    """Mean tokens of the sampled prompts, and by which share of it the mean over all may differ (two standard errors)."""
    if not sample:
        return {"counted_by": None, "estimate": False, "sampled": 0, "in_each": 0.0, "margin": 0.0}
    counter = tokens.counter(config.judge)
    lengths = counter.lengths([request.messages for request in sample])
    mean, seen = statistics.fmean(lengths), len(lengths)
    error = statistics.stdev(lengths) * math.sqrt((1 - seen / requests) / seen) if seen < requests else 0.0
    return {
        "counted_by": counter.by,
        "estimate": counter.estimate,
        "sampled": seen,
        "in_each": round(mean, 2),
        "margin": round(2 * error / mean, 4),
    }


def _spent(known: Counter[str], stage: StageDir, away: UnderWay) -> float | None:
    """Dollars spent so far, at most: the cost of the replies, what is reserved for batches under way, and what a call that
    was killed may have spent besides. None where there are replies and nothing tells."""
    bound = at_most_spent(stage.storage) if away.at_most_usd is None else away.at_most_usd
    at_most = max(float(known["cost_usd"]), bound)
    return None if known["count"] and not known["n cost_usd"] and not at_most else at_most


def _dollars(config: Score, tariff: prices.Tariff, volume: Volume, spent: float | None, away: UnderWay) -> dict[str, Any]:
    """What is to be paid, and for how many requests `max_cost_usd` is enough (null: for all). What is reserved for batches
    under way comes back, but for what their requests cost."""
    low = tariff.dollars(volume.tokens_in, volume.out_low)
    high = None if volume.out_high is None else tariff.dollars(volume.tokens_in, volume.out_high)
    cap, free = config.max_cost_usd, (config.max_cost_usd or 0.0) - (spent or 0.0) + away.reserved_usd
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
        "price": _price(config, tariff),
    }


def _price(config: Score, tariff: prices.Tariff) -> dict[str, Any] | None:
    """Dollars a million tokens, and who says so."""
    if tariff.price is None:
        return None
    listed = config.judge.price is None
    source = f"listed {prices.price_list()['as_of']}" if listed else "score.judge.price"
    return {"input": tariff.price.input, "output": tariff.price.output, "share": tariff.share, "source": source}


def _minutes(config: Score, volume: Volume, open_shards: int, latency_s: float | None) -> dict[str, Any]:
    """The least time that the known limits allow, and which of them decides; null where none is known."""
    ways: dict[str, float] = {}
    if config.judge.mode == "live" and volume.requests:
        limits = _limits(config)
        loads = Rate(float(volume.requests), volume.tokens_in + volume.out_low)
        ways = {f"score.{kind}_per_minute": loads._asdict()[kind] / limit for kind, limit in limits.items()}
        if latency_s is not None:
            actors = config.actors if isinstance(config.actors, int) else max(config.actors or (1,))
            in_flight = asking.concurrency(config, config.judge) * min(actors, open_shards or 1)
            ways["score.concurrency"] = volume.requests * latency_s / 60 / in_flight
    binding = max(ways, key=lambda way: ways[way]) if ways else None
    return {"least": None if binding is None else round(ways[binding], 2), "bound_by": binding}


def _limits(config: Score) -> dict[str, float]:
    """`requests` and `tokens` a minute over all endpoints together; one without a limit takes whatever comes."""
    rates = asking.rates(config, config.judge)
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


def _notes(config: Score, parts: Sequence[Part], done: Manifest | None, away: UnderWay) -> Iterator[str]:
    """What a reader has to know besides the numbers."""
    judge = config.judge
    if done is not None:
        yield "the stage is finished: a call returns at once"
        without = sum(done.counts.get(status, 0) for status in parse_rating.UNSCORED)
        if without and judge.is_model:
            yield f"{without:,} rows have no score; --retry-failed asks for them again"
    if not judge.is_model:
        yield f"score.judge.kind={judge.kind} sends nothing and costs nothing"
        return
    if away.reserved_usd:
        yield f"what is spent includes {away.reserved_usd:,.4g} dollars, the most that the requests under way can cost"
    if judge.kind == "vllm":
        yield "a model in the job: what it costs is its machines' time"
    elif prices.price(judge) is None:
        yield (
            f"no price is known for {judge.model} at {' and '.join(_hosts(judge))}; give one in dollars a million tokens, e.g. "
            "--set 'score.judge.price={input: 0.15, output: 0.6}'"
        )
    if prices.tariff(judge).max_tokens is None:
        yield "score.judge.max_tokens is null: nothing bounds what a reply can cost"
    if judge.mode == "batch":
        yield "through the batch API: up to 24 hours per round"
    elif any(part.places for part in parts) and not (_all_known(parts)["n latency_s"] or _limits(config)):
        yield "how long it takes is not known: no limit is set and no reply was timed; --limit 100 without --plan tells"


def _hosts(judge: Judge) -> list[str]:
    """The hosts of the endpoints, each once."""
    return list(dict.fromkeys(prices.host(place) for place in judge.at_each_endpoint()))
