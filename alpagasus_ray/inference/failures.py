"""When a stage gives up: too many rows failed, hardly any result is of use, or rows are missing; and what may help.

Knows counts and statuses; nothing of how rows are asked.
"""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from alpagasus_ray.config import EngineConfig
from alpagasus_ray.engines.advice import advice
from alpagasus_ray.engines.openai_reply import HOPELESS
from alpagasus_ray.errors import AlpagasusError, BudgetReached, StageFailed, UsageError
from alpagasus_ray.inference.counts import Counts, StopRule
from alpagasus_ray.inference.first_replies import FIRST, FirstLook, Usable
from alpagasus_ray.inference.spec import AskSpec
from alpagasus_ray.store.run import Manifest, StageDir

INTERRUPTED = "interrupted; every reply received so far is kept, and the same command goes on from here"
NO_SUCH_MODEL = f"http 404: {HOPELESS[404]}"
FEW_MODELS = 8
"""Names of a server's models that a message lists."""
FAILED = "failed"
FEW_FAILURES = 20
"""Up to so many failures their share says nothing."""


def too_many_failed(spec: AskSpec, rows: int, failed: int, reasons: Mapping[str, int], texts: Mapping[str, int]) -> str | None:
    """Why to give up: more than `max_failed` of all rows failed, with the commonest reasons and error text. What somebody has
    recorded may fairly be of a part of them."""
    # ten bad rows of the first eleven are no reason to end a run of millions
    if spec.engine.traits.is_recorded or failed <= max(FEW_FAILURES, spec.max_failed * rows):
        return None
    listed = ", ".join(f"{count:,} x {reason}" for reason, count in Counter(reasons).most_common(3))
    knob = f"{spec.section}.max_failed = {spec.max_failed:g}"
    commonest = f"; the commonest: {Counter(texts).most_common(1)[0][0]}" if texts else ""
    return f"{failed:,} rows failed, more than {knob} of {rows:,} allows ({listed}{commonest})"


def stop_rule(spec: AskSpec, rows: int) -> StopRule:
    """What the driver watches the counts of a call on so many rows with."""

    def rule(counts: Counts) -> str | None:
        return too_many_failed(spec, rows, counts.statuses[FAILED], counts.without_reply, counts.error_texts)

    return rule


def check_results(spec: AskSpec, stage: StageDir, manifest: Manifest) -> None:
    """Refuse to finish a stage of which too many rows failed, or hardly any is of use: `StageFailed`."""
    # the rule is asked without reasons first: to count the error texts all failed shards have to be read
    failed = manifest.counts.get(FAILED, 0)
    if too_many_failed(spec, manifest.rows, failed, {}, {}) is not None:
        reasons, texts = manifest.details["reasons"], _error_texts(stage, manifest)
        reason = too_many_failed(spec, manifest.rows, failed, reasons, texts)
        with advising(spec.engine):
            raise StageFailed(f"{stage.name}: {reason}. The same command asks again for those")
    _check_usable(stage, manifest, spec.usable)


def _error_texts(stage: StageDir, manifest: Manifest) -> Counter[str]:
    """The error texts of a stage's failures, counted."""
    texts: Counter[str] = Counter()
    for entry in manifest.parts():
        if entry.counts.get(FAILED):
            rows = stage.table(entry.name, entry.sha256, ["status", "error"]).to_pylist()
            texts.update(row["error"] for row in rows if row["status"] == FAILED and row["error"])
    return texts


def _check_usable(stage: StageDir, manifest: Manifest, wanted: Usable | None) -> None:
    """Refuse to finish a stage that made hardly anything of use: one that was through before it could be stopped."""
    if wanted is None or manifest.rows < FIRST:
        return
    useless = sum(count for status, count in manifest.counts.items() if status not in wanted.statuses)
    if useless <= wanted.share * manifest.rows:
        return
    look, reason = FirstLook(wanted), None
    for entry in manifest.parts():
        for row in stage.table(entry.name, entry.sha256, ["status", "reply"]).to_pylist():
            reason = look.saw(row) or reason
    if reason is not None:
        raise StageFailed(f"{stage.name}: {reason}")


def check_rows(manifest: Manifest, source: Manifest) -> None:
    """Rows in = rows out, shard by shard; `StageFailed` where it is not so."""
    expected = {entry.name: entry.rows for entry in source.parts()}
    made = {entry.shard: entry.rows for entry in manifest.parts()}
    if made != expected:
        wrong = sorted(name for name in {*expected, *made} if expected.get(name) != made.get(name))
        raise StageFailed(f"{manifest.stage}: {len(wrong)} shards do not hold the rows of their input, {wrong[0]} first")


def why_stopped(kind: str, reason: str) -> AlpagasusError:
    """The error of a stage that its workers have stopped, by the kind of the reason."""
    if kind == "budget":
        return BudgetReached(reason)
    if kind == "usage":
        return UsageError(reason)
    return StageFailed(f"stopped: {reason}. What is done is kept, and the command goes on from here once that is mended")


@contextmanager
def advising(engine: EngineConfig) -> Iterator[None]:
    """Add what may help to the reason for which a stage stops, where that is known."""
    try:
        yield
    except BudgetReached:
        raise
    except StageFailed as error:
        hint = advice(str(error), engine.where) or _other_models(str(error), engine)
        if hint is None:
            raise
        raise StageFailed(f"{error}\nWhat may help: {hint}") from None


def _other_models(error: str, engine: EngineConfig) -> str | None:
    """The models that a server lists where it says that it has not the one asked for; None where it does not say."""
    if not engine.is_remote or NO_SUCH_MODEL not in error:
        return None
    from alpagasus_ray.engines.model_list import ask_models  # with a client that jobs without a server need not wait for

    listing = ask_models(engine)
    if not listing.models or engine.model in listing.models:
        return None
    near = difflib.get_close_matches(str(engine.model), listing.models, n=1) or listing.models[:1]
    more = f" and {len(listing.models) - FEW_MODELS:,} more" if len(listing.models) > FEW_MODELS else ""
    return f"{engine.where}.model={near[0]}: {listing.address} lists {', '.join(listing.models[:FEW_MODELS])}{more}"
