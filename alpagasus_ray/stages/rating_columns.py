"""The scores of ratings as arrays, in the order of given example ids."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alpagasus_ray.errors import StageFailed
from alpagasus_ray.evaluation.estimates import Floats
from alpagasus_ray.store.run import Manifest, StageDir


def scores_of(stage: StageDir, manifest: Manifest, ids: Sequence[str], column: str = "score") -> Floats:
    """A column of numbers by example id, NaN where a row has none. Raises `StageFailed` where the ids are not those rated."""
    table = pa.concat_tables(stage.tables(manifest, ["example_id", column]))
    place = {example_id: row for row, example_id in enumerate(table["example_id"].to_pylist())}
    if len(place) != len(ids) or place.keys() != set(ids):
        raise StageFailed(f"{manifest.stage}: its example ids are not those of examples/")
    values = np.asarray(pc.fill_null(table[column].cast(pa.float64()), np.nan).to_numpy(), dtype=np.float64)
    order = np.fromiter((place[example_id] for example_id in ids), dtype=np.int64, count=len(ids))
    return np.asarray(values[order])
