"""Tell what a run came to: `report/` with a page, its figures as JSON, and a card of the chosen examples.

Takes whatever stages are finished, needs neither Ray nor a model, and may be made again at any time. It replaces the earlier
report; where nothing has changed since, that is left as it is.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import pyarrow.compute as pc

from alpagasus_ray.config import Report, digest, identity
from alpagasus_ray.data import readers
from alpagasus_ray.data.schema import DROPPED
from alpagasus_ray.errors import InputError
from alpagasus_ray.reporting import (
    comparisons_data,
    controls,
    dataset_card,
    examples,
    headline,
    html,
    provenance,
    questions,
    report_data,
    selection_data,
    side_by_side,
    training_data,
    verdicts,
)
from alpagasus_ray.reporting.comparisons_data import Judged
from alpagasus_ray.reporting.headline import Known, Sides
from alpagasus_ray.reporting.run_reader import Evidence, answer_rows, curve_of, dropped_tables, evidence, read_json
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, versions

PAGE, JSON, CARD = "index.html", "report.json", "dataset_card.md"
LEADING = ("threshold", "top")
MODEL = "models/"


def report(config: Report, run: Run, order: Sequence[str] = ()) -> dict[str, Any]:
    """Make `report/` and return its summary; `order` names the arms of the recipe, whose first the question is about unless
    `report.arm` says another. Raises `UsageError` for an arm that is not in the run and for files of votes that fit nothing.
    """
    started = time.monotonic()
    seen = evidence(run)
    home, settings, inputs = run.report(), _settings(config, order), seen.inputs() | _votes_print(config)
    done = home.manifest()
    if done is None or (done.settings, done.inputs) != (settings, inputs):
        told = figures(config, seen, order)
        contents = _contents(told)
        home.reopen()
        home.begin(Begun(settings=settings, inputs=inputs))
        written = {name: home.storage.write(name, content) for name, content in contents.items()}
        done = Manifest(
            stage=home.name,
            settings=settings,
            settings_hash=digest(settings),
            inputs=inputs,
            files=[FileEntry(name=name, rows=0, **to._asdict()) for name, to in written.items()],
            rows=seen.manifests["examples"].rows if "examples" in seen.manifests else 0,
            seconds=time.monotonic() - started,
            versions=versions(),
            details=_details(told.found["first"]),
        )
        home.finish(done)
    return _summary(run, done)


def _settings(config: Report, order: Sequence[str]) -> dict[str, Any]:
    """A report is known by its recipe and by what made it."""
    maker = {"page": html.fingerprint(), "version": versions()["alpagasus-ray"]}
    return {"report": identity(config), "order": list(order), **maker}


def _votes_print(config: Report) -> dict[str, str]:
    if not config.votes:
        return {}
    return {f"votes {file.name}": file.fingerprint() for file in readers.expand(config.votes, "report.votes")}


def _summary(run: Run, done: Manifest) -> dict[str, Any]:
    storage = run.report().storage
    return {
        "stage": done.stage,
        "location": storage.root,
        "rows": done.rows,
        "page": storage.path(PAGE),
        "json": storage.path(JSON),
        "card": storage.path(CARD),
        "answer": done.details["answer"],
        "seconds": round(done.seconds, 2),
        "notes": done.details["notes"],
    }


class Told(NamedTuple):
    """What a report tells: all figures (`report.json`), and the texts that only the page holds."""

    found: dict[str, Any]
    table: dict[str, Any] | None
    sides: dict[str, Any]


def figures(config: Report, seen: Evidence, order: Sequence[str] = ()) -> Told:
    """All that a report of the run tells, before it is a page."""
    subsets = _ordered(seen.named("subsets"), order)
    arm_of = _arms_of(seen)
    compared = [one for one in verdicts.comparisons(seen.run) if _wanted(config, one.judge)]
    about = _about(config, seen, list(subsets), compared)
    mine = {model for model, arm in arm_of.items() if arm == about.arm} | {about.arm or ""}
    as_told = [_judged(seen.run, one) for one in compared]
    games = [comparisons_data.from_the_side_of(mine, one) for one in as_told]
    ratings = _ratings(seen, about.arm)
    links = provenance.chain(seen.manifests)
    sizes = {name: manifest.rows for name, manifest in subsets.items()}
    random = controls.controls(
        about.arm, {name: manifest.settings["arm"]["policy"] for name, manifest in subsets.items()}, sizes
    )
    parts = report_data.Parts(
        verdicts=comparisons_data.verdicts(games, _statistics(config)),
        trainings=_trainings(seen, subsets),
        ratings=ratings,
        answered=_answered(seen, arm_of),
        arm_of=arm_of,
        sizes=sizes,
        stale=provenance.stale(links),
        controls=random,
        against_controls=controls.against(about.arm, random, games, arm_of, _statistics(config)),
    )
    chosen = _selection(seen, about.arm, ratings)
    limit = config.table_mib << 20
    table = examples.table_blob(seen, _shown(about, chosen, ratings), limit)
    both = side_by_side.side_by_side(games, config.rule, limit // 4)
    found = {
        "title": config.title or _title(about),
        "settings": _statistics(config)._asdict(),
        "first": report_data.first(about, parts, config.claim),
        "verdicts": parts.verdicts,
        "radars": comparisons_data.radars(parts.verdicts),
        "ranking": comparisons_data.ranking(games, _statistics(config)),
        "agreement": comparisons_data.agreement(as_told, _statistics(config), _votes(config)),
        "objective": report_data.objective(parts.answered),
        "ratings": ratings,
        "arms": selection_data.arms(subsets, subsets),
        "selection": chosen,
        "examples": report_data.examples(seen.manifests.get("examples")),
        "table": table and _held(table),
        "answers": report_data.answers(seen.answers()),
        "sides": _held(both),
        "trainings": parts.trainings,
        **provenance.taken(seen.manifests),
        "chain": links,
        "versions": provenance.versions(seen.manifests),
        "stale": parts.stale,
    }
    return Told(found, table, both)


def _contents(told: Told) -> dict[str, bytes]:
    return {
        JSON: orjson.dumps(told.found, option=orjson.OPT_INDENT_2),
        CARD: dataset_card.dataset_card(told.found).encode(),
        PAGE: html.page(told.found, told.table, told.sides).encode(),
    }


def _details(first: Mapping[str, Any]) -> dict[str, Any]:
    said = [f"{first['word']}.", *questions.summary(first["questions"]), first["cheaper"]]
    return {"answer": " ".join(part for part in said if part), "notes": first["notes"]}


def _held(blob: Mapping[str, Any]) -> dict[str, int]:
    """How much of what there is the page holds."""
    return {name: blob[name] for name in ("shown", "of")}


def _statistics(config: Report) -> comparisons_data.Settings:
    return comparisons_data.Settings(config.rule, config.resamples, config.seed)


def _about(config: Report, seen: Evidence, arms: Sequence[str], compared: Sequence[verdicts.Comparison]) -> Sides:
    arm_of = _arms_of(seen)
    sizes = {arm: seen.manifests[f"subsets/{arm}"].rows for arm in arms}
    models = [*seen.named("models"), *(model for model, _ in seen.answers())]
    pairs = [(arm_of.get(one.a, one.a), arm_of.get(one.b, one.b)) for one in compared]
    return headline.sides(config.arm, config.baseline, Known(sizes, models, pairs))


def _trainings(seen: Evidence, order: Mapping[str, Any]) -> list[dict[str, Any]]:
    models = _ordered(seen.named("models"), order)
    return [
        training_data.trained(arm, made.details, curve_of(seen.stage(f"{MODEL}{arm}"), made)) for arm, made in models.items()
    ]


def _shown(about: Sides, chosen: Mapping[str, Any] | None, ratings: Sequence[Mapping[str, Any]]) -> examples.Arm:
    main = next((entry["name"] for entry in ratings if entry["main"]), None)
    if chosen is None:
        return examples.Arm(about.arm, main, by_score=False, by_expected=False)
    return examples.Arm(chosen["arm"], main, by_score=chosen["by_score"], by_expected=chosen["by"] == "expected")


def _title(about: Sides) -> str:
    if about.arm is None:
        return "A run without arms"
    return about.arm if about.baseline is None else f"{about.arm} against {about.baseline}"


def _ordered(found: Mapping[str, Manifest], order: Sequence[str] | Mapping[str, Any]) -> dict[str, Manifest]:
    """In the order of the recipe; what it does not name comes after, arms chosen by their score first."""

    def place(name: str) -> tuple[int, bool, str]:
        names = list(order)
        policy = found[name].settings.get("arm", {})
        leads = isinstance(policy, Mapping) and policy.get("policy") in LEADING
        return names.index(name) if name in names else len(names), not leads, name

    return {name: found[name] for name in sorted(found, key=place)}


def _arms_of(seen: Evidence) -> dict[str, str]:
    """The arm that each answering model was trained on, of those that were trained in this run."""
    return {
        model: name.removeprefix(MODEL)
        for (model, _), manifest in seen.answers().items()
        for name in manifest.inputs
        if name.startswith(MODEL)
    }


def _wanted(config: Report, judge: str | None) -> bool:
    return judge is None or not config.compare or judge in config.compare


def _judged(run: Run, one: verdicts.Comparison) -> Judged:
    return Judged(one.judge, one.label, one.a, one.b, one.test_sets, verdicts.matches(run, one), verdicts.games(run, one))


def _votes(config: Report) -> list[tuple[str, list[dict[str, Any]]]]:
    if not config.votes:
        return []
    found = []
    for file in readers.expand(config.votes, "report.votes"):
        listed = []
        for record in readers.records(file):
            if record.data is None:
                raise InputError(file.path, f"record at {record.position}", record.problem)
            listed.append(record.data)
        found.append((file.path, listed))
    return found


def _ratings(seen: Evidence, arm: str | None) -> list[dict[str, Any]]:
    found = seen.named("ratings")
    return selection_data.rated(found, selection_data.ratings_of(seen.manifests.get(f"subsets/{arm}"), found))


def _selection(seen: Evidence, arm: str | None, ratings: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The report's arm as it was chosen; None where it is none of this run's."""
    name = f"subsets/{arm}"
    if arm is None or name not in seen.manifests:
        return None
    stage, manifest = seen.stage(name), seen.manifests[name]
    counted: Counter[str] = Counter()
    for table in dropped_tables(stage, manifest, [DROPPED.field("reason").name]):
        for entry in pc.value_counts(table["reason"]).to_pylist():
            counted[entry["values"]] += entry["counts"]
    found = selection_data.selection(arm, manifest, read_json(stage, manifest, "selection.json"), counted)
    main = next((entry for entry in ratings if entry["main"]), None)
    reasons = examples.judge_reasons(seen, arm, main["name"]) if main and main["kind"] == "rules" else {}
    return found | {"judge_reasons": reasons}


def _answered(seen: Evidence, arm_of: Mapping[str, str]) -> list[report_data.Answered]:
    return [
        (model, test_set, arm_of.get(model), answer_rows(seen.stage(f"answers/{model}/{test_set}"), manifest))
        for (model, test_set), manifest in seen.answers().items()
    ]
