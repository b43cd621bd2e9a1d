"""Looks, before any money is spent, whether `score` can do its work here: key, model, price, storage, actors, versions, and
what a submitted job would send.

Sends no request that is billed, and leaves nothing in the run. Keys are read and used, never shown.
"""

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from alpagasus_ray.config import EngineConfig, Judge, Score
from alpagasus_ray.doctor import storage_probe, upload
from alpagasus_ray.engines.model_list import Listing, ask_models, is_open
from alpagasus_ray.engines.openai_api import NO_KEY, read_key
from alpagasus_ray.engines.prices import price_list, tariff
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference.spec import AskSpec
from alpagasus_ray.raycluster import connect, nodes, preflight
from alpagasus_ray.raycluster.nodes import Facts
from alpagasus_ray.raycluster.pool import Pool, PoolRequest
from alpagasus_ray.raycluster.preflight import Check
from alpagasus_ray.raycluster.ray_internals import resources_here
from alpagasus_ray.store.run import Run
from alpagasus_ray.store.storage import Storage

MIB = 1 << 20
LARGE_BYTES = 50 * MIB
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the driver of a submitted job."""
ENTRY = Path("jobs", "score.py")
TRIAL = "a trial shows it: alpagasus score RUN --limit 1"
SHORTEST_KEY = 16
"""What stands in for a key where a server needs none (`EMPTY`) is a word that files may well hold."""


def examine(config: Score, run: Run) -> list[Check]:
    """All checks that apply to the judge of `score`."""
    checks = list(_judge(config)) if config.judge.is_remote else []
    checks.append(_storage(run.storage))
    checks += _place(config, run.storage)
    if SUBMITTED not in os.environ:
        checks.append(_working_directory(config.judge))
    return checks


def _judge(config: Score) -> Iterator[Check]:
    judge = config.judge
    places = judge.at_each_endpoint()
    for number, place in enumerate(places, start=1):
        label = f" {number}" if len(places) > 1 else ""
        unusable = _unusable_key(place)
        if unusable is not None:
            yield Check(f"key{label}", "problem", *unusable)
            continue
        listing = ask_models(place)
        yield _key(place, listing, f"key{label}")
        if judge.model is not None and listing.status not in (None, 401, 403):
            yield _model(judge.model, listing, f"model{label}")
    if judge.model is None:
        yield Check("model", "problem", "`score.judge.model` is not set", "name the model that judges")
    yield _price(config)


def _unusable_key(judge: EngineConfig) -> tuple[str, str] | None:
    """What is wrong with a key that need not be sent to know, and what to do."""
    name = judge.api_key_env
    fix = f"set {name}, or {name}_FILE to a file that holds the key and nothing else"
    try:
        key = read_key(judge)
    except UsageError as error:
        return str(error), fix
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        return f"what {_key_source(judge)} holds is no key: it is empty, or has a space, a line break or the like in it", fix
    return None


def _key_source(judge: EngineConfig) -> str:
    name = judge.api_key_env
    return name if os.environ.get(name) else f"the file that {name}_FILE names"


def _key(judge: EngineConfig, listing: Listing, name: str) -> Check:
    place, status = listing.address, listing.status
    given = read_key(judge) != NO_KEY
    if status is None:
        fix = "see that the server runs and that score.judge.base_url is its address"
        return Check(name, "problem", f"{place} cannot be reached: {listing.detail}", fix)
    if status in (401, 403):
        refused = f"the server refuses the key in {_key_source(judge)}" if given else "the server wants a key, and none is set"
        fix = f"give {judge.api_key_env} a key that is valid there"
        return Check(name, "problem", f"{place}: {refused} (http {status})", fix)
    if status == 404:
        return Check(name, "warning", f"{place} has no list of models, so whether it takes the key is not known", TRIAL)
    if status != 200:
        return Check(name, "warning", f"{place} answers http {status} when asked for its models", "try again later")
    if given and is_open(judge):
        detail = f"not tested: {place} lists its models without a key too, so whether it takes the one in {_key_source(judge)} "
        return Check(name, "warning", f"{detail}is not known", TRIAL)
    return Check(name, "ok", f"{place} takes the key in {_key_source(judge)}" if given else f"{place} needs no key")


def _model(model: str, listing: Listing, name: str) -> Check:
    if listing.models is None:
        return Check(name, "warning", f"whether {listing.address} has {model!r} is not known: it lists no models", TRIAL)
    if model in listing.models:
        return Check(name, "ok", f"{listing.address} has {model!r}")
    near = difflib.get_close_matches(model, listing.models, n=3) or listing.models[:3]
    detail = f"{model!r} is not among the {len(listing.models):,} models of {listing.address}"
    return Check(name, "problem", detail, f"set score.judge.model to one of them, e.g. {', '.join(near)}" if near else "")


def _price(config: Score) -> Check:
    judge, counted = config.judge, tariff(config.judge)
    try:
        AskSpec.of(config, judge).check_cap()
    except UsageError as error:
        detail, _, fix = str(error).partition(". ")
        return Check("price", "problem", detail, fix)
    if counted.price is None:
        fix = "to have costs counted, e.g. --set 'score.judge.price={input: 0.15, output: 0.6}'"
        return Check("price", "warning", f"no price is known for {judge.model!r}", fix)
    source = "the recipe" if judge.price else f"the price list of {price_list()['as_of']}"
    share = "" if counted.share == 1 else f", {counted.share:.0%} of that by batch"
    dollars = f"{counted.price.input:g} in, {counted.price.output:g} out"
    return Check("price", "ok", f"dollars a million tokens: {dollars}{share} (from {source})")


def _storage(storage: Storage) -> Check:
    kind = storage_probe.network_kind(storage)
    try:
        with storage_probe.placed(storage) as name:
            wrong = storage_probe.faults(storage, name)
    except OSError as error:
        reason = error.strerror or error
        return Check("storage", "problem", f"{storage.root} cannot be used: {reason}", "see to the right to write, or move it")
    if wrong:
        return Check("storage", "problem", f"{storage.root}: {'; '.join(wrong)}", "put the run on other storage")
    if kind is not None:
        fix = "one driver at a time; an object store (s3://…, gs://…) has no such limits"
        return Check("storage", "warning", f"{storage.root} is on {kind}, where locks of other machines may not hold", fix)
    return Check("storage", "ok", f"{storage.root} is written, read, listed, replaced whole and deleted")


def _place(config: Score, storage: Storage) -> list[Check]:
    """Where the actors are to run: the cluster that RAY_ADDRESS names, or this machine."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith(("http://", "https://")):
        fix = "submit this check as well: ray job submit --working-dir . -- python jobs/doctor.py --run …"
        return [Check("cluster", "warning", f"{address} is the address of the job API: nodes are not seen from here", fix)]
    if not address:
        pool = connect.demand(PoolRequest.of(config, config.judge), resources_here())
        here = nodes.fitting(resources_here(), pool)
        return [_actors(pool, here, here, here), preflight.same_versions([])]
    try:
        connect.knock(address)
        connect.connect()
    except OSError as error:
        return [Check("cluster", "problem", f"RAY_ADDRESS = {address}: {error}", "see that the cluster runs")]
    except UsageError as error:
        detail, _, fix = str(error).partition("; ")
        return [Check("cluster", "problem", detail, fix)]
    return list(_cluster(config, storage))


