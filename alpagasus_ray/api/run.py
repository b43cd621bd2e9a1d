"""A run in Python: the command's verbs as methods, which are the same functions."""

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from alpagasus_ray import commands, recipe, run_all
from alpagasus_ray.api import results, scorers
from alpagasus_ray.api.rated import record_of, table_of
from alpagasus_ray.api.rows import as_lines
from alpagasus_ray.cli import ALL_STATUSES, JobSpec, perform
from alpagasus_ray.config import Compare, Section
from alpagasus_ray.config import Judge as ScoreJudge
from alpagasus_ray.config.base import digest
from alpagasus_ray.errors import UsageError
from alpagasus_ray.stages.score import score
from alpagasus_ray.store import lock
from alpagasus_ray.store.find_run import check_exists
from alpagasus_ray.store.run import Run as RunDir

R = TypeVar("R", bound=results.Result)
COLUMNS = "columns"
"""Directory of a run that holds the numbers of scorers."""


class Run:
    """One directory (a path, `s3://…` or `gs://…`) that holds every stage of an experiment.

    A method takes the knobs of its section of the recipe by their names, lists and maps as Python's; what one call has set
    holds for the later ones of this object, as if it stood in the recipe. Errors are those of the command: `UsageError` for
    what it ends with code 2 for, `BudgetReached` for 3, the other `AlpagasusError` for 1.
    """

    def __init__(self, location: str | Path, recipe: str | Path | Mapping[str, Any] | None = None) -> None:
        """`recipe` is what `-r` takes (a file, a URI, the name of one that ships), or its content."""
        self.location = str(location)
        self._dir = RunDir.open(self.location)
        self._written: dict[str, Any] = copy.deepcopy(dict(recipe)) if isinstance(recipe, Mapping) else _read(recipe)

    def __repr__(self) -> str:
        return f"Run({self.location!r})"

    def run(self, **sections: Any) -> results.Experiment:
        """The whole experiment; what is done is skipped. `sections` are sections of the recipe as dictionaries."""
        self._written = _merged(self._written, sections)
        return self._carry_out(results.Experiment, run_all.RUN_ALL)

    def plan(self, stage: str = "", *, gpu: str | None = None) -> results.Planned:
        """What the whole experiment, or the stage `score`, would ask, train and cost; sends and writes nothing."""
        if stage == "score":
            return self._carry_out(results.Planned, commands.SCORE, plan=True)
        if stage:
            raise UsageError(f"plan({stage!r}): give 'score', or nothing for the whole experiment")
        return self._carry_out(results.Planned, run_all.RUN_ALL, plan=True, gpu=gpu)

    def ingest(self, source: str | None = None, **knobs: Any) -> results.Ingested:
        """Read a dataset, whatever its layout."""
        self._set("ingest", {"source": source} if source is not None else {}, knobs)
        return self._carry_out(results.Ingested, commands.INGEST)

    def score(
        self,
        judge: str | None = None,
        *,
        limit: int | None = None,
        rescore: bool = False,
        retry_failed: bool | str = False,
        **knobs: Any,
    ) -> results.Scored:
        """Rate every example with a judge. Knobs of `score.judge` may be given as they are: `base_url="…"`."""
        self._set("score", _with_judge(judge, knobs, ScoreJudge))
        return self._carry_out(results.Scored, commands.SCORE, limit=limit, rescore=rescore, retry_failed=retry_failed)

    def pick(
        self, *, top: int | None = None, threshold: float | None = None, by: str | None = None, **knobs: Any
    ) -> results.Picked:
        """Choose the arms: `pick.arms` of the recipe or of the call; or with `top` or `threshold` the arm `selected` and beside
        it `random`, of the same size. `by` names a scorer of one's own to choose by in place of the judge's score."""
        if by is not None:
            knobs["ratings"] = self._column(scorers.named(by))
        if top is not None and threshold is not None:
            raise UsageError(f"pick(top={top}, threshold={threshold}): give one of them")
        cut = {"policy": "top", "k": top} if top is not None else {"policy": "threshold", "threshold": threshold}
        if top is not None or threshold is not None:
            knobs["arms"] = [{"name": "selected", **cut}, {"name": "random", "policy": "random"}]
        self._set("pick", knobs)
        return self._carry_out(results.Picked, commands.PICK)

    def train(self, **knobs: Any) -> results.Trained:
        """Train a model on every arm."""
        self._set("finetune", knobs)
        return self._carry_out(results.Trained, commands.FINETUNE)

    def answer(self, *, rescore: bool = False, retry_failed: bool | str = False, **knobs: Any) -> results.Answered:
        """Let the models answer test sets."""
        self._set("generate", knobs)
        return self._carry_out(results.Answered, commands.GENERATE, rescore=rescore, retry_failed=retry_failed)

    def compare(
        self, judge: str | None = None, *, rescore: bool = False, retry_failed: bool | str = False, **knobs: Any
    ) -> results.Compared:
        """Let a judge compare their answers, in both orders."""
        annotation = Compare.model_fields["judge"].annotation
        assert isinstance(annotation, type)
        self._set("compare", _with_judge(judge, knobs, annotation))
        return self._carry_out(results.Compared, commands.COMPARE, rescore=rescore, retry_failed=retry_failed)

    def bench(self, *, retry_failed: bool | str = False, unsafe_code: bool = False, **knobs: Any) -> results.Benchmarked:
        """Ask the models benchmarks; `models`, `tasks` and `data` are those of `bench` in a recipe."""
        self._set("bench", knobs)
        return self._carry_out(results.Benchmarked, commands.BENCH, retry_failed=retry_failed, unsafe_code=unsafe_code)

    def card(self, *, plan: bool = False, again: bool = False, **knobs: Any) -> results.Cards:
        """How far each judge can be trusted; asks nothing unless `repeat` or `probes` is true."""
        self._set("card", knobs)
        return self._carry_out(results.Cards, commands.CARD, plan=plan, again=again)

    def people(self, action: str, *files: str | Path, **knobs: Any) -> results.Studies:
        """A human study: `make` its ballot, `import` the files that voters have exported, or its `status`."""
        if action not in commands.PEOPLE.actions:
            raise UsageError(f"people({action!r}): say one of {', '.join(commands.PEOPLE.actions)}")
        self._set("people", knobs)
        return self._carry_out(results.Studies, commands.PEOPLE, action=action, files=[str(file) for file in files])

    def report(self, **knobs: Any) -> results.Reported:
        """Write the page, report.json and a dataset card."""
        self._set("report", knobs)
        return self._carry_out(results.Reported, commands.REPORT)

    def status(self, *, verify: bool = False) -> results.RunStatus:
        """How far each stage is, what it has cost and what failed."""
        return self._carry_out(results.RunStatus, commands.STATUS, verify=verify)

    def _repr_html_(self) -> str:
        return self.status()._repr_html_()

    def _set(self, section: str, *knobs: Mapping[str, Any]) -> None:
        for given in knobs:
            self._written = _merged(self._written, {section: given} if given else {})

    def _carry_out(self, kind: type[R], spec: JobSpec, **flags: Any) -> R:
        names = [flag.replace("-", "_") for flag in spec.flags] + (["action", "files"] if spec.actions else [])
        if flags.get("retry_failed") is True:
            flags["retry_failed"] = ALL_STATUSES
        loaded = recipe.checked(copy.deepcopy(self._written))
        return kind(
            perform(spec, loaded, self._dir, argparse.Namespace(**{name: flags.get(name) for name in names})), self._dir
        )

    def _column(self, scorer: scorers.Scorer) -> str:
        """The ratings that a scorer gives the examples of this run: made once for each version, and kept like a judge's."""
        check_exists(self._dir)
        if self._dir.ratings(scorer.column).manifest() is not None:
            return scorer.column
        examples = table_of(self._dir.examples())
        numbers = scorer.of(record_of(row) for row in examples)
        known = [number for number in numbers if number is not None]
        if not known:
            raise UsageError(f"scorer {scorer.name!r} gives none of the {len(examples):,} examples a number")
        lines = as_lines(
            {"example_id": row["example_id"], "score": value} for row, value in zip(examples, numbers, strict=True)
        )
        with lock.held(self._dir) as held:
            place, name = held.storage.at(COLUMNS), f"{scorer.column}-{digest(lines)[:12]}.jsonl"
            place.write(name, lines.encode())
            scale = {"min": min(known), "max": max(known) if max(known) > min(known) else min(known) + 1}
            judge = {"kind": "recorded", "ratings": place.path(name), "scale": scale}
            asked = recipe.checked({"score": {"name": scorer.column, "judge": judge, "max_failed": 1.0}}).recipe
            score(asked.score, held, in_process=True)
        return scorer.column


def _read(path: str | Path | None) -> dict[str, Any]:
    return {} if path is None else recipe.load(str(path), ()).written


def _with_judge(judge: str | None, knobs: Mapping[str, Any], of: type[Section]) -> dict[str, Any]:
    """Knobs of a stage, those of its judge in their section."""
    fields = set(of.model_fields) - {"name"}
    inside = {key: value for key, value in knobs.items() if key in fields}
    found = {**dict(knobs.get("judge") or {}), **({"model": judge} if judge is not None else {}), **inside}
    return {**{key: value for key, value in knobs.items() if key not in fields}, **({"judge": found} if found else {})}


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values, the new ones in place of the old."""
    return dict(old) | {
        key: _merged(old[key], value) if isinstance(value, Mapping) and isinstance(old.get(key), Mapping) else value
        for key, value in new.items()
    }
