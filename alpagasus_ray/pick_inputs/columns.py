"""What arms are chosen by, read from a run shard by shard: some tens of bytes a row are held, and no text and no id.

Ratings are joined to examples by id. They lie in the same order in nearly all runs, which is looked at shard by shard; where
they do not, all ids are held while they are joined.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alpagasus_ray.config import Pick
from alpagasus_ray.data import write_back
from alpagasus_ray.engines.tokens import load_tokenizer
from alpagasus_ray.errors import StageFailed
from alpagasus_ray.selection.policies import Columns, Flags, Floats
from alpagasus_ray.selection.report import BYTES_PER_TOKEN, CountedBy
from alpagasus_ray.store.run import Manifest, Run, StageDir

Integers = NDArray[np.int64]
Small = NDArray[Any]
"""Numbers of 32 bits: half of what the usual ones take."""
TEXTS = ("instruction", "input", "output")
JUDGE, FIRST, ABOVE = "judge", "first judge", "first judge, above the band"


class StoredIds(Collection[str]):
    """The ids of all examples in order, read anew each time: a long dataset's would not fit into the driver's memory."""

    def __init__(self, stage: StageDir, listed: Manifest) -> None:
        self._stage, self._listed = stage, listed

    def __len__(self) -> int:
        return self._listed.rows

    def __iter__(self) -> Iterator[str]:
        tables = self._stage.tables(self._listed, ["example_id"])
        return itertools.chain.from_iterable(table["example_id"].to_pylist() for table in tables)

    def __contains__(self, example_id: object) -> bool:
        return any(example_id == own for own in self)


class Loaded(NamedTuple):
    """All that the arms are chosen by and reported on; one entry for each example, in order."""

    columns: Columns
    status: NDArray[np.int8]
    """Number of its name in `statuses`."""
    statuses: list[str]
    tokens: Small
    counted_by: CountedBy
    repeats: Flags
    """Rows that are to be dropped because they repeat an earlier one."""
    scores: tuple[str, ...]
    """The score columns that the ratings have."""
    chosen_by: NDArray[np.int8] | None
    """Of ratings by a cascade: whose score counts, as a number of `WHOSE`."""
    source: NDArray[np.object_] | None
    """The file that each row came from, where an arm asks for it."""
    scale: Mapping[str, float | None] | None = None
    """Of the ratings, where they say it."""

    @property
    def unscored(self) -> Flags:
        return np.isnan(self.columns.score)


WHOSE = (JUDGE, FIRST, ABOVE)


def load(run: Run, config: Pick, examples: Manifest, ratings: Manifest | None) -> Loaded:
    """Read all of it."""
    stage, by_source = (
        run.examples(),
        any((arm.shares and arm.shares_of == "source") or arm.per == "source" for arm in config.arms),
    )
    count, measure = _token_counter(config.tokenizer), _length_measure(config.tokenizer)
    rows = examples.rows
    tokens, length, repeats = np.empty(rows, np.int32), np.empty(rows, np.int32), np.zeros(rows, dtype=bool)
    category, source, start = _Names(rows), _Names(rows if by_source else 0), 0
    fields = [*TEXTS, "category", "duplicate_of", *(["source"] if by_source else [])]
    for table in stage.tables(examples, fields):
        here = slice(start, start + len(table))
        tokens[here], length[here] = count(table), measure(table["output"])
        if config.duplicates == "drop":
            repeats[here] = pc.is_valid(table["duplicate_of"]).to_numpy()
        category.put(here, table["category"])
        if by_source:
            source.put(here, pc.replace_substring_regex(table["source"], r"^.*/|#\d+$", ""))
        start = here.stop
    rated = _Rated(run, config, examples, ratings)
    columns = Columns(StoredIds(stage, examples), rated.score, rated.expected, length, category.column())
    how = CountedBy(
        config.tokenizer or f"estimate: {BYTES_PER_TOKEN} bytes of UTF-8 a token",
        "tokens" if config.tokenizer else "characters",
    )
    scores = () if ratings is None else ("score",) if np.isnan(rated.expected).all() else write_back.SCORES
    own = source.column() if by_source else None
    scale = ratings.settings.get("rubric", {}).get("scale") if ratings else None
    return Loaded(columns, rated.status, rated.statuses, tokens, how, repeats, scores, rated.chosen_by, own, scale)


class _Names:
    """A column of few different names: 8 bytes a row, or none where there is but one name."""

    def __init__(self, rows: int) -> None:
        self._rows, self._known = rows, dict[str, str]()
        self._values: NDArray[np.object_] | None = None

    def put(self, here: slice, names: pa.ChunkedArray) -> None:
        coded = pc.fill_null(names, "").combine_chunks().dictionary_encode()
        own = np.array([self._known.setdefault(name, name) for name in coded.dictionary.to_pylist()], dtype=object)
        if self._values is None and len(self._known) > 1:
            self._values = np.full(self._rows, next(iter(self._known)), dtype=object)
        if self._values is not None:
            self._values[here] = own[coded.indices.to_numpy()]

    def column(self) -> NDArray[np.object_]:
        if self._values is not None:
            return self._values
        one = np.array([next(iter(self._known), "")], dtype=object)
        return np.broadcast_to(one, (self._rows,))


class _Rated:
    """Scores and statuses of all examples, in their order."""

    def __init__(self, run: Run, config: Pick, examples: Manifest, ratings: Manifest | None) -> None:
        rows = examples.rows
        nothing = np.broadcast_to(np.float64(np.nan), (rows,))
        self.score: Floats = nothing if ratings is None else np.empty(rows)
        self.expected: Floats = nothing if ratings is None else np.full(rows, np.nan)
        self.status, self.statuses = np.zeros(rows, np.int8), ["not rated"] if ratings is None else list[str]()
        cascade = ratings.details.get("cascade") if ratings else None
        self.chosen_by = np.zeros(rows, np.int8) if cascade else None
        if ratings is None:
            return
        fields = ["example_id", "score", "expected_score", "status", *(["first_score", "above_band"] if cascade else [])]
        any_expected = False
        for start, table in _in_order(run, config.ratings, examples, ratings, fields):
            here = slice(start, start + len(table))
            self.score[here] = _numbers(table["score"])
            if table["expected_score"].null_count < len(table):
                self.expected[here], any_expected = _numbers(table["expected_score"]), True
            self._put_status(here, table["status"])
            if cascade:
                self._put_first(here, table, cascade["cut"])
        self.expected = self.expected if any_expected else nothing

    def _put_status(self, here: slice, column: pa.ChunkedArray) -> None:
        coded = column.combine_chunks().dictionary_encode()
        names = coded.dictionary.to_pylist()
        self.statuses += [name for name in names if name not in self.statuses]
        self.status[here] = np.array([self.statuses.index(name) for name in names], np.int8)[coded.indices.to_numpy()]

    def _put_first(self, here: slice, table: pa.Table, cut: float) -> None:
        """Rows that the judge was not asked about have the cheaper judge's score, and at least the cut above a band."""
        first, above = _numbers(table["first_score"]), table["above_band"].to_numpy()
        not_asked = pc.equal(table["status"], "not_asked").to_numpy()
        self.score[here] = np.where(not_asked, np.where(above, np.fmax(first, cut), first), self.score[here])
        assert self.chosen_by is not None, "ratings by a cascade"
        self.chosen_by[here] = np.where(not_asked, np.where(above, 2, 1), 0)


