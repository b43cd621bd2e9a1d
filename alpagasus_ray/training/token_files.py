"""An arm as files of tokens: made shard by shard in Ray tasks, mapped into memory where it is trained on.

A shard `part-00012.parquet` of the arm becomes `part-00012.arrow` (one record batch of schema TOKENS), and what of it cannot be
trained on is in `dropped-00012.parquet`. Knows Arrow and stage directories; nothing of torch.
"""

import fnmatch
import functools
import hashlib
import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from numpy.typing import NDArray

from alpagasus_ray.config import Finetune, digest
from alpagasus_ray.data.schema import DROPPED, MASKED, SUBSET, TOKENS, conformed
from alpagasus_ray.errors import AlpagasusError, StageFailed, UsageError
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, StageDir, totals
from alpagasus_ray.store.storage import Storage, Written
from alpagasus_ray.training.encode import Encoded, Encoder, Left
from alpagasus_ray.version import __version__

WHOLE, CUT, LEFT = "whole", "cut", "left out"
READ = ["example_id", "instruction", "input", "output", "system", "history", "score"]
ROW = pa.schema([*(SUBSET.field(name) for name in READ), SUBSET.field("learn")])
TOKENIZER_FILES = ("*token*", "vocab*", "merges.txt", "chat_template*", "*.model", "*.tiktoken", "tekken.json", "*.py")
TASKS_PER_CPU = 4
COPIES_AT_ONCE = 16

Integers = NDArray[np.int64]


def token_settings(config: Finetune) -> dict[str, Any]:
    """What decides the tokens of an arm."""
    return {
        "model": config.model,
        "revision": config.revision,
        "tokenizer": _tokenizer_print(config.model),
        "template": config.template,
        "chat_template_kwargs": config.chat_template_kwargs,
        "max_length": config.max_length,
        "too_long": config.too_long,
    }


def _tokenizer_print(model: str | None) -> str | None:
    """What tells a tokenizer on this machine that was changed; None for one of a hub."""
    if model is None or not os.path.isdir(model):
        return None
    paths = (os.path.join(model, name) for name in sorted(os.listdir(model)) if _is_tokenizers(name))
    return digest([(os.path.basename(path), _sha256(path)) for path in paths if os.path.isfile(path)])


def _is_tokenizers(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in TOKENIZER_FILES)


