"""The short form of the fault matrix (`make faults` plays the long one): rows lost, rows twice, requests billed twice against
the bound and dollars against the cap, all counted by the server's own log."""

import pytest

from faults import matrix
from faults.arena import NotHere
from faults.matrix import Given, Scenario

SHORT = list(matrix.short())


@pytest.mark.parametrize(
    ("scenario", "given"), SHORT, ids=[f"{scenario.name}-{'-'.join(map(str, given.values()))}" for scenario, given in SHORT]
)
def test_nothing_is_lost_twice_or_bought_twice_beyond_the_bound(scenario: Scenario, given: Given, ray_address: str) -> None:
    try:
        found = matrix.play(scenario, given, ray_address)
    except NotHere as reason:
        pytest.skip(str(reason))
    assert found.broken == []
    assert (found.lost, found.twice) == (0, 0)
    assert found.faults.total() > 0