def _numbers(column: pa.ChunkedArray) -> Floats:
    return np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy(), dtype=np.float64)


def _in_order(run: Run, name: str, examples: Manifest, ratings: Manifest, fields: list[str]) -> Iterator[tuple[int, pa.Table]]:
    """The ratings of some examples, with the number of the first; joined by id, whatever the order of the ratings."""
    rated, by_shard, start = run.ratings(name), {entry.shard: entry for entry in ratings.parts()}, 0
    for entry in examples.parts():
        own = by_shard.get(entry.name)
        if own is None or own.rows != entry.rows:
            break
        ids = run.examples().table(entry.name, entry.sha256, ["example_id"])["example_id"]
        table = rated.table(own.name, own.sha256, fields)
        if not table["example_id"].equals(ids):
            break
        yield start, table
        start += entry.rows
    if start < examples.rows or start < ratings.rows:
        yield 0, _joined(run, name, examples, ratings, fields)


def _joined(run: Run, name: str, examples: Manifest, ratings: Manifest, fields: list[str]) -> pa.Table:
    """All ratings in the order of the examples."""
    ids = list(StoredIds(run.examples(), examples))
    table = pa.concat_tables(run.ratings(name).tables(ratings, fields))
    place = {example_id: row for row, example_id in enumerate(table["example_id"].to_pylist())}
    if len(place) != len(ids) or place.keys() != set(ids):
        raise StageFailed(f"{ratings.stage}: its example ids are not those of examples/")
    return table.take(pa.array(np.fromiter((place[example_id] for example_id in ids), dtype=np.int64, count=len(ids))))


def _length_measure(tokenizer: str | None) -> Callable[[pa.ChunkedArray], Integers]:
    """A function that measures texts in tokens, or in characters where no tokenizer is named; blank-separated words would make
    every text without blanks one word long."""
    if tokenizer is None:
        return lambda texts: pc.utf8_length(pc.utf8_trim_whitespace(texts)).to_numpy().astype(np.int64)
    encode = load_tokenizer(tokenizer, "pick.tokenizer")

    def measure(texts: pa.ChunkedArray) -> Integers:
        found = encode(texts.to_pylist(), add_special_tokens=False)["input_ids"] if len(texts) else []
        return np.array([len(ids) for ids in found], dtype=np.int64)

    return measure


def _token_counter(tokenizer: str | None) -> Callable[[pa.Table], Any]:
    """A function that counts the tokens of instruction, input and output together, of each row."""
    if tokenizer is None:
        return lambda table: (
            -(-sum(pc.binary_length(table[field]).to_numpy().astype(np.int64) for field in TEXTS) // BYTES_PER_TOKEN)
        )
    encode = load_tokenizer(tokenizer, "pick.tokenizer")

    def count(table: pa.Table) -> Integers:
        texts = ["\n".join(parts) for parts in zip(*(table[field].to_pylist() for field in TEXTS), strict=True)]
        return np.array([len(ids) for ids in encode(texts)["input_ids"]], dtype=np.int64)

    return count
