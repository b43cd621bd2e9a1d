"""Vectors that somebody has made of the examples, from a file: Parquet with `example_id` and `vector`, or `.npz` with `ids` and
`vectors`. Whatever made them, every example has one; a file that lacks some is refused.
"""

import io
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from alpagasus_ray.data import readers
from alpagasus_ray.errors import InputError, UsageError
from alpagasus_ray.selection.spread import Vectors, unit
from alpagasus_ray.store.run import Manifest, StageDir

MOST = 1_000_000
"""Examples: the file's vectors are held in memory while they are put beside these."""
KEY = "pick.vectors"
NPZ = ".npz"


def file_of(location: str) -> readers.SourceFile:
    """The one file of this place. `UsageError` where there is none, or more than one."""
    files = readers.expand(location, KEY)
    if len(files) != 1:
        raise UsageError(f"{KEY}: {location} is {len(files)} files; give one file of vectors, `words` or `none`")
    return files[0]


def of_examples(location: str, source: StageDir, examples: Manifest) -> Iterator[Vectors]:
    """The vectors of each shard of examples, each of length 1. `InputError` where one of them has none."""
    if examples.rows > MOST:
        raise UsageError(
            f"{KEY}: a file of vectors is for up to {MOST:,} examples, as it is held in memory; here are {examples.rows:,}: "
            "take `words`"
        )
    file = file_of(location)
    ids, rows = _read(file)
    place = {example_id: row for row, example_id in enumerate(ids)}
    for table in source.tables(examples, ["example_id"]):
        own = table["example_id"].to_pylist()
        missing = [example_id for example_id in own if example_id not in place]
        if missing:
            raise InputError(
                file.path,
                "vectors",
                f"example {missing[0]!r} has none, as {len(missing):,} of the {len(own):,} in its shard; give one for each",
            )
        yield rows[[place[example_id] for example_id in own]]


def _read(file: readers.SourceFile) -> tuple[Sequence[str], Vectors]:
    with file.fs.open_input_file(file.path) as stream:
        content = io.BytesIO(stream.read())
    try:
        ids, rows = _npz(content) if file.path.endswith(NPZ) else _parquet(content)
    except (KeyError, ValueError, OSError, pa.ArrowInvalid) as error:
        wanted = "Parquet with the columns `example_id` and `vector`, or .npz with the arrays `ids` and `vectors`"
        raise InputError(file.path, "start", f"this is no file of vectors ({error}); give {wanted}") from None
    if rows.ndim != 2 or len(rows) != len(ids) or not rows.size:
        raise InputError(
            file.path, "vectors", f"{len(ids):,} ids and vectors of shape {rows.shape}; give one for each, all as long"
        )
    if len(set(ids)) < len(ids):
        raise InputError(file.path, "ids", "an example has two vectors; give one for each")
    if not np.isfinite(rows).all():
        raise InputError(file.path, "vectors", "some are not finite numbers; give vectors without NaN and infinity")
    return ids, unit(rows).astype(np.float32)


def _npz(content: io.BytesIO) -> tuple[list[str], NDArray[np.float64]]:
    with np.load(content, allow_pickle=False) as arrays:
        return [str(name) for name in arrays["ids"]], np.asarray(arrays["vectors"], dtype=np.float64)


def _parquet(content: io.BytesIO) -> tuple[list[str], NDArray[np.float64]]:
    table = pq.read_table(content, columns=["example_id", "vector"])
    lists = table["vector"].to_pylist()
    return table["example_id"].to_pylist(), np.array(lists, dtype=np.float64)
