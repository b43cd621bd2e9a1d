"""Read a dataset, whatever its layout, and write it as shards of examples with ids.

One pass with one shard in memory: the shards of a source are the same whenever and wherever they are made.
"""

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from alpagasus_ray.config import Ingest, identity
from alpagasus_ray.data import formats, readers, write_back
from alpagasus_ray.data.example_writer import ExampleWriter
from alpagasus_ray.data.records import Form, Record
from alpagasus_ray.data.side_fields import Tally
from alpagasus_ray.errors import InputError, SettingsChanged, StageFailed, UsageError
from alpagasus_ray.store.run import Begun, Manifest, Run, StageDir, shard_name

KINDS = ("json", "jsonl", "csv", "parquet")
HUB_FORM = Form("jsonl")
"""What the records of the hub are written back as."""


def ingest(config: Ingest, run: Run, progress: Callable[[int], None] = lambda rows: None) -> Manifest:
    """Make `examples/` of the run from the source, or return at once when it is made; `progress` is told rows so far.

    Raises `InputError` for an unreadable file, `StageFailed` when more than `max_rejected` of the records are no examples.
    """
    if not config.source:
        raise UsageError("`ingest.source` is not set: give a file, glob, directory, s3:// or hf: source")
    stage = run.examples()
    settings = _settings(config)
    done = stage.manifest()
    if done is not None:
        _check_same(run, done, settings, fingerprints(config) or done.inputs)
        return done
    stage.storage.delete_tree()
    inputs = fingerprints(config)
    begun = Begun(settings=settings, inputs=inputs)
    stage.begin(begun)
    started = time.monotonic()
    writer = ExampleWriter(stage, config.rows_per_shard, settings["name"], progress)
    reading = _Reading(config)
    try:
        with contextlib.closing(writer):
            for row, (record, drafts) in enumerate(reading.drafts()):
                writer.add(row, record, drafts)
            writer.flush()
    except UsageError:
        stage.storage.delete_tree()  # what is refused leaves nothing
        raise
    _check_rejected(writer, config.max_rejected, stage)
    details = {
        "records": writer.records,
        "reasons": dict(writer.reasons.most_common(20)),
        **reading.details(),
        write_back.TAKEN: write_back.taken(writer.fields),
    }
    counts = {"examples": writer.examples, "rejected": writer.rejected, "duplicates": writer.duplicates}
    manifest = stage.build(begun.after(time.monotonic() - started), writer.files, details=details)
    manifest = manifest.model_copy(update={"counts": counts})
    stage.finish(manifest)
    return manifest


def _check_same(run: Run, done: Manifest, settings: dict[str, Any], inputs: dict[str, str]) -> None:
    """Refuse another dataset in the run, and say how what was paid for its examples is kept."""
    try:
        run.examples().same_or_refuse(done, settings, inputs)
    except SettingsChanged as changed:
        rated = run.rated()
        if not rated:
            raise
        places = ", ".join(stage.storage.root for stage in rated)
        raise SettingsChanged(
            f"{changed}\nRatings that are paid for are not lost: read the data into a new run, and rate it there with "
            f"-s 'score.reuse=[{places}]', which asks about new rows only."
        ) from None


class Sample(NamedTuple):
    """What the first records of a source come to as examples."""

    records: int
    examples: list[formats.Draft]
    reasons: Counter[str]
    """Why records have no example, and how many of each."""
    layout: str
    """The layout that the first record was read as."""


def sample(config: Ingest, records: int) -> Sample:
    """Read the first `records` records of a source as `ingest` would, and write nothing. Raises what `ingest` raises."""
    reading, examples, reasons, count = _Reading(config), [], Counter[str](), 0
    for _, drafts in itertools.islice(reading.drafts(), records):
        count += 1
        if isinstance(drafts, str):
            reasons[drafts] += 1
        else:
            examples += drafts
    return Sample(count, examples, reasons, reading.layout())


def _settings(config: Ingest) -> dict[str, Any]:
    """What decides the examples: the knobs, the name that a source gives where none is set, and the split that is read."""
    assert config.source is not None
    return identity(config) | {"name": config.name or _default_name(config.source), "split": config.split or "train"}


def _default_name(source: str | tuple[str, ...]) -> str:
    """A name from the first location: its file name, or for a glob the directory it is in."""
    first = source if isinstance(source, str) else source[0]
    parts = [part for part in first.removeprefix(readers.HUGGING_FACE).split("/") if part and not readers.glob_like(part)]
    stem = (parts or ["data"])[-1].split(".")[0]
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in stem)[:64] or "data"


