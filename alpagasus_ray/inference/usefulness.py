"""Whether what a stage gets is of use, and what is told where it is not."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from alpagasus_ray.config import Asking, EngineConfig
from alpagasus_ray.engines.advice import advice
from alpagasus_ray.errors import BudgetReached, StageFailed
from alpagasus_ray.inference.first_replies import FIRST, FirstLook, Usable
from alpagasus_ray.store.run import Manifest, StageDir


def usable(config: Asking, asked: EngineConfig, statuses: Collection[str]) -> Usable | None:
    """By what the first results are looked at; what somebody has recorded may fairly be of a part of the rows."""
    if not asked.is_model:
        return None
    return Usable(frozenset(statuses), config.max_unusable, f"{config.section}.max_unusable")


def check(stage: StageDir, manifest: Manifest, wanted: Usable | None) -> None:
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


@contextmanager
def advising(asked: EngineConfig) -> Iterator[None]:
    """Add what helps to the reason for which a stage stops, where it is known."""
    try:
        yield
    except BudgetReached:
        raise
    except StageFailed as error:
        found = advice(str(error), asked.where)
        if found is None:
            raise
        raise StageFailed(f"{error}\nWhat may help: {found}") from None
