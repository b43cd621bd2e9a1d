"""Examples that no arm may hold, or that repeat another: found shard by shard, with the reason of each.

Test sets are looked for by an index that every shard is compared with, in all that an example holds: earlier turns of its
conversation and its system text too, each by itself, so that no sequence of words reaches from one into the other. Near
repeats are found by signatures of all of that, which are written beside the examples (`examples/near/`), for 100 million of
them would not fit into memory: bands are compared one after the other, 8 bytes a row, and of the signatures those of
candidates are read again.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from alpagasus_ray.config import Clean, TestSet, digest
from alpagasus_ray.data import prompt_sets, readers
from alpagasus_ray.raycluster.by_shard import map_items, map_shards
from alpagasus_ray.selection import clean, near_duplicates
from alpagasus_ray.selection.clean import Hit, Index, PromptText
from alpagasus_ray.selection.near_duplicates import Pairs
from alpagasus_ray.selection.policies import Flags
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir

TEXTS = ["instruction", "input", "output"]
BEFORE = ["system", "history"]
"""What conversations have besides."""
Indices = NDArray[np.int64]


class Cleaned(NamedTuple):
    """What is taken out, and what it was compared with."""

    contaminated: Flags
    hits: list[Hit]
    """Rows are numbers over all examples."""
    repeated: dict[int, int]
    """Rows that nearly repeat a better one, which is the value."""
    summary: list[dict[str, Any]]
    """One entry a test set (`clean.summary`)."""
    unchecked: int
    """Texts of the test sets that are too short to be looked for."""
    near: float | None

    @property
    def near_rows(self) -> Flags:
        """Rows that nearly repeat a better one."""
        flags = np.zeros(len(self.contaminated), dtype=bool)
        flags[list(self.repeated)] = True
        return flags

    def told(self) -> dict[str, Any]:
        """For the stage's record: what was looked for, and what was found."""
        return {
            "tests": self.summary,
            "contaminated": int(self.contaminated.sum()),
            "texts_too_short": self.unchecked,
            "turns": "all",
            "near": self.near,
            "near_repeats": len(self.repeated),
        }


def looked_for(config: Clean, own: Sequence[TestSet]) -> tuple[TestSet, ...]:
    """The test sets that are looked for: those named, or the run's own."""
    return tuple(own) if config.tests is None else config.tests


def prints(test_sets: Sequence[TestSet]) -> dict[str, str]:
    """What the files of test sets are known by, for the inputs of an arm."""
    files = {one.name: readers.expand(one.path, "pick.clean.tests") for one in test_sets}
    return {f"test set {name}/{file.name}": file.fingerprint() for name, some in files.items() for file in some}


def find(config: Clean, test_sets: Sequence[TestSet], run: Run, examples: Manifest, order: Indices, dropped: Flags) -> Cleaned:
    """Look at all examples. `order` has all their numbers, best first, by which the better of two near repeats stays. Rows that
    are `dropped` in any case, or hold a test set's text, repeat none and are repeated by none."""
    index = clean.index_of(_texts_of(test_sets))
    source, flags, hits, start = run.examples(), np.zeros(examples.rows, dtype=bool), list[Hit](), 0
    entries = zip(examples.parts(), map_shards(partial(hits_in, index), source, examples), strict=True)
    for entry, own in entries if index.texts else ():
        hits += [hit._replace(row=hit.row + start) for hit in own]
        start += entry.rows
    flags[[hit.row for hit in hits]] = True
    repeated = {} if config.near is None else _near(config.near, run, examples, order, dropped | flags)
    return Cleaned(flags, hits, repeated, clean.summary(index, hits), index.unchecked, config.near)


def _texts_of(test_sets: Sequence[TestSet]) -> Iterator[PromptText]:
    for one in test_sets:
        for prompt in prompt_sets.load(one.name, one.path, one.format, {str(key): name for key, name in one.columns.items()}):
            yield PromptText(one.name, prompt.prompt_id, "prompt", f"{prompt.instruction}\n{prompt.input}")
            if prompt.reference:
                yield PromptText(one.name, prompt.prompt_id, "reference", prompt.reference)


def hits_in(index: Index, source: StageDir, entry: FileEntry) -> list[Hit]:
    """The examples of a shard that hold a text of the index; rows are numbers in the shard."""
    table = source.table(entry.name, entry.sha256, [*TEXTS, *BEFORE])
    first, second, outputs = (table[name].to_pylist() for name in TEXTS)
    prompts = [f"{instruction}\n{more}" for instruction, more in zip(first, second, strict=True)]
    earlier = list(_earlier(table))
    found = clean.contaminated(index, prompts + [turn[1] for turn in earlier], outputs + [turn[2] for turn in earlier])
    most: dict[tuple[int, str, str, str], Hit] = {}
    for hit in found:  # of a text that several turns hold, where most of it stands
        own = hit if hit.row < len(table) else hit._replace(row=earlier[hit.row - len(table)][0])
        known = most.setdefault(own[:4], own)
        most[own[:4]] = max(known, own, key=lambda one: one.share)
    return sorted(most.values())