def _cluster(config: Score, storage: Storage) -> Iterator[Check]:
    with ExitStack() as stack:
        name = None
        with suppress(OSError):  # the check of the storage tells of it
            name = stack.enter_context(storage_probe.placed(storage))
        places = _places_with_keys(config.judge)
        found = nodes.look(storage, name, places)
    facts = [node for node in found if isinstance(node, Facts)]
    yield preflight.answers(found)
    if not facts:
        return
    if places:
        yield _keys_of_nodes(facts)
    pool = connect.wanted(PoolRequest.of(config, config.judge))
    most = nodes.most_actors(found, pool)
    present = sum(nodes.on_node(node.resources, node.labels, pool) for node in facts)
    yield preflight.shared(storage, facts, grows=most is None or most > present)
    yield _actors(pool, present, min(present, nodes.fitting(connect.free(), pool)), most)
    yield preflight.same_versions(facts)


def _places_with_keys(judge: Judge) -> list[EngineConfig]:
    """The endpoints that want a key, as far as is seen from here: all but those that are asked without one."""
    return [place for place in judge.at_each_endpoint() if judge.is_remote and not _is_asked_without_key(place)]


def _is_asked_without_key(judge: EngineConfig) -> bool:
    with suppress(UsageError):  # the check of the key tells of it
        return read_key(judge) == NO_KEY
    return False


