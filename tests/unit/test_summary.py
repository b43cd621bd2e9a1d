"""What a person reads of a stage's summary."""

import io
from typing import Any

import pytest

from alpagasus_ray.reporting import summary


def _shown(**report: Any) -> str:
    stream = io.StringIO()
    summary.show({"stage": "ratings/judge", "rows": 10, "location": "runs/x", **report}, stream)
    return stream.getvalue()


@pytest.mark.parametrize("usage", [{"attempts": 10, "maybe_billed_twice": 0}, {}, None])
def test_what_is_as_usual_is_not_told(usage: Any) -> None:
    assert "attempts" not in _shown(usage=usage)
    assert "maybe" not in _shown(usage=usage)


def test_attempts_that_had_to_be_repeated_and_what_they_may_have_cost_are_told() -> None:
    told = _shown(usage={"attempts": 12, "maybe_billed_twice": 2, "cost_usd": 0.5})
    assert "12 attempts, 2 maybe billed twice, $0.5000" in told
