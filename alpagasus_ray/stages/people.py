"""A human study of a run: make the ballot, take in the votes, say how far it is. `people/<study>/` holds

- `ballot.html`, the page that people vote with; `items.json`, what it asks about (texts by their hashes); `key.json`, which
  answer is whose: it stays here; `label_studio.json`, `label_studio.xml`, `argilla.json`, the first voter's order for these;
- after an import `cast.jsonl`, every vote with repeats and checks; `votes.parquet`, those on real items; `people.json`, counts.
"""

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from alpagasus_ray.config import People, Recipe, Rule, identity
from alpagasus_ray.errors import InputError, UsageError
from alpagasus_ray.evaluation.agreement import Comparison, Vote
from alpagasus_ray.evaluation.estimates import alpha
from alpagasus_ray.judging.rubric import Scale
from alpagasus_ray.people import assign, exchange, votes
from alpagasus_ray.people.ballot import ballot, named_in, scores_to_choose
from alpagasus_ray.people.votes import Cast
from alpagasus_ray.reporting import judge_material, judge_verdicts
from alpagasus_ray.reporting.judge_verdicts import Judged
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, StageDir, versus
from alpagasus_ray.store.storage import Written, resolve

BALLOT, ITEMS, KEY = "ballot.html", "items.json", "key.json"
CAST, COUNTS = "cast.jsonl", "people.json"
ANSWERED = "answered"


class Asked(NamedTuple):
    """What a study asks about, before it is laid out."""

    name: str
    a: str
    b: str
    study: assign.Study
    inputs: dict[str, str]
    scale: Scale | None = None
    """Of examples that are rated: the judge's."""


