"""What the rows of ratings, answers and verdicts keep of a reply and its request, and the reply that such a row kept.

Columns that files of earlier versions lack are none. Knows nothing of what is read in a reply.
"""

from collections.abc import Mapping
from typing import Any

from alpagasus_ray.engines.base import STOP, Reply
from alpagasus_ray.inference.ledger import Outcome

FIELDS = ("finish_reason", "tokens_in", "tokens_out", "tokens_cached", "cost_usd", "max_tokens", "model", "fingerprint")
COUNTED = ("latency_s", "attempts", "maybe_billed_twice")


def columns(outcome: Outcome) -> dict[str, Any]:
    """The columns that are the same whatever was asked. What a server told apart is kept where there is no text beside it: it
    says where the text is."""
    reply = outcome.reply
    thought = reply.reasoning if reply and not reply.text.strip() else None
    return {
        **{name: getattr(reply, name) if reply else None for name in FIELDS},
        **{name: getattr(outcome, name) for name in COUNTED},
        "reasoning": thought,
    }


def stored(row: Mapping[str, Any]) -> Reply | None:
    """The reply that a row kept, as it came; None where there was none."""
    text = row["reply"] if row.get("raw") is None else row["raw"]
    if text is None:
        return None
    return Reply(text, row["finish_reason"] or STOP, reasoning=row.get("reasoning"))