def _earlier(table: pa.Table) -> Iterator[tuple[int, str, str]]:
    """Row, request and reply of each earlier turn; a system text counts as a request."""
    for name in (name for name in BEFORE if table[name].null_count < len(table)):
        for row, value in enumerate(table[name].to_pylist()):
            turns = [{"instruction": value, "output": ""}] if isinstance(value, str) else value or ()
            yield from ((row, turn["instruction"] or "", turn["output"] or "") for turn in turns)


# near repeats


def _near(near: float, run: Run, examples: Manifest, order: Indices, dropped: Flags) -> dict[int, int]:
    home, listed = _signed(near, run, examples)
    alike_in = partial(_candidates, home, listed, order, dropped)
    found = map_items(alike_in, range(near_duplicates.bands(near)[0]), rows=listed.rows)
    pairs = near_duplicates.of_bands(found, listed.rows)
    alike = _of_two_records(run, examples, _similar(home, listed, pairs, near))
    wanted = np.unique(alike)
    return near_duplicates.repeats(alike, order[np.isin(order, wanted)])


def _candidates(home: StageDir, listed: Manifest, order: Indices, dropped: Flags, band: int) -> Pairs:
    """The pairs of rows that share the key of a band."""
    column, start = np.empty(listed.rows, dtype=np.uint64), 0
    for table in home.tables(listed, [f"band_{band:03d}"]):
        column[start : start + len(table)] = table.column(0).to_numpy()
        start += len(table)
    column[dropped] = 0  # a row with this key is compared with none
    return near_duplicates.candidates(column[:, None], order)


def _of_two_records(run: Run, examples: Manifest, pairs: Pairs) -> Pairs:
    """The pairs that are not two turns of one conversation: each holds the ones before it, and repeats none of them."""
    if examples.settings.get("turns") != "all" or not len(pairs):
        return pairs
    numbers, source, start = np.unique(pairs), run.examples(), 0
    record: list[Indices] = []
    for table in source.tables(examples, ["row"]):
        begin, end = np.searchsorted(numbers, [start, start + len(table)])
        own = numbers[begin:end]
        record.append(table["row"].take(pa.array(own - start)).to_numpy())
        start += len(table)
    first, second = np.concatenate(record)[np.searchsorted(numbers, pairs)].T
    return np.asarray(pairs[first != second])


def _signed(near: float, run: Run, examples: Manifest) -> tuple[StageDir, Manifest]:
    """Signatures and the keys of their bands, made once."""
    source = run.examples()
    settings = {"near": near, "permutations": near_duplicates.PERMUTATIONS, "shingle": near_duplicates.SHINGLE, "version": 2}
    inputs = {source.name: examples.content_hash()}
    key = f"minhash-{digest([settings, inputs])[:8]}"
    home = StageDir(f"{source.name}/near/{key}", source.storage.at("near", key))
    made = home.made(settings, inputs)
    if made is None:
        home.storage.delete_tree()
        begun = Begun(settings=settings, inputs=inputs)
        home.begin(begun)
        made = home.build(begun, list(map_shards(partial(_signatures, near, home), source, examples)))
        home.finish(made)
    return home, made


def _signatures(near: float, home: StageDir, source: StageDir, entry: FileEntry) -> FileEntry:
    table = source.table(entry.name, entry.sha256, [*TEXTS, *BEFORE])
    texts = ["\n".join(parts) for parts in zip(*(table[name].to_pylist() for name in TEXTS), strict=True)]
    for row, request, reply in _earlier(table):
        texts[row] += f"\n{request}\n{reply}"
    signed = near_duplicates.signatures(texts)
    keys = near_duplicates.band_keys(signed, near)
    columns = {f"band_{band:03d}": pa.array(keys[:, band]) for band in range(keys.shape[1])}
    columns["signature"] = pa.FixedSizeListArray.from_arrays(pa.array(signed.ravel()), signed.shape[1])
    written = home.storage.write_table(entry.name, pa.table(columns))
    return FileEntry(name=entry.name, rows=len(table), **written._asdict())


def _similar(home: StageDir, listed: Manifest, pairs: Pairs, near: float) -> Pairs:
    """The pairs that are as alike as asked for, by the signatures of their rows alone."""
    numbers = np.unique(pairs)
    signed, start = [np.empty((0, near_duplicates.PERMUTATIONS), dtype=np.uint32)], 0
    for entry in listed.parts():
        first, last = np.searchsorted(numbers, [start, start + entry.rows])
        if first < last:
            column = home.table(entry.name, entry.sha256, ["signature"])["signature"].combine_chunks()
            rows = column.flatten().to_numpy().reshape(entry.rows, -1)
            signed.append(rows[numbers[first:last] - start])
        start += entry.rows
    own = np.searchsorted(numbers, pairs)
    return np.asarray(numbers[near_duplicates.similar(np.concatenate(signed), own, near)])