def make(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Make the ballot, or return at once when it is made: a ballot that is out is never made anew. Raises `UsageError` where
    there is nothing to ask about."""
    config, started = recipe.people, time.monotonic()
    asked = _rate(config, run) if config.form == "rate" else _vote(recipe, run)
    home, settings = (
        run.people(asked.name),
        {"form": config.form, "pair": [asked.a, asked.b], **identity(config), "voters": list(config.voters)},
    )
    done = home.made(settings, asked.inputs)
    if done is None:
        begun = Begun(settings=settings, inputs=asked.inputs)
        home.begin(begun)
        files = [_entry(name, written) for name, written in _write(home, config, asked)]
        seconds = begun.model_copy(update={"seconds": time.monotonic() - started})
        told: dict[str, Any] = {"items": _main(asked.study), "named_in": named_in(asked.study, (asked.a, asked.b))}
        told |= {"scale": [asked.scale.min, asked.scale.max]} if asked.scale else {}
        done = home.build(seconds, files, details=told)
        home.finish(done)
    return _summary(run, [_told(home, done)])


def take_in(recipe: Recipe, run: Run, files: Sequence[str]) -> dict[str, Any]:
    """Read votes: exports of the ballot, of Label Studio or of Argilla. Those of a voter replace what she gave before; the
    judge's games beside them become outcomes by the recipe's rule. Raises
    `UsageError` without files, `InputError` for files of another ballot, changed ones and two that contradict each other."""
    if not files:
        raise UsageError("people import: name the files that voters have exported, e.g. alpagasus people RUN import ana.jsonl")
    studies = {str(key["ballot"]): (home, key) for home, key in _keys(run)}
    read: dict[str, dict[str, list[Cast]]] = {}
    for file in files:
        text = _read(file)
        hash_of_ballot = _ballot_of(text, file)
        if hash_of_ballot not in studies:
            raise InputError(file, "ballot", f"these are votes of a ballot that this run has not ({hash_of_ballot[:12]}…)")
        read.setdefault(hash_of_ballot, {})[file] = _cast(text, studies[hash_of_ballot][1], file)
    rule = judge_verdicts.rule_of(recipe)
    return _summary(run, [_take(run, studies[one], by_file, rule) for one, by_file in read.items()])


def status(run: Run) -> dict[str, Any]:
    """How far each study of the run is."""
    made = [(home, home.manifest()) for home, _ in _keys(run)]
    return _summary(run, [_told(home, manifest) for home, manifest in made if manifest is not None])


def _vote(recipe: Recipe, run: Run) -> Asked:
    config, secret = recipe.people, secrets.token_hex(32)
    a, b = _pair(recipe, run)
    known = {model: _answered_sets(run, model) for model in (a, b)}
    for model, sets in known.items():
        if missing := [name for name in config.test_sets if name not in sets] or ([] if sets else ["any test set"]):
            raise UsageError(f"people.pair: {model!r} has not answered {missing[0]}; run `alpagasus answer RUN` first")
    wanted = config.test_sets or tuple(name for name in known[a] if name in known[b])
    stages = {f"answers/{model}/{name}": known[model][name] for name in wanted for model in (a, b)}
    pairs = [pair for name in wanted for pair in _pairs(run, a, b, name)]
    chosen = assign.pairs_for_votes(pairs, config.per_test_set, secret)
    study = assign.vote_study(chosen, config.voters, secret, config.repeats, config.checks)
    return Asked(versus(a, b), a, b, study, {name: manifest.content_hash() for name, manifest in stages.items()})


def _pair(recipe: Recipe, run: Run) -> tuple[str, str]:
    if recipe.people.pair is not None:
        return recipe.people.pair
    if recipe.compare.pairs:
        return recipe.compare.pairs[0]
    models = sorted({name.split("/")[1] for name in run.storage.all_names() if name.startswith("answers/")})
    if len(models) != 2:
        there = ", ".join(models) or "none"
        raise UsageError(
            f"people.pair: which two models are people to compare? Those with answers are {there}; run `alpagasus answer "
            "RUN` for two, or say -s people.pair=[a,b]"
        )
    return models[0], models[1]


def _answered_sets(run: Run, model: str) -> dict[str, Manifest]:
    parts = (name.split("/") for name in run.storage.all_names() if name.startswith(f"answers/{model}/"))
    names = sorted({one[2] for one in parts if len(one) == 4})
    return {name: made for name in names if (made := run.answers(model, name).manifest()) is not None}


def _pairs(run: Run, a: str, b: str, test_set: str) -> Iterator[assign.Pair]:
    """Prompts that both models have answered."""
    (first, second) = ({row["prompt_id"]: row for row in _rows(run.answers(model, test_set))} for model in (a, b))
    for prompt_id, row in first.items():
        other = second.get(prompt_id)
        if other is not None and row["status"] == other["status"] == ANSWERED:
            prompt = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
            yield assign.Pair(prompt_id, test_set, row["skill"] or "", prompt, row["reply"], other["reply"])


def _rows(stage: StageDir) -> Iterator[dict[str, Any]]:
    columns = ["prompt_id", "skill", "instruction", "input", "status", "reply"]
    for table in stage.tables(stage.finished(), columns):
        yield from table.to_pylist()


def _rate(config: People, run: Run) -> Asked:
    secret, stage = secrets.token_hex(32), run.ratings(config.ratings)
    rated = stage.finished()
    scores = {row["example_id"]: row["score"] for t in stage.tables(rated, ["example_id", "score"]) for row in t.to_pylist()}
    ids = list(scores)
    values = [float("nan") if score is None else score for score in scores.values()]
    drawn = assign.rows_for_ratings(values, config.cut, secret, config.near, config.at_random)
    wanted = {ids[row]: assign.AT_RANDOM_ROW for row in drawn.at_random} | {ids[row]: assign.NEAR_ROW for row in drawn.near}
    examples, rows = run.examples(), []
    for table in examples.tables(examples.finished(), ["example_id", "instruction", "input", "output"]):
        for row in table.to_pylist():
            if row["example_id"] in wanted:
                prompt = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
                rows.append(assign.Single(row["example_id"], prompt, row["output"], wanted[row["example_id"]]))
    study = assign.rating_study(rows, config.voters, secret, config.repeats, config.checks)
    scale = judge_material.scale_of(rated)
    return Asked(f"rate-{config.ratings}", "", "", study, {stage.name: rated.content_hash()}, scale)


def _write(home: StageDir, config: People, asked: Asked) -> Iterator[tuple[str, Written]]:
    choices = scores_to_choose(asked.scale.min, asked.scale.max) if asked.scale else None
    made = ballot(asked.study, config.form, asked.a, asked.b, config.language, choices)
    layout = config.voters[0]
    key = json.loads(orjson.dumps(made.key))
    tools = {
        "label_studio.json": orjson.dumps(exchange.label_studio_tasks(asked.study, key, layout)),
        "label_studio.xml": exchange.label_studio_config(key).encode(),
        "argilla.json": orjson.dumps(
            {"settings": exchange.argilla_settings(key), "records": exchange.argilla_records(asked.study, key, layout)}
        ),
    }
    yield KEY, home.storage.write(KEY, orjson.dumps(made.key), private=True)
    yield ITEMS, home.storage.write(ITEMS, orjson.dumps(made.items))
    for name, content in tools.items():
        yield name, home.storage.write(name, content)
    yield BALLOT, home.storage.write(BALLOT, made.html.encode())


def _main(study: assign.Study) -> int:
    return sum(not item.is_check for item in study.items)


def _entry(name: str, written: Written, rows: int = 0) -> FileEntry:
    return FileEntry(name=name, rows=rows, **written._asdict())


def _keys(run: Run) -> Iterator[tuple[StageDir, dict[str, Any]]]:
    """The studies of a run, each with its key."""
    names = sorted(name.split("/")[1] for name in run.storage.all_names() if name.startswith("people/") and name.endswith(KEY))
    for name in names:
        home = run.people(name)
        if home.manifest() is not None:
            yield home, orjson.loads(home.storage.read(KEY))


def _read(file: str) -> str:
    fs, path = resolve(file)
    with fs.open_input_stream(path) as stream:
        return bytes(stream.read()).decode("utf-8-sig")


def _ballot_of(text: str, file: str) -> str:
    """The hash of the ballot that a file's votes were given on."""
    found: Any = None
    try:
        records = _records(text)
        first = records[0] if records else orjson.loads(text.partition("\n")[0])
        found = first.get("ballot") or (first.get("data") or first.get("metadata") or {}).get("ballot")
    except (orjson.JSONDecodeError, IndexError, AttributeError):
        pass  # told below, with what would do
    if not isinstance(found, str):
        raise InputError(
            file, "start", "these are no votes: give what `Export votes` wrote, or a JSON export of Label Studio or Argilla"
        )
    return found


def _records(text: str) -> list[Any]:
    """The records of another tool's export: a JSON list, or Argilla's object with `records`; of the ballot's own lines none."""
    try:
        whole = orjson.loads(text)
    except orjson.JSONDecodeError:
        return []  # one JSON object a line
    records = whole.get("records", []) if isinstance(whole, dict) else whole
    return records if isinstance(records, list) else []


def _cast(text: str, key: Mapping[str, Any], file: str) -> list[Cast]:
    records = _records(text)
    if not records:
        return votes.read_votes(text, key, file)
    read = exchange.read_label_studio if "data" in records[0] else exchange.read_argilla
    return read(records, key, file)


def _take(
    run: Run, study: tuple[StageDir, Mapping[str, Any]], by_file: Mapping[str, Sequence[Cast]], rule: Rule
) -> dict[str, Any]:
    """Store the votes beside those of other voters, and count all."""
    home, key = study
    new = votes.together(by_file)
    voters = {vote.voter for vote in new}
    cast = sorted(
        [*(vote for vote in _stored(home) if vote.voter not in voters), *new], key=lambda vote: (vote.voter, vote.slot)
    )
    rows = votes.rows(cast, key)
    manifest = home.finished()
    lines = b"".join(orjson.dumps(vote._asdict(), option=orjson.OPT_APPEND_NEWLINE) for vote in cast)
    written = [
        _entry(CAST, home.storage.write(CAST, lines), len(cast)),
        _entry(judge_material.VOTES, home.storage.write_table(judge_material.VOTES, pa.Table.from_pylist(rows)), len(rows)),
    ]
    a, b = manifest.settings["pair"]
    judged = judge_verdicts.of_pair(run, a, b, rule) if key["form"] == "vote" else None
    counts = _counts(cast, key, judged)
    written.append(_entry(COUNTS, home.storage.write(COUNTS, orjson.dumps(counts, option=orjson.OPT_INDENT_2))))
    names = {entry.name for entry in written}
    files = [entry for entry in manifest.files if entry.name not in names] + written
    # no moment without a manifest: without it the study would count as not made, and its key be drawn anew
    updated = manifest.model_copy(update={"files": files, "rows": len(rows)})
    home.storage.write("manifest.json", updated.model_dump_json(indent=2).encode())
    return _told(home, updated)


def _stored(home: StageDir) -> Iterable[Cast]:
    if not home.storage.exists(CAST):
        return []
    rows = (orjson.loads(line) for line in home.storage.read(CAST).splitlines())
    return [Cast(**{**row, "grounds": tuple(row["grounds"])}) for row in rows]


def _counts(cast: Sequence[Cast], key: Mapping[str, Any], judged: Judged | None) -> dict[str, Any]:
    """What the votes come to: of each voter, of all together, and beside the judge's verdicts where it gave some."""
    told: dict[str, Any] = {"form": key["form"], "voters": votes.voter_reports(cast, key)}
    main = [(vote, key["items"][vote.item]) for vote in cast if vote.kind == "main"]
    if key["form"] == "rate":
        people = sorted({vote.voter for vote, _ in main})
        said = {(vote.voter, item["item_id"]): vote.said for vote, item in main}
        items = sorted({item["item_id"] for _, item in main})
        return told | {"alpha": alpha([[said.get((who, item), float("nan")) for who in people] for item in items])}
    a, b = key["a"], key["b"]
    given = [Vote(Comparison(item["item_id"], item["test_set"], a, b).item, vote.voter, vote.said) for vote, item in main]
    return told | {
        "judge_name": judged.label if judged else None,
        "rule": judged.rule if judged else None,
        **votes.people_report(given, judged and judged.winners_seen_from(a, b)),
    }


def _told(home: StageDir, manifest: Manifest) -> dict[str, Any]:
    """A study as its summary shows it."""
    has_votes = any(entry.name == COUNTS for entry in manifest.files)
    counts = orjson.loads(home.storage.read(COUNTS)) if has_votes else {"voters": []}
    return {
        "study": home.name.partition("/")[2],
        "form": manifest.settings["form"],
        "items": manifest.details["items"],
        "asked": manifest.settings["voters"],
        "page": home.storage.path(BALLOT),
        "named_in": manifest.details["named_in"],
        "counts": counts,
    }


def _summary(run: Run, studies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"stage": "people", "location": run.storage.path("people"), "rows": 0, "people": list(studies)}