def _sha256(path: str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def encode_arm(config: Finetune, source: StageDir, source_manifest: Manifest, target: StageDir) -> Manifest:
    """Make `target` from an arm, unless it is made already; what was made with other settings is made anew, as nothing was
    paid for it. Ray must be up. A `UsageError` tells of an arm of which nothing can be trained on."""
    settings, inputs = token_settings(config), {source.name: source_manifest.content_hash()}
    made = target.manifest()
    if made is not None and (made.settings, made.inputs) == (settings, inputs):
        target.tidy()
        return made
    started = time.monotonic()
    target.storage.delete_tree()
    begun = Begun(settings=settings, inputs=inputs)
    target.begin(begun)
    parts = source_manifest.parts()
    entries = _encoded_shards(config, source, target, parts)
    files = sorted(entries, key=lambda entry: entry.name)
    manifest = _summed_up(target, files, begun.after(time.monotonic() - started))
    expected = sum(part.rows for part in parts)
    if manifest.rows != expected:
        raise StageFailed(
            f"{target.name}: {manifest.rows:,} rows came of the {expected:,} of {source.name}; this is our mistake"
        )
    _check_trainable(config, source, manifest)
    target.finish(manifest)
    return manifest


def _encoded_shards(config: Finetune, source: StageDir, target: StageDir, parts: Sequence[FileEntry]) -> Iterator[FileEntry]:
    """Encode shards on the cluster, some at a time, so that little is left running when one fails."""
    import ray
    import ray.exceptions

    from alpagasus_ray.raycluster import placement, preflight
    from alpagasus_ray.raycluster.pool import ONE

    pool = ONE._replace(labels=placement.labels_of(None, placement.CPU))
    placement.check(pool, "examples are made tokens of by a process a shard")
    preflight.check(source, pool.labels)
    task = ray.remote(num_cpus=1, label_selector=dict(pool.labels))(_encode_there)
    waiting = iter(parts)
    running: list[Any] = []
    while True:
        # looked at again and again, for nodes may come; a few more than fit ask the autoscaler for the next
        most = TASKS_PER_CPU * max(1, int(placement.total(pool.labels)["CPU"]))
        parts_now = itertools.islice(waiting, max(0, most - len(running)))
        running += [task.remote(config, source, target, (part.name, part.sha256), __version__) for part in parts_now]
        if not running:
            return
        done, running = ray.wait(running)
        try:
            yield from ray.get(done[0])
        except ray.exceptions.RayTaskError as failed:
            if isinstance(failed.cause, AlpagasusError):
                raise failed.cause from None
            raise


def _summed_up(target: StageDir, files: list[FileEntry], begun: Begun) -> Manifest:
    sums = totals(files)
    counts = {outcome: sums.counts[outcome] for outcome in (WHOLE, CUT, LEFT)}
    usage = {field: sums.usage[field] for field in ("tokens", "label_tokens")}
    longest = int(max((entry.usage.get("longest", 0) for entry in files), default=0))
    details = {"reasons": dict(sums.reasons.most_common()), "longest": longest}
    manifest = target.build(begun, files, libraries=("transformers", "tokenizers"), details=details)
    # what is left out is in files of its own, and is among the rows all the same
    rows = sum(entry.rows for entry in files)
    return manifest.model_copy(update={"rows": rows, "counts": counts, "usage": usage})


def _check_trainable(config: Finetune, source: StageDir, manifest: Manifest) -> None:
    if manifest.counts[WHOLE] + manifest.counts[CUT]:
        return
    why = ", ".join(f"{count:,} {reason}" for reason, count in manifest.details["reasons"].items())
    raise UsageError(
        f"{source.name}: none of its {manifest.rows:,} examples can be trained on ({why or 'it has none'}). Raise "
        f"finetune.max_length (now {config.max_length}), see finetune.too_long (now {config.too_long}), or take another "
        f"finetune.template (now {config.template})"
    )


def _encode_there(
    config: Finetune, source: StageDir, target: StageDir, shard: tuple[str, str], version: str
) -> list[FileEntry]:
    """The same on a node that may have come since the others were asked what they see."""
    from alpagasus_ray.raycluster import worker_process

    worker_process.take_part(source, version)
    return encode_shard(config, source, target, *shard)


def encode_shard(config: Finetune, source: StageDir, target: StageDir, name: str, sha256: str | None = None) -> list[FileEntry]:
    """Encode one shard of an arm: entries of the file with its tokens, and of the one with what was left out, if any was.
    The `usage` of the first is `tokens`, `label_tokens` (sums) and `longest` (of the examples kept)."""
    kept, left = encoded(config, conformed(source.table(name, sha256), ROW).to_pylist())
    number = name.removeprefix("part-").removesuffix(".parquet")
    entries = [_write_kept(target.storage, f"part-{number}.arrow", kept)]
    if left:
        entries.append(_write_left(target.storage, f"dropped-{number}.parquet", left))
    return entries


def encoded(
    config: Finetune, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[str, Encoded]], list[tuple[Mapping[str, Any], Left]]]:
    """Rows of an arm as tokens, by their ids, and those that cannot be trained on."""
    encoder = _encoder(config.model_dump_json(), _tokenizer_print(config.model))
    found = list(zip(rows, encoder.encode(rows), strict=True))
    kept = [(row["example_id"], outcome) for row, outcome in found if isinstance(outcome, Encoded)]
    return kept, [(row, outcome) for row, outcome in found if isinstance(outcome, Left)]


@functools.lru_cache(maxsize=1)
def _encoder(config: str, _print: str | None) -> Encoder:
    """A process encodes many shards with one tokenizer."""
    return Encoder(Finetune.model_validate_json(config))


def _write_kept(storage: Storage, name: str, kept: Sequence[tuple[str, Encoded]]) -> FileEntry:
    examples = [example for _, example in kept]
    lengths = [len(example.ids) for example in examples]
    labels = sum(example.label_tokens for example in examples)
    cut = sum(example.cut for example in examples)
    return FileEntry(
        name=name,
        rows=len(kept),
        **_write_batch(storage, name, as_batch(kept))._asdict(),
        counts={WHOLE: len(kept) - cut, CUT: cut},
        usage={"tokens": sum(lengths), "label_tokens": labels, "longest": max(lengths, default=0)},
    )


def as_batch(kept: Sequence[tuple[str, Encoded]]) -> pa.RecordBatch:
    """Examples by their ids, of schema TOKENS."""
    ids, prompts = [example.ids for _, example in kept], [example.prompt_tokens for _, example in kept]
    masked = [[place for part in example.masked for place in part] or None for _, example in kept]
    columns = [[example_id for example_id, _ in kept], ids, prompts]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, TOKENS, strict=True)]
    if any(masked):
        return pa.record_batch([*arrays, pa.array(masked, MASKED.type)], schema=TOKENS.append(MASKED))
    return pa.record_batch(arrays, schema=TOKENS)


def _write_batch(storage: Storage, name: str, batch: pa.RecordBatch) -> Written:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return storage.write(name, sink.getvalue().to_pybytes())


