"""Examples that no arm is to learn from: read, made tokens of as the arms' are, and looked for in the arms.

Their loss is compared between arms and every example of them counts: what cannot be read ends in one error with its place. They
go to the workers in memory, so they are thousands, not millions. Knows files and tokens; nothing of torch or Ray.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from alpagasus_ray.config import Finetune
from alpagasus_ray.data import formats, readers
from alpagasus_ray.data.formats import Draft, NoExample
from alpagasus_ray.data.readers import Record
from alpagasus_ray.errors import InputError, UsageError
from alpagasus_ray.store.run import Manifest, StageDir
from alpagasus_ray.training.token_files import as_batch, encoded

log = logging.getLogger(__name__)
KEY = "finetune.heldout"
CONTENT = ["instruction", "input", "output"]
"""What makes two examples the same."""


class HeldOut(NamedTuple):
    """Examples to measure a model by."""

    contents: list[tuple[str, str, str]]
    """Instruction, input and output of all of them."""
    tokens: pa.RecordBatch
    """Those with a trainable token, of schema TOKENS."""

    def told(self, stage: StageDir, arm: Manifest) -> dict[str, int]:
        """What of them spoils their loss: those that an arm has too, and those that cannot be measured."""
        in_arm = self.in_arm(stage.tables(arm, CONTENT))
        if in_arm:
            log.warning("%s holds %s of the %s held-out examples too", stage.name, f"{in_arm:,}", f"{len(self.contents):,}")
        return {"in_arm": in_arm, "left_out": len(self.contents) - len(self.tokens)}

    def in_arm(self, tables: Iterable[pa.Table]) -> int:
        """How many of them are in these tables too."""
        instructions = pa.array({instruction for instruction, _, _ in self.contents}, pa.string())
        found: set[tuple[str, ...]] = set()
        for table in tables:
            # by one column in Arrow first: an arm may have millions of rows, of which hardly any goes on to Python
            alike = table.filter(pc.is_in(table["instruction"], value_set=instructions))
            found.update(zip(*(alike[name].to_pylist() for name in CONTENT), strict=True))
        return sum(content in found for content in self.contents)


def read(config: Finetune) -> HeldOut | None:
    """What is held out, if anything is. A `UsageError` tells of files that are not there, or of which nothing can be used."""
    if config.heldout is None:
        return None
    try:
        every = list(drafts(config.heldout))
    except InputError as error:
        raise UsageError(f"{KEY}: {error}") from None
    if not every:
        raise UsageError(f"{KEY}: there is no example in {config.heldout}")
    kept, left = encoded(config, [row_of(number, draft) for number, draft in enumerate(every)])
    if not kept:
        reasons = Counter(outcome.reason.partition(":")[0] for _, outcome in left)
        why = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        raise UsageError(
            f"{KEY}: none of the {len(every):,} examples of {config.heldout} has a trainable token ({why}). Raise "
            f"finetune.max_length (now {config.max_length}), or see finetune.too_long (now {config.too_long})"
        )
    return HeldOut([(draft.instruction, draft.input, draft.output) for draft in every], as_batch(kept))


def drafts(place: str, key: str = KEY) -> Iterator[Draft]:
    """The examples of files in any layout that is known; of a conversation its first exchange. An `InputError` has the place of
    what cannot be read."""
    for file in readers.expand(place, key):
        reader: formats.Layout | None = None
        for record in formats.grown(readers.records(file)):
            try:
                fields = _fields(record)
                reader = reader or _reader(fields)
                yield from reader(fields)
            except NoExample as reason:
                raise InputError(file.path, record.place, str(reason)) from None


def _fields(record: Record) -> dict[str, Any]:
    if record.data is None:
        raise NoExample(record.problem)
    return record.data


def _reader(fields: dict[str, Any]) -> formats.Layout:
    layout = formats.detect(fields)
    if layout is None:
        names = ", ".join(map(str, fields))
        raise NoExample(f"no known layout has the fields {names}; name them instruction, input and output")
    return formats.reader(layout, {}, "first")


def row_of(number: int, draft: Draft) -> dict[str, Any]:
    """An example as the encoder takes it."""
    history = [{"instruction": asked, "output": said} for asked, said in draft.history]
    return {**draft._asdict(), "example_id": f"heldout:{number:09d}", "history": history or None}
