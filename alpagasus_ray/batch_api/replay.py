"""A stage's work where all that is asked has been asked: rows have a reply in their ledger, or a reason why they have none.

It lets the ordinary run commit shards without sending anything. Knows nothing of how they were asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from alpagasus_ray.engines.base import Engine, Rate, Reply, ReplyForm, Request
from alpagasus_ray.errors import RowRefused
from alpagasus_ray.inference.ledger import Outcome
from alpagasus_ray.inference.spec import RowTask


@dataclass
class NoReply:
    """An engine that asks nobody, and tells each row the reason it has."""

    failed: Mapping[str, Outcome]
    address: str = "nowhere"
    stated: Rate = field(default_factory=Rate)

    async def complete(self, request: Request) -> Reply:
        outcome = self.failed.get(request.key)
        raise RowRefused(str(outcome.error) if outcome else "no result")


@dataclass(frozen=True)
class Settled:
    """The work of a stage with the outcomes of the requests that failed, by key."""

    work: RowTask
    failed: Mapping[str, Outcome]

    def open_engines(self) -> Sequence[Engine]:
        return [NoReply(self.failed)]

    def request(self, row: Mapping[str, Any]) -> Request:
        return self.work.request(row)

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        if outcome.reply is None and (failed := self.failed.get(request.key)) is not None:
            outcome = failed if outcome.attempts else failed.shared()
        return self.work.result(row, request, outcome)

    @property
    def schema(self) -> pa.Schema:
        return self.work.schema

    @property
    def form(self) -> ReplyForm:
        return self.work.form
