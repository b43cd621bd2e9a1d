"""Write `judges/<name>/card.json` for every judge of a run, and `judges/together.json` where several rate the same rows.

What is there costs nothing to read: ratings, verdicts, people's votes, marks. What `card.repeat` and `card.probes` want to know
of the judge of `score` is asked first (`inference/tasks/probes.py`). The cards replace earlier ones; where nothing has changed
since, they are left as they are.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import orjson

from alpagasus_ray.config import Card, Recipe, identity
from alpagasus_ray.data import readers
from alpagasus_ray.errors import UsageError
from alpagasus_ray.evaluation import judge_agreement, judge_sections
from alpagasus_ray.evaluation.estimates import Estimate, both_present, mean
from alpagasus_ray.evaluation.judge_card import judge_card, line, with_limits
from alpagasus_ray.inference.tasks import probes as card_probes
from alpagasus_ray.reporting import judge_material, judge_probes, judge_verdicts
from alpagasus_ray.reporting.judge_material import Lengths, Marks, RatedByPeople, Ratings
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir, versions

CARD, TOGETHER = "card.json", "together.json"
RULE = "alpagasus"
"""The rule of comparisons that cards of earlier versions were made by; they name none."""


class Material(NamedTuple):
    """All that the cards of a run are made from."""

    config: Card
    run: Run
    ratings: Mapping[str, Ratings]
    lengths: Lengths
    people: Mapping[str, RatedByPeople]
    """By the name of the ratings that they stand beside, as `marks`."""
    marks: Mapping[str, Marks]
    verdicts: Sequence[judge_verdicts.Judged]
    together: dict[str, Any] | None
    not_asked: Mapping[str, str]
    """Why a judge was not asked though the recipe wants it, by its ratings' name."""


def card(recipe: Recipe, run: Run, *, again: bool = False) -> dict[str, Any]:
    """Make the cards, and return their summary. `again`: ask the stored probes once more, though nothing was rated since.
    Raises `UsageError` for ratings that are not there and limits that no figure has, and what asking raises."""
    config, started = recipe.card, time.monotonic()
    with_limits(config.limits)
    made = _rated(config, run)
    not_asked = {name: card_probes.why_not(run, name, recipe.score) for name in made}
    if config.repeat or config.probes:
        _ask(recipe, run, [name for name, why in not_asked.items() if why is None], again=again)
    home, inputs = run.judges(), _inputs(config, run, made)
    rule = judge_verdicts.rule_of(recipe)
    settings = {"card": identity(config), "version": versions()["alpagasus-ray"], **({} if rule == RULE else {"rule": rule})}
    done = home.manifest()
    if done is None or (done.settings, done.inputs) != (settings, inputs):
        verdicts = judge_verdicts.judged(run, rule)
        files = _files(_material(config, run, made, verdicts, {name: why for name, why in not_asked.items() if why}))
        home.reopen()
        entries = [
            FileEntry(name=name, rows=0, **home.storage.write(name, orjson.dumps(value, option=orjson.OPT_INDENT_2))._asdict())
            for name, value in files.items()
        ]
        begun = Begun(settings=settings, inputs=inputs, seconds=time.monotonic() - started)
        done = home.build(begun, entries)
        home.finish(done)
    return _summary(home, done)


def unasked(recipe: Recipe, run: Run) -> None:
    """Make the cards that cost nothing, where the run has judges and no card of any: so that no report is without one."""
    if run.judges().manifest() is None and (_current(run) or judge_verdicts.is_any(run)):
        free = recipe.card.model_copy(update={"repeat": False, "probes": False})
        card(recipe.model_copy(update={"card": free}), run)


