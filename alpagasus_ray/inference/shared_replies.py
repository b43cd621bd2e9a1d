"""Replies that several small stages share, so that a row is paid for once whatever other rows it is rated with.

A directory with one entry for each request, by its key, which holds the model, the prompt and all that decides the reply.
A stage is lent what is there as if an earlier call had left it, and what it has bought besides is kept when it ends. For inputs
of thousands of rows, not millions: a reply is a file.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from alpagasus_ray.config import EngineConfig, digest
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference.addresses import recorded, routes_of
from alpagasus_ray.inference.backlog import Backlog
from alpagasus_ray.inference.ledger import Ledger, Outcome, stored_in_output
from alpagasus_ray.inference.spec import Job
from alpagasus_ray.inference.stage import InferenceStage, Target
from alpagasus_ray.store.run import Begun, Manifest, StageDir, differences
from alpagasus_ray.store.storage import Storage

THREADS = 16
Keys = Mapping[str, Sequence[str]]
"""Of each shard, the keys of its rows' requests."""


@dataclass(frozen=True)
class SharedReplies:
    """The directory of them."""

    storage: Storage
    before_asking: Callable[[EngineConfig], None] = lambda _: None
    """Called before a stage is lent what it needs, where that is not all: raises where nobody could be asked."""

    @contextmanager
    def lent(self, stage: InferenceStage, target: Target) -> Iterator[None]:
        """Lend a stage the replies to its requests, and keep those that it buys while the block runs, however that ends."""
        done = target.home.manifest()
        if not stage.spec.paid or (done is not None and not any(done.counts.get(status) for status in stage.spec.again)):
            yield
            return
        # the same model name at another address, or by other headers of a gateway, may be another model
        shared = SharedReplies(self.storage.at(digest(routes_of(stage.spec.engine))[:16]))
        job = stage.job(target)
        keys = _keys(stage, target)
        wanted = {key for of_shard in keys.values() for key in of_shard}
        known = shared.load(wanted)
        _seed(job, keys, known)
        if not wanted <= known.keys():
            self.before_asking(stage.spec.engine)
        try:
            yield
        finally:
            shared.add({key: outcome for key, outcome in _bought(job, keys) if key not in known})

    def load(self, keys: Iterable[str]) -> dict[str, Outcome]:
        """The replies to these requests that are there."""
        with ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(lambda key: self._ledger(key).load().replies.items(), keys)
            return dict(entry for entries in found for entry in entries)

    def add(self, outcomes: Mapping[str, Outcome]) -> None:
        """Keep replies."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda entry: self._add(*entry), outcomes.items()))

    def _add(self, key: str, outcome: Outcome) -> None:
        ledger = self._ledger(key)
        ledger.add(key, key, outcome)
        ledger.flush()

    def _ledger(self, key: str) -> Ledger:
        return Ledger(self.storage.at(key[:2], key))


def lend_from(stage: InferenceStage, target: Target, places: Sequence[str]) -> None:
    """Lend a stage the replies that other ratings, of this run or another, hold for the same requests. `UsageError` where
    those are not of the same judge."""
    if stage.spec.paid and target.home.manifest() is None and places:
        _seed(stage.job(target), _keys(stage, target), replies_of(stage, places))


def replies_of(stage: InferenceStage, places: Sequence[str]) -> dict[str, Outcome]:
    """All replies that these directories of ratings hold, finished or not; a judge with other settings, or at another address,
    is refused."""
    known: dict[str, Outcome] = {}
    for place in places:
        home = StageDir(place, Storage.open(place))
        made = home.manifest() or home.begun()
        if made is None:
            raise UsageError(
                f"{stage.spec.section}.reuse: {place!r} holds no ratings; name a directory that does, e.g. runs/a/ratings/judge"
            )
        changed = differences(made.settings, stage.task.settings)
        if list(recorded(made)) != routes_of(stage.spec.engine) and not stage.spec.engine.other_address:
            changed.append(f"asked at {', '.join(recorded(made)) or 'no address on record'}")
        if changed:
            lines = "\n  ".join(changed)
            raise UsageError(
                f"{stage.spec.section}.reuse: {place!r} was made otherwise, and its replies are no answers here:\n  {lines}"
            )
        known |= _held(home, made)
    return known


def _held(home: StageDir, made: Manifest | Begun) -> dict[str, Outcome]:
    backlog = Backlog(home)
    entries = made.parts() if isinstance(made, Manifest) else backlog.done()
    known: dict[str, Outcome] = {}
    for entry in entries:
        known |= stored_in_output(home.table(entry.name, entry.sha256)).replies
    if isinstance(made, Begun):
        names = (f"{home.name}/{name}" for name in home.storage.all_names())
        for stored in backlog.stored_replies(backlog.open(sorted(backlog.begun(names)))).values():
            known |= stored.replies
    return known


def lend_finished(stage: InferenceStage, target: Target, home: StageDir, made: Manifest) -> None:
    """Lend a stage the replies that a finished one with the same settings has bought for the same requests at the same
    addresses; none where headers or a query of a gateway may choose the model, for these are not on record."""
    if not stage.spec.paid or target.home.manifest() is not None:
        return
    if made.settings != stage.task.settings or list(recorded(made)) != routes_of(stage.spec.engine):
        return
    known: dict[str, Outcome] = {}
    ids = []
    for table in home.tables(made):
        known |= stored_in_output(table).replies
        ids += table["example_id"].to_pylist()
    _seed(stage.job(target), _keys(stage, target, pa.array(ids, pa.string())), known)


def _keys(stage: InferenceStage, target: Target, ids: pa.Array | None = None) -> Keys:
    """The keys of all rows, or of those with these ids."""
    tables = ((entry.name, target.source.table(entry.name, entry.sha256)) for entry in target.listed.parts())
    return {
        name: [
            stage.task.request(row).key
            for row in (table if ids is None else table.filter(pc.is_in(table["example_id"], value_set=ids))).to_pylist()
        ]
        for name, table in tables
    }


def _seed(job: Job, keys: Keys, known: Mapping[str, Outcome]) -> None:
    """Put what is known into the ledgers of the shards that are open."""
    for shard in job.backlog.open(list(keys)):
        own = job.backlog.known(shard).replies
        lent = {key: known[key] for key in keys[shard] if key in known and key not in own}
        ledger = job.ledger(shard)
        for key, outcome in lent.items():
            ledger.add(key, key, outcome.shared())  # it was paid for elsewhere
        ledger.flush()


def _bought(job: Job, keys: Keys) -> Iterator[tuple[str, Outcome]]:
    """All replies that a stage holds, finished or not."""
    for shard in keys:
        yield from job.backlog.known(shard).replies.items()
        if job.home.storage.exists(shard):
            yield from stored_in_output(job.home.storage.read_table(shard)).replies.items()
