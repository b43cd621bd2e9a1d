"""The spending cap of one stage, over all its calls: dollars are lent before requests leave, and what is known is settled.

At every moment the file `spend.json` of the stage holds a bound that spending has not passed, whatever happens to the
processes: it is raised, on storage, before more is lent. A call that ends well leaves the exact sum there; after a kill, what
was lent at that moment counts as spent, because it may have been. Knows dollars only; no requests, no Ray.
"""

import json
from dataclasses import dataclass

from alpagasus_ray.store.storage import Storage

SPEND = "spend.json"
STEP = 0.01
"""Share of the cap by which the bound on storage is raised at least, so that it is not written for every request."""
ROUNDING = 1e-9
"""Dollars by which sums of many small numbers may be off."""


@dataclass
class Loan:
    """What one borrower has: dollars at hand, and dollars in requests under way."""

    at_hand: float = 0.0
    under_way: float = 0.0


class Budget:
    """Lends dollars up to a cap; `spent` is what earlier calls have cost."""

    def __init__(self, storage: Storage, cap: float, spent: float) -> None:
        self._storage, self._cap = storage, cap
        self._settled = spent
        self._loans: dict[str, Loan] = {}
        # what storage holds; it is never below what was lent, and above it by a little
        self._bound = spent

    @property
    def free(self) -> float:
        """Dollars that are neither spent nor lent."""
        return self._cap - self._settled - self._lent()

    def report(self, borrower: str, settled: float, at_hand: float, under_way: float) -> None:
        """What a borrower did since its last word: dollars settled, and what it holds of its loan now. What it does not
        hold any more and has not settled comes back."""
        self._settled += settled
        # what the worker says replaces what was known, so that a report that was lost is made good by the next
        self._loans[borrower] = Loan(at_hand, under_way)
        self._raise_bound(self._settled + self._lent())

    def lend(self, borrower: str, wanted: float, least: float) -> float | None:
        """Lend up to `wanted` dollars to one that has none at hand, and not less than `least`; 0 when that has to wait until
        others settle or return what they have, None when it will never be possible under this cap."""
        loan = self._loans.setdefault(borrower, Loan())
        if self.free + ROUNDING < least:
            # what is lent may come back, for requests cost less than the most they could; with nothing lent nothing will
            return 0.0 if self._lent() > ROUNDING else None
        granted = max(least, min(wanted, self.free))
        # written first, lent after: a kill in between costs some of the cap, the other order would pass it
        self._raise_bound(self._settled + self._lent() + granted)
        loan.at_hand += granted
        return granted

    def forget(self, borrower: str) -> None:
        """A borrower is gone: what it had counts as spent."""
        loan = self._loans.pop(borrower, Loan())
        # its requests may have been billed, and nobody is left who could tell
        self._settled += loan.at_hand + loan.under_way

    def close(self) -> float:
        """Write down what was spent, loans that nobody returned included; the sum in dollars."""
        self._write(self._settled + self._lent())
        return self._bound

    @property
    def spent(self) -> float:
        """Dollars settled so far."""
        return self._settled

    def _lent(self) -> float:
        return sum(loan.at_hand + loan.under_way for loan in self._loans.values())

    def _raise_bound(self, needed: float) -> None:
        if needed > self._bound + ROUNDING:
            # by more than is needed, so that storage is not written for every loan; `close` takes back what was too much
            self._write(min(max(self._cap, needed), needed + STEP * self._cap))

    def _write(self, bound: float) -> None:
        self._storage.write(SPEND, json.dumps({"at_most_usd": bound}).encode())
        self._bound = bound


def at_most_spent(storage: Storage) -> float:
    """The bound that an earlier call left, in dollars; 0 where there was none."""
    return float(json.loads(storage.read(SPEND))["at_most_usd"]) if storage.exists(SPEND) else 0.0