def plan(recipe: Recipe, run: Run, *, again: bool = False) -> dict[str, Any]:
    """What a call would ask and what that would cost; nothing is sent or written. Before there are ratings, by all examples."""
    config, score = recipe.card, recipe.score
    wanted = config.repeat or config.probes
    is_rated = run.ratings(score.name).manifest() is not None
    why = card_probes.why_not(run, score.name, score) if is_rated else _cannot(recipe)
    notes = ["card.repeat and card.probes are off: nothing is asked"] if not wanted else [why] if why else []
    asked: dict[str, Any] = {"judge": score.name, "asks": {}, "requests": 0, "dollars": {"low": 0.0, "high": 0.0}}
    if not notes:
        ids = dict.fromkeys(islice(_all_ids(run), judge_material.MOST_ROWS), 0.0)
        rated = run.ratings(score.name).manifest()
        scored = ids if rated is None else judge_material.ratings(run, score.name, rated).of_row
        probes = card_probes.lay_out(config, run, score.name, scored)
        asked = card_probes.price(config, run, score, probes, again=again)
    return {"plan_of_card": True, "stage": "judges", "location": run.judges().storage.root, "rows": 0, **asked, "notes": notes}


def _cannot(recipe: Recipe) -> str | None:
    kind = recipe.score.judge.kind
    return "a recorded judge cannot be asked again" if kind == "recorded" or recipe.score.combine is not None else None


def _rated(config: Card, run: Run) -> dict[str, Manifest]:
    """The ratings that get a card."""
    made = _finished(run)
    if unknown := [name for name in config.ratings if name not in made]:
        raise UsageError(f"card.ratings: {unknown[0]!r} is not finished in this run; there are {', '.join(made) or 'none'}")
    current = _current(run)
    if old := [name for name in config.ratings if name not in current]:
        raise UsageError(f"card.ratings: ratings/{old[0]}/ rates other examples than this run now holds; rate them again")
    if not current and not judge_verdicts.is_any(run):
        raise UsageError(
            "there is no judge to make a card of: the run has neither ratings nor verdicts; run `alpagasus score RUN` first"
        )
    return {name: manifest for name, manifest in current.items() if name in (config.ratings or current)}


def _finished(run: Run) -> dict[str, Manifest]:
    rated = {stage.name.partition("/")[2]: stage.manifest() for stage in run.rated()}
    return {name: manifest for name, manifest in rated.items() if manifest is not None}


def _current(run: Run) -> dict[str, Manifest]:
    """The ratings of the examples that the run now holds."""
    examples = run.examples().manifest()
    held = None if examples is None else examples.content_hash()
    return {name: manifest for name, manifest in _finished(run).items() if manifest.inputs.get("examples") == held}


def _ask(recipe: Recipe, run: Run, can: Sequence[str], *, again: bool) -> None:
    name = recipe.score.name
    if name not in can:
        return
    rated = judge_material.ratings(run, name, run.ratings(name).finished())
    probes = card_probes.lay_out(recipe.card, run, name, rated.of_row)
    model, fingerprint = rated.answered_by
    card_probes.write(probes, recipe.card, run, {"model": model, "fingerprint": fingerprint})
    card_probes.ask(recipe.card, run, recipe.score, probes, again=again)


def _all_ids(run: Run) -> Iterator[str]:
    stage = run.examples()
    for table in stage.tables(stage.finished(), ["example_id"]):
        yield from table["example_id"].to_pylist()


def _inputs(config: Card, run: Run, made: Mapping[str, Manifest]) -> dict[str, str]:
    """Hashes of all that the cards are made from."""
    stages = {f"ratings/{name}": manifest for name, manifest in made.items()}
    names = {name.rpartition("/")[0] for name in run.storage.all_names() if name.endswith("/manifest.json")}
    for name in sorted(names):
        kind, _, rest = name.partition("/")
        is_probe = kind == "judges" and rest.rpartition("/")[2].startswith(judge_probes.KINDS)
        if is_probe or kind == "people" or kind.startswith("verdicts"):
            manifest = StageDir(name, run.storage.at(*name.split("/"))).manifest()
            stages |= {name: manifest} if manifest else {}
    gold = {f"gold {file.name}": file.fingerprint() for file in readers.expand(config.gold, "card.gold")} if config.gold else {}
    return {name: manifest.content_hash() for name, manifest in stages.items()} | gold


