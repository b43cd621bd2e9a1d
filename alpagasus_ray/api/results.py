"""What the methods of `Run` return: the summary that the command prints, with its parts by name; in a notebook a table."""

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from alpagasus_ray.api.rated import Histogram, Rated, Selection, as_table, rated_of, record_of, table_of
from alpagasus_ray.reporting import terminal
from alpagasus_ray.store.run import Run

Row = Mapping[str, Any]


@dataclass(frozen=True, repr=False)
class Result:
    """The summary of one verb."""

    summary: Mapping[str, Any]
    """What the verb prints with `--json`, plain values."""
    run: Run

    @property
    def rows(self) -> int:
        """Rows that the stage has made, or would make."""
        return int(self.summary.get("rows", 0))

    @property
    def notes(self) -> Sequence[str]:
        """What the user has to be told."""
        return list(self.summary.get("notes", ()))

    def table(self) -> Sequence[Row]:
        """The parts of the result, one a row; empty where it has none."""
        return []

    def __str__(self) -> str:
        out = io.StringIO()
        terminal.show(self.summary, out)
        return out.getvalue().rstrip()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = as_table(self.table())
        text = html.escape(str(self))
        return (
            f"{table}<details><summary>in words</summary><pre>{text}</pre></details>" if self.table() else f"<pre>{text}</pre>"
        )


class Planned(Result):
    """What a stage, or the whole experiment, would ask, train and cost; nothing was sent."""

    @property
    def dollars(self) -> Mapping[str, Any]:
        """From least (`low`) to most (`high`); None is what nobody can know. Empty where nothing is paid for."""
        return dict(self.summary.get("total_dollars") or self.summary.get("dollars") or {})


class Ingested(Result):
    """Examples that were read."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Records by what became of them."""
        return dict(self.summary["counts"])


class Scored(Ingested):
    """Examples that were rated."""

    @property
    def cost_usd(self) -> float | None:
        """What the replies of these ratings have cost in all, whichever call bought them; None where no price is known."""
        return self.summary["usage"].get("cost_usd")  # type: ignore[no-any-return]

    def histogram(self) -> Histogram:
        """How many examples have each score."""
        counts = {float(score): count for score, count in self.summary["histogram"].items()}
        return Histogram(counts, self.summary.get("scale"))

    @cached_property
    def rated(self) -> Rated:
        """Every record with its score, read into memory."""
        name = self.summary["stage"].partition("/")[2]
        return rated_of(self.run, name, self.run.ratings(name).finished())

    def _repr_html_(self) -> str:
        return self.histogram()._repr_html_() + super()._repr_html_()


class Picked(Result):
    """Arms that were chosen."""

    def table(self) -> Sequence[Row]:
        """An arm a row: `name`, examples kept (`rows`) and `dropped`, its `file`."""
        return [{key: arm[key] for key in ("name", "rows", "dropped", "file")} for arm in self.summary["arms"]]

    def __getitem__(self, arm: str) -> Selection:
        """The records of an arm as they came, with their scores."""
        ids = {row["example_id"]: row["score"] for row in table_of(self.run.subset(arm))}
        chosen = [row for row in table_of(self.run.examples()) if row["example_id"] in ids]
        scores = [ids[row["example_id"]] for row in chosen]
        return Selection([record_of(row) for row in chosen], scores)


class Trained(Result):
    """Models that were trained."""

    def table(self) -> Sequence[Row]:
        """A model a row: `name`, `location`, and what its training was."""
        return [{key: value for key, value in model.items() if not isinstance(value, dict)} for model in self.summary["models"]]


class Answered(Result):
    """Answers to test sets."""

    def table(self) -> Sequence[Row]:
        """A model on a test set a row: `model`, `test_set`, `rows`, its `file`."""
        return [{key: answers[key] for key in ("model", "test_set", "rows", "file")} for answers in self.summary["answers"]]


class Compared(Result):
    """Comparisons of models."""

    def table(self) -> Sequence[Row]:
        """A pair on a test set a row: `a`, `b`, `test_set`, and prompts by outcome: `win` and `lose` are those of `a`."""
        keys = ("a", "b", "test_set", "win", "tie", "lose", "no_verdict")
        return [{key: found[key] for key in keys} for found in self.summary["comparisons"]]


class Benchmarked(Result):
    """Scores of benchmarks, and the differences between models."""

    @property
    def benchmarks(self) -> Sequence[Row]:
        """One for each model and benchmark: its score with the interval, its shots, its cost."""
        return list(self.summary.get("benchmarks", ()))

    @property
    def differences(self) -> Sequence[Row]:
        """The first model against each other one: difference, interval, p, and the smallest that can be shown."""
        return list(self.summary.get("differences", ()))

    def table(self) -> Sequence[Row]:
        return self.benchmarks


class Cards(Result):
    """How far each judge can be trusted."""

    def table(self) -> Sequence[Row]:
        """A judge a row: `name`, `verdict` (`fit to choose data`, `only with …`, `no`), its `file`."""
        return [{key: card[key] for key in ("name", "verdict", "file")} for card in self.summary.get("cards", ())]


class Studies(Result):
    """Human studies of a run."""

    def table(self) -> Sequence[Row]:
        """A study a row: `study`, `items`, `page` (the ballot)."""
        return [{key: study[key] for key in ("study", "items", "page")} for study in self.summary["people"]]


class Reported(Result):
    """The report of a run."""

    @property
    def page(self) -> str:
        """The page's file."""
        return str(self.summary["page"])

    @property
    def answer(self) -> str:
        """What the run came to, in sentences."""
        return str(self.summary["answer"])


class RunStatus(Result):
    """How far a run is."""

    @property
    def driver(self) -> str | None:
        """Who is at work on it, if anybody is."""
        return self.summary["driver"]  # type: ignore[no-any-return]

    @property
    def dollars(self) -> float | None:
        """What all stages have cost, as far as it is known."""
        return self.summary["dollars"]  # type: ignore[no-any-return]

    def table(self) -> Sequence[Row]:
        """A stage a row: `stage`, `state`, `rows`, `of`, `seconds`, `dollars`."""
        keys = ("stage", "state", "rows", "of", "seconds", "dollars")
        return [{key: stage[key] for key in keys} for stage in self.summary["stages"]]


class Experiment(Result):
    """A whole experiment that was carried out."""

    @property
    def page(self) -> str:
        """The report's file."""
        return str(self.summary["page"])