def _is_hub(source: str | tuple[str, ...]) -> bool:
    return isinstance(source, str) and source.startswith(readers.HUGGING_FACE)


def fingerprints(config: Ingest) -> dict[str, str]:
    """Checksums of the files; empty where they cannot be told (the hub, or files that are gone since)."""
    assert config.source is not None
    if _is_hub(config.source):
        return {}
    try:
        return {file.name: file.fingerprint() for file in readers.expand(config.source, split=config.split)}
    except UsageError:
        return {}


class _Stream(NamedTuple):
    """One file, or what the hub sends."""

    path: str
    records: Iterator[Record]
    form: Callable[[], Form]
    passed_over: Callable[[], str | None]


class _Reading:
    """One pass over a source: each record with its examples, and what there is to tell of it at the end."""

    def __init__(self, config: Ingest) -> None:
        self._config, self._tally = config, Tally()
        self._forms: list[write_back.Origin] = []
        self._passed_over: list[str] = []

    def drafts(self) -> Iterator[tuple[Record, list[formats.Draft] | str]]:
        """Each record with its examples, or with the reason why it has none."""
        row = 0
        for stream in self._streams():
            read: formats.Layout | None = None
            start = row
            for record in formats.grown(stream.records):
                row += 1
                if record.data is None:
                    yield record, record.problem
                    continue
                read = read or self._reader(stream, record, start)
                try:
                    yield record, read(record.data)
                except formats.NoExample as reason:
                    yield record, str(reason)

    def details(self) -> dict[str, Any]:
        """For the manifest: fields that are not used with their counts, notes in words, and how the records were written."""
        return {
            "not_used": dict(self._tally.not_used.most_common()),
            "notes": [*self._passed_over, *self._tally.notes()],
            write_back.FORMS: [origin.plain() for origin in self._forms],
        }

    def layout(self) -> str:
        """The layout that the first record was read as; empty where there was none."""
        return self._forms[0].layout if self._forms else ""

    def _streams(self) -> Iterator[_Stream]:
        config = self._config
        assert config.source is not None
        if _is_hub(config.source):
            assert isinstance(config.source, str)
            records = readers.hub_records(config.source, config.split or "train")
            yield _Stream(config.source, records, lambda: HUB_FORM, lambda: None)
            return
        kind = config.format if config.format in KINDS else "auto"
        for file in readers.expand(config.source, split=config.split):
            yield _Stream(
                file.path,
                readers.records(file, kind),
                lambda file=file: readers.form(file, kind),  # type: ignore[misc]
                lambda file=file: readers.passed_over(file, kind),  # type: ignore[misc]
            )

    def _reader(self, stream: _Stream, record: Record, row: int) -> formats.Layout:
        """How the records of a file are read, told by the first of them; `row` is that of the file's first record."""
        config = self._config
        assert record.data is not None
        name = config.format if config.format not in (*KINDS, "auto") else formats.detect(record.data)
        _check_layout(name, record, stream.path, config.columns)
        self._forms = write_back.joined(self._forms, write_back.Origin(row, name or "columns", stream.form()))
        passed_over = stream.passed_over()
        self._passed_over += [passed_over] if passed_over else []
        return formats.reader(name or "", config.columns, config.turns, self._tally, config.reasoning)


def _check_layout(name: str | None, record: Record, path: str, columns: Mapping[Any, str]) -> None:
    """Refuse a file whose first record does not have the fields that the layout or the column map needs."""
    fields = record.data or {}
    place, keys = record.place, ", ".join(map(str, fields))
    if columns:
        missing = [column for column in columns.values() if column not in fields]
        if missing:
            raise InputError(path, place, f"no column {missing[0]!r}, which ingest.columns names; it has {keys}")
    elif name is None:
        fix = "name its columns, e.g. --set ingest.columns='{instruction: question, output: answer}'"
        raise InputError(path, place, f"no known layout has the fields {keys}; {fix}")
    elif not formats.fits(name, formats.detect(fields)):
        raise InputError(path, place, f"not the {name} layout that ingest.format names; its fields are {keys}")


def _check_rejected(writer: ExampleWriter, allowed: float, stage: StageDir) -> None:
    if writer.records == 0:
        raise StageFailed("the source holds no records")
    if writer.examples and writer.rejected <= allowed * writer.records:
        return
    reasons = "; ".join(f"{count} x {reason}" for reason, count in writer.reasons.most_common(3))
    where = stage.storage.path(shard_name(0, "rejected"))
    raise StageFailed(
        f"{writer.rejected} of {writer.records} records cannot be examples, more than ingest.max_rejected = {allowed:g} "
        f"allows: {reasons}. They are listed in {where}"
    )