def _material(
    config: Card,
    run: Run,
    made: Mapping[str, Manifest],
    compared: Sequence[judge_verdicts.Judged],
    not_asked: Mapping[str, str],
) -> Material:
    if config.gold and not made:
        raise UsageError("card.gold: this run has no ratings that marks could stand beside; rate its examples, or leave it out")
    scales = {name: judge_material.scale_of(manifest) for name, manifest in made.items()}
    people = {name: judge_material.rated_by_people(run, scale) for name, scale in scales.items()}
    marks = judge_material.marks_given(config.gold, scales)
    marked = {row for one in marks.values() for row in (*one.given, *one.wrong)}
    rated = {row for of in people.values() for some in (of.at_random, of.near) for ratings in some.values() for row in ratings}
    keep = {*marked, *rated}
    ratings = {name: judge_material.ratings(run, name, manifest, keep) for name, manifest in made.items()}
    rows = {row for one in ratings.values() for row in one.ids}
    if strange := sorted(marked - rows):
        raise UsageError(f"card.gold: no judge of this run has rated {strange[0]!r}; give marks of examples that it holds")
    lengths = judge_material.lengths(run, rows) if ratings else Lengths({}, "words")
    several = _together(config, ratings, lengths)
    return Material(config, run, ratings, lengths, people, marks, compared, several, not_asked)


def _together(config: Card, ratings: Mapping[str, Ratings], lengths: Lengths) -> dict[str, Any] | None:
    """What judges have in common: those of the scale that most of them are on. Ratings that are made of others agree with these
    by construction, and are left out."""
    by_scale: dict[tuple[float, float], dict[str, Ratings]] = {}
    for name, one in ratings.items():
        if "combine" not in one.manifest.settings:
            scale = judge_material.scale_of(one.manifest)
            by_scale.setdefault((scale.min, scale.max), {})[name] = one
    own = max(by_scale.values(), key=len, default={})
    if len(own) < 2:
        return None
    ids = next(iter(own.values())).ids
    scores = {name: _in_order(one, ids) for name, one in own.items()}
    return {**judge_agreement.several(scores, config.cut, lengths.of(ids)), "cost_usd": 0.0}


def _in_order(one: Ratings, ids: Sequence[str]) -> np.ndarray:
    if one.ids == list(ids):
        return one.scores
    of_row = one.of_row
    return np.array([of_row.get(row, np.nan) for row in ids])


def _files(material: Material) -> dict[str, Any]:
    made = {f"{name}/{CARD}": _card(material, one) for name, one in material.ratings.items()}
    labels = {one.label for one in material.ratings.values()}
    for judged in material.verdicts:
        if judged.label not in labels and f"{judged.name}/{CARD}" not in made:
            made[f"{judged.name}/{CARD}"] = _card_of_comparing(material, judged)
    return made | ({} if material.together is None else {TOGETHER: material.together})


def _card(material: Material, one: Ratings) -> dict[str, Any]:
    """The card of a judge of examples."""
    config, cut = material.config, material.config.cut
    asked = judge_probes.answered(material.run, one)
    scale = judge_material.scale_of(one.manifest)
    left_out = judge_material.left_out(material.people[one.name], material.marks[one.name], scale)
    compared = judge_verdicts.of_model(material.verdicts, one.label)
    sections = {
        "scale_use": judge_sections.scale_use(one.scores, cut, one.outside),
        "failures": judge_sections.failures(one.asked),
        "several": _seen_together(material, one.name),
        "gold": _gold(material, one) if material.marks[one.name].given else None,
        "raters": _raters(material, one),
        **judge_verdicts.sections(compared, config.epsilon),
        **judge_probes.sections(material.run, one, material.lengths, cut),
    }
    identity_of = {"name": one.name, **one.judge, "rubric": one.manifest.settings.get("rubric"), "unit": material.lengths.unit}
    made = judge_card(identity_of, sections, with_limits(config.limits), _missing(material, one, left_out))
    costs = {kind: judge_probes.cost(stage) for kind, stage in asked.items()}
    told = {
        "notes": [note for section, notes in left_out.items() if sections[section] is not None for note in notes],
        "cut": cut,
        "costs": costs,
        "cost_usd": _sum(costs),
    }
    return {**made, **told, "win_rates": judge_verdicts.win_rates_of(compared)}


