"""Vectors and clusters of the examples, made once for all arms: `examples/vectors/<what made them>/`.

`space.npz` is fitted on a sample; each part holds the cluster and the vector of the rows of one shard of examples. The driver
holds the clusters, 4 bytes a row, and of the vectors those that it asks for.
"""

import io
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from alpagasus_ray.config import digest
from alpagasus_ray.errors import UsageError
from alpagasus_ray.pick_inputs import given_vectors
from alpagasus_ray.raycluster.by_shard import map_shards
from alpagasus_ray.selection import spread
from alpagasus_ray.selection.draws import seeded_hashes
from alpagasus_ray.selection.spread import Space, Vectors
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir

WORDS, NONE = "words", "none"
SPACE = "space.npz"
FEWEST = 500
"""Of fewer rows clusters say nothing."""
MOST_APART = 1_000_000
"""Rows whose vectors `spread: apart` holds: 256 bytes each, and a time that grows with their square."""
Clusters = NDArray[Any]
"""Numbers of 32 bits."""


class Made(NamedTuple):
    """The vectors of a run's examples."""

    space: Space
    home: StageDir
    listed: Manifest
    cluster: Clusters
    """Of each example, in order."""

    def parts(self) -> Iterator[Vectors]:
        """The vectors of one shard after the other."""
        for table in self.home.tables(self.listed, ["vector"]):
            yield _matrix(table)

    def all(self) -> Vectors:
        """The vectors of all rows. `UsageError` where these are too many."""
        if self.listed.rows > MOST_APART:
            raise UsageError(
                f"pick.arms: `spread: apart` compares examples pair by pair and is for up to {MOST_APART:,} of them; here are "
                f"{self.listed.rows:,}: take `spread: clusters`"
            )
        return np.concatenate(list(self.parts()))


def of_run(run: Run, examples: Manifest, by: str = WORDS) -> Made:
    """The vectors of a run's examples, made if they are not there: by their words, or as a file of vectors has them.
    `UsageError` where no example has a word, or the file lacks one."""
    made_by: dict[str, Any] = {"clusters": spread.CLUSTERS, "sample": spread.SAMPLE, "version": 1}
    made_by |= {"by": WORDS, "dimensions": spread.DIMENSIONS} if by == WORDS else {"by": "file"}
    source = run.examples()
    inputs = {source.name: examples.content_hash()} | prints(by)
    key = f"{made_by['by']}-{digest([made_by, inputs])[:8]}"
    home = StageDir(f"{source.name}/vectors/{key}", source.storage.at("vectors", key))
    begun = Begun(settings=made_by, inputs=inputs)
    listed = home.made(made_by, inputs) or (
        _make(home, begun, source, examples) if by == WORDS else _from_file(home, begun, source, examples, by)
    )
    space = spread.load(io.BytesIO(home.storage.read(SPACE)))
    cluster, start = np.empty(listed.rows, dtype=np.int32), 0
    for table in home.tables(listed, ["cluster"]):
        cluster[start : start + len(table)] = table["cluster"].to_numpy()
        start += len(table)
    return Made(space, home, listed, cluster)


def prints(by: str) -> dict[str, str]:
    """What a file of vectors is known by, for the inputs of what is made from it."""
    if by in (WORDS, NONE):
        return {}
    file = given_vectors.file_of(by)
    return {f"vectors {file.name}": file.fingerprint()}


def _from_file(home: StageDir, begun: Begun, source: StageDir, examples: Manifest, by: str) -> Manifest:
    parts = list(given_vectors.of_examples(by, source, examples))
    home.storage.delete_tree()
    home.begin(begun)
    texts = [text for table in source.tables(examples, ["instruction", "input"]) for text in _texts(table)]
    drawn = np.sort(np.random.default_rng(0).permutation(len(texts))[: spread.SAMPLE])
    space = spread.fit_given(np.concatenate(parts)[drawn], [texts[row] for row in drawn])
    content = io.BytesIO()
    spread.save(space, content)
    files = [FileEntry(name=SPACE, rows=0, **home.storage.write(SPACE, content.getvalue())._asdict())]
    files += [_written(space, home, rows, entry) for rows, entry in zip(parts, examples.parts(), strict=True)]
    manifest = home.build(begun, files)
    home.finish(manifest)
    return manifest


def _make(home: StageDir, begun: Begun, source: StageDir, examples: Manifest) -> Manifest:
    home.storage.delete_tree()
    home.begin(begun)
    space = spread.fit(_sample(source, examples))
    content = io.BytesIO()
    spread.save(space, content)
    files = [FileEntry(name=SPACE, rows=0, **home.storage.write(SPACE, content.getvalue())._asdict())]
    files += map_shards(partial(_part, space, home), source, examples)
    manifest = home.build(begun, files)
    home.finish(manifest)
    return manifest


def _sample(source: StageDir, examples: Manifest) -> list[str]:
    """The texts of the rows with the lowest numbers of a seeded hash: the same in every order of reading."""
    best: list[tuple[int, str]] = []
    for table in source.tables(examples, ["example_id", "instruction", "input"]):
        hashes = seeded_hashes(table["example_id"].to_pylist(), "vectors", 0)
        best += zip(hashes.tolist(), _texts(table), strict=True)
        if len(best) > 4 * spread.SAMPLE:
            best = sorted(best)[: spread.SAMPLE]
    return [text for _, text in sorted(best)[: spread.SAMPLE]]


def _texts(table: pa.Table) -> list[str]:
    """What an example is about: its instruction and input."""
    return [
        f"{first}\n{second}"
        for first, second in zip(*(table[name].to_pylist() for name in ("instruction", "input")), strict=True)
    ]


def _part(space: Space, home: StageDir, source: StageDir, entry: FileEntry) -> FileEntry:
    return _written(
        space, home, spread.vectors(space, _texts(source.table(entry.name, entry.sha256, ["instruction", "input"]))), entry
    )


def _written(space: Space, home: StageDir, rows: Vectors, entry: FileEntry) -> FileEntry:
    cluster = spread.assigned(space.centres, rows).astype(np.int32)
    flat: Any = pa.array(rows.ravel(), pa.float32())
    vectors = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    table = pa.table({"cluster": pa.array(cluster), "vector": vectors})
    return FileEntry(name=entry.name, rows=len(rows), **home.storage.write_table(entry.name, table)._asdict())


def _matrix(table: pa.Table) -> Vectors:
    column = table["vector"].combine_chunks()
    return np.asarray(column.flatten().to_numpy()).reshape(len(table), -1)