def _write_left(storage: Storage, name: str, left: Sequence[tuple[Mapping[str, Any], Left]]) -> FileEntry:
    rows = [{"example_id": row["example_id"], "score": row["score"], "reason": outcome.reason} for row, outcome in left]
    return FileEntry(
        name=name,
        rows=len(left),
        **storage.write_table(name, pa.Table.from_pylist(rows, schema=DROPPED))._asdict(),
        counts={LEFT: len(left)},
        reasons=Counter(outcome.reason.partition(":")[0] for _, outcome in left),
    )


class Tokens:
    """The examples of an arm, in order, by number; their tokens stay in the files until they are looked at."""

    lengths: Integers
    """(examples,) tokens of each."""
    prompt_tokens: Integers
    """(examples,) how many of them, at the beginning, carry no loss."""
    label_tokens: Integers
    """(examples,) how many carry loss."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        """`batches` are of schema TOKENS, one for each shard."""
        lists = [batch.column("input_ids") for batch in batches]
        # views of the mapped files: the operating system pages tokens in where they are looked at, once for all workers of a
        # node
        self._values: list[NDArray[np.int32]] = [found.values.to_numpy(zero_copy_only=True) for found in lists]
        self._offsets: list[NDArray[np.int32]] = [found.offsets.to_numpy(zero_copy_only=True) for found in lists]
        self._example_ids = [batch.column("example_id") for batch in batches]
        self._starts = np.cumsum([0, *(len(batch) for batch in batches)])
        nothing = np.zeros(0, dtype=np.int64)
        self.lengths = np.concatenate([nothing, *(np.diff(offsets) for offsets in self._offsets)])
        self.prompt_tokens = np.concatenate([nothing, *(batch.column("prompt_tokens").to_numpy() for batch in batches)])
        self._masked = [batch.column("masked") if "masked" in batch.schema.names else None for batch in batches]
        behind = [nothing, *(_masked_tokens(batch, column) for batch, column in zip(batches, self._masked, strict=True))]
        self.label_tokens = self.lengths - self.prompt_tokens - np.concatenate(behind)

    @classmethod
    def open(cls, stage: StageDir, manifest: Manifest, cache: str | None = None) -> "Tokens":
        """The files that a manifest lists, mapped where they lie; those on an object store are copied first, once a machine,
        into the directory `cache` (by default one of this user and this arm among the temporary files)."""
        names = [entry.name for entry in manifest.parts()]
        storage = stage.storage if stage.storage.is_local else _copied(stage.storage, names, cache or _cache(manifest))
        return cls([_mapped(storage.path(name)) for name in names])

    def __len__(self) -> int:
        return len(self.lengths)

    def ids(self, index: int) -> NDArray[np.int32]:
        """The tokens of an example, (length,): a view of the file, not to be written to."""
        shard, row = self._place(index)
        offsets = self._offsets[shard]
        return self._values[shard][offsets[row] : offsets[row + 1]]

    def masked(self, index: int) -> list[int]:
        """Places of an example behind its prompt that carry no loss: from, up to, from, up to, …"""
        shard, row = self._place(index)
        column = self._masked[shard]
        return [] if column is None else column[row].as_py() or []

    def example_id(self, index: int) -> str:
        """The `example_id` of an example by its index."""
        shard, row = self._place(index)
        return str(self._example_ids[shard][row])

    def _place(self, index: int) -> tuple[int, int]:
        assert 0 <= index < len(self), f"example {index} of {len(self)}"
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - int(self._starts[shard])


def _masked_tokens(batch: pa.RecordBatch, column: pa.Array | None) -> Integers:
    """(rows,) how many tokens behind the prompt carry no loss."""
    found = np.zeros(len(batch), dtype=np.int64)
    if column is not None and column.null_count < len(column):
        for row in np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)).tolist():
            places = column[row].as_py()
            found[row] = sum(places[1::2]) - sum(places[::2])
    return found


def _mapped(path: str) -> pa.RecordBatch:
    # closed at once: the batch keeps the mapping, and a process may have few files open
    with pa.memory_map(path) as source, pa.ipc.open_file(source) as reader:
        return reader.get_batch(0)


def _cache(manifest: Manifest) -> str:
    return os.path.join(tempfile.gettempdir(), f"alpagasus-ray-{os.getuid()}", manifest.content_hash())


def _copied(storage: Storage, names: Sequence[str], folder: str) -> Storage:
    """Files on this machine; several processes may copy the same at once, as each appears only when it is whole."""
    # for the user alone: the directory of temporary files is everybody's
    os.makedirs(folder, mode=0o700, exist_ok=True)
    local = Storage(pafs.LocalFileSystem(), folder)
    missing = [name for name in names if not local.exists(name)]
    with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
        list(pool.map(lambda name: local.write(name, storage.read(name)), missing))
    return local