def _card_of_comparing(material: Material, judged: judge_verdicts.Judged) -> dict[str, Any]:
    """The card of a judge that has compared answers and rated no examples."""
    compared = [one for one in material.verdicts if one.label == judged.label]
    sections = {"failures": judge_verdicts.failures(compared), **judge_verdicts.sections(compared, material.config.epsilon)}
    about = {"name": judged.name, "model": judged.label}
    made = judge_card(about, sections, with_limits(material.config.limits), {"repeat": "a judge of pairs is not asked again"})
    told: dict[str, Any] = {"notes": [], "cut": None, "costs": {}, "cost_usd": 0.0}
    return {**made, **told, "win_rates": judge_verdicts.win_rates_of(compared)}


def _seen_together(material: Material, name: str) -> dict[str, Any] | None:
    together = material.together
    return together if together is not None and name in together["judges"] else None


def _gold(material: Material, one: Ratings) -> dict[str, Any]:
    """The judge beside the marks; of ratings that were marked as wrong only how far off they are."""
    given = material.marks[one.name]
    marks = _in_place(given.given, one)
    figures = judge_agreement.gold(one.scores, marks, material.config.cut, material.lengths.of(one.ids))
    return figures | ({"marked_wrong": _off(material, one)} if given.wrong else {})


def _raters(material: Material, one: Ratings) -> dict[str, Any] | None:
    """The judge beside people on examples drawn at random, and apart from these on those near the cut."""
    people, config = material.people[one.name], material.config
    if not people.at_random:
        return None
    section = judge_agreement.raters(one.of_row, people.at_random, config.cut, material.lengths.of_row, config.epsilon)
    return {**section, "near_cut": judge_agreement.near_cut(one.of_row, people.near, config.cut) if people.near else None}


def _off(material: Material, one: Ratings) -> Estimate:
    """By how many points the judge's scores are above what ratings that were marked as wrong deserve, in the mean."""
    return mean(np.subtract(*both_present(one.scores, _in_place(material.marks[one.name].wrong, one))))


def _in_place(marks: Mapping[str, float], one: Ratings) -> np.ndarray:
    return np.array([marks.get(row, np.nan) for row in one.ids])


def _missing(material: Material, one: Ratings, left_out: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Better reasons than the usual ones for what is not there."""
    why = material.not_asked.get(one.name)
    better = {} if why is None else dict.fromkeys(("repeat", "planted_defects", "drift"), why)
    if len(material.ratings) > 1 and "combine" not in one.manifest.settings:
        better["several"] = "the run's other judges rate on another scale, or are made of others"
    reasons = {section: list(notes) for section, notes in left_out.items()}
    if material.marks[one.name].wrong:
        off = _off(material, one)
        points = "" if off["value"] is None else f", {off['value']:+.2f} points from what they deserve in the mean"
        reasons["gold"].append(
            f"{off['n']:,} ratings are marked as wrong{points}; examples that were chosen for that do not say how often the "
            "judge is right: give marks of examples drawn at random (card.gold)"
        )
    return better | {section: "; ".join(notes) for section, notes in reasons.items() if notes}


def _sum(costs: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Dollars of all probes; None where there are some of which nobody knows the price."""
    known = [one["cost_usd"] for one in costs.values()]
    return None if None in known else round(sum(known), 6)


def _summary(home: StageDir, done: Manifest) -> dict[str, Any]:
    """Each card's verdict in a line, and where it lies."""
    read = {entry.name: orjson.loads(home.storage.read(entry.name)) for entry in done.files}
    cards = [
        {
            "name": name.partition("/")[0],
            "verdict": made["verdict"]["verdict"],
            "line": line(made),
            "also": made["verdict"]["also"],
            "notes": made.get("notes", []),
            "missing": made["missing"],
            "cost_usd": made["cost_usd"],
            "file": home.storage.path(name),
        }
        for name, made in read.items()
        if name != TOGETHER
    ]
    together = read.get(TOGETHER)
    return {
        "stage": done.stage,
        "location": home.storage.root,
        "rows": 0,
        "cards": cards,
        "together": None if together is None else {name: together[name] for name in ("alpha", "judges", "odd_one_out", "rows")},
        "seconds": round(done.seconds, 2),
    }
