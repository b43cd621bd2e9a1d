"""Write `report/`: a page of what a run shows, its numbers as JSON, and a card of the chosen examples.

Takes whatever stages are finished, needs neither Ray nor a model, and may be made again at any time. It replaces the earlier
report; where nothing has changed since, that is left as it is.
"""

import time
from collections.abc import Sequence
from typing import Any

import orjson

from alpagasus_ray.config import Report, identity
from alpagasus_ray.data import readers
from alpagasus_ray.reporting import dataset_card, html, questions
from alpagasus_ray.reporting.headline import Headline
from alpagasus_ray.reporting.report_data import ReportContents, report_contents
from alpagasus_ray.reporting.run_reader import finished_stages
from alpagasus_ray.store.run import Begun, FileEntry, Manifest, Run, versions

PAGE, JSON, CARD = "index.html", "report.json", "dataset_card.md"


def report(config: Report, run: Run, order: Sequence[str] = ()) -> dict[str, Any]:
    """Make `report/` and return its summary; `order` names the arms of the recipe, whose first the question is about unless
    `report.arm` says another. Raises `UsageError` for an arm that is not in the run and for files of votes that fit nothing.
    """
    started = time.monotonic()
    stages = finished_stages(run)
    home, settings, inputs = run.report(), _settings(config, order), stages.inputs() | _votes_hashes(config)
    done = home.manifest()
    if done is None or (done.settings, done.inputs) != (settings, inputs):
        contents = report_contents(config, stages, order)
        made = _files(contents)
        home.reopen()
        begun = Begun(settings=settings, inputs=inputs)
        home.begin(begun)
        written = {name: home.storage.write(name, content) for name, content in made.items()}
        files = [FileEntry(name=name, rows=0, **to._asdict()) for name, to in written.items()]
        done = home.build(begun.after(time.monotonic() - started), files, details=_details(contents.data.first))
        if "examples" in stages.manifests:
            done = done.model_copy(update={"rows": stages.manifests["examples"].rows})
        home.finish(done)
    return _summary(run, done)


def _settings(config: Report, order: Sequence[str]) -> dict[str, Any]:
    """A report is known by its recipe and by what made it."""
    maker = {"page": html.fingerprint(), "version": versions()["alpagasus-ray"]}
    return {"report": identity(config), "order": list(order), **maker}


def _votes_hashes(config: Report) -> dict[str, str]:
    if not config.votes:
        return {}
    return {f"votes {file.name}": file.fingerprint() for file in readers.expand(config.votes, "report.votes")}


def _files(contents: ReportContents) -> dict[str, bytes]:
    return {
        JSON: orjson.dumps(contents.data, option=orjson.OPT_INDENT_2),
        CARD: dataset_card.dataset_card(contents.data).encode(),
        PAGE: html.page(contents).encode(),
    }


def _details(first: Headline) -> dict[str, Any]:
    asked = [f"{first.word}.", *questions.summary(first.questions), first.cheaper]
    sentences = asked if first.questions else [f"{first.question}.", first.sentence]
    return {"answer": " ".join(part for part in sentences if part), "notes": first.notes}


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