def _keys_of_nodes(facts: Sequence[Facts]) -> Check:
    """Each node reads the keys from its own environment or from its own files."""
    without = [node for node in facts if node.keyless]
    if without:
        first = f"{without[0].address} first: {without[0].keyless[0]}"
        fix = "give the keys to the environment in which Ray is started on each node, or to a file that is on each (…_FILE)"
        return Check("keys of nodes", "problem", f"{len(without)} of {len(facts)} nodes have no usable key, {first}", fix)
    return Check("keys of nodes", "ok", f"nodes that can read the keys: {len(facts)}")


def _actors(pool: Pool, present: int, free: int, most: int | None) -> Check:
    """Whether the actors find a place: `present` fit the nodes, `free` what of them is idle, `most` after autoscaling."""
    wanted = pool.most
    if (pool.cpus, pool.gpus) == (1, 0):
        detail = f"actors of one CPU each: {wanted}; CPUs: {present}"
    else:
        gpus = f" and {pool.gpus} GPUs" if pool.gpus else ""
        detail = f"engines of {pool.cpus} CPUs{gpus} each: {wanted}; the nodes hold {present}"
    if wanted <= free:
        return Check("actors", "ok", detail)
    if wanted <= present:
        return Check("actors", "warning", f"{detail}, {free} of them idle", "wait for other jobs, or lower score.actors")
    if most is None:
        fix = "lower score.actors, unless you know that the autoscaler adds as many"
        return Check("actors", "warning", f"{detail}; how far the autoscaler may go is not to be seen from here", fix)
    if wanted <= most:
        return Check("actors", "ok", f"{detail}, {most} after autoscaling")
    if most == 0:
        fix = "larger nodes; score.labels says which, and score.judge.vllm.cpus, gpu and tensor_parallel what an engine takes"
        return Check("actors", "problem", detail, fix)
    grown = f", {most} after autoscaling" if most > present else ""
    return Check("actors", "problem", detail + grown, f"--set score.actors={most}, or a larger cluster")


def _working_directory(judge: Judge) -> Check:
    """What `ray job submit --working-dir .` would send from here."""
    name = "working directory"
    if not ENTRY.exists():
        return Check(name, "ok", f"there is no {ENTRY} here, so no job is submitted from here")
    files = upload.sent_files(Path())
    size = sum(file.bytes for file in files)
    detail = f"ray job submit would send {len(files):,} files, {size / MIB:,.1f} MiB"
    secrets = upload.secrets_among(files, _keys(judge))
    ignore = "name it in .rayignore"
    if secrets:
        paths = ", ".join(str(path.relative_to(Path.cwd())) for path in secrets[:3])
        return Check(name, "problem", f"{detail}, and {paths} may hold a key", ignore)
    largest = max(files, key=lambda file: file.bytes).path.relative_to(Path.cwd())
    if size >= upload.LIMIT_BYTES:
        limit = f"Ray takes less than {upload.LIMIT_BYTES / MIB:,.0f} MiB"
        return Check(name, "problem", f"{detail}; {limit}; {largest} is the largest", ignore)
    if size >= LARGE_BYTES:
        return Check(name, "warning", f"{detail}; {largest} is the largest", ignore)
    return Check(name, "ok", detail)


def _keys(judge: Judge) -> Iterator[str]:
    for place in judge.at_each_endpoint() if judge.is_remote else ():
        with suppress(UsageError):
            key = read_key(place)
            if len(key) >= SHORTEST_KEY:
                yield key
