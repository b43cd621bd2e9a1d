"""Benchmarks of models in the words of terminal, page and dataset card: from manifests, and from scores by document."""

from collections.abc import Iterator, Mapping
from typing import Any

from alpagasus_ray.evaluation import benchmark_scores
from alpagasus_ray.evaluation.intervals import LEVEL, holm, rounded
from alpagasus_ray.reporting.number_text import dollars, duration, p_value
from alpagasus_ray.reporting.run_reader import FinishedStages
from alpagasus_ray.store.run import Manifest, StageDir

KIND = "benchmarks"
ABOUT = (
    "Every model answered the same documents; intervals are 95%, over documents, or over passages where several documents "
    "share one. A difference is the first model minus the second, in points; `smallest` is the one that so many documents "
    "show in 8 of 10 cases. `Holm p` counts how many differences were tested here."
)
COLUMNS = ("Benchmark", "Model", "Score, %", "From", "To", "Documents", "Shots", "No reply", "Seen in training", "Time", "Cost")
PAIR_COLUMNS = (
    "Benchmark",
    "Models",
    "Difference",
    "From",
    "To",
    "Only the first",
    "Only the second",
    "p",
    "Holm p",
    "Smallest",
    "Documents",
)
FIRST = "selected"
"""The arm that the others are compared with, where there is one."""
Summary = Mapping[str, Any]


def result(model: str, task: str, manifest: Manifest) -> dict[str, Any]:
    """One model's result in one benchmark."""
    details = manifest.details
    kept = ("task", "arm", "measure", "score", "shots", "asked_shots", "tiny", "without_reply", "source", "chat")
    found = {key: details[key] for key in kept if key in details}
    usage = {"dollars": manifest.usage.get("cost_usd"), "seconds": round(manifest.seconds, 2)}
    return {
        "model": model,
        "benchmark": task,
        **found,
        "contamination": details.get("contamination"),
        "empty": manifest.counts.get("empty", 0),
        **usage,
        "file": manifest.stage,
    }


def differences(stages: Mapping[tuple[str, str], tuple[StageDir, Manifest]]) -> list[dict[str, Any]]:
    """The first model against each other one, benchmark by benchmark, over documents that both have a score for; `holm_p`
    counts that there are several of these."""
    found: list[dict[str, Any]] = []
    for task in dict.fromkeys(task for _, task in stages):
        models = [model for model, of in stages if of == task]
        first = FIRST if FIRST in models else models[0]
        ours, clusters = _scores(*stages[first, task])
        for other in (model for model in models if model != first):
            same = stages[first, task][1].details.get("shots") == stages[other, task][1].details.get("shots")
            compared = benchmark_scores.paired(ours, _scores(*stages[other, task])[0], clusters)
            found.append({"benchmark": task, "models": [first, other], "equal_shots": same, **compared})
    corrected = holm([one["p"] for one in found])
    return [one | {"holm_p": rounded(p), "tested": len(found)} for one, p in zip(found, corrected, strict=True)]


def _scores(stage: StageDir, manifest: Manifest) -> tuple[dict[str, float], dict[str, Any] | None]:
    """Score and cluster of each document."""
    scores, clusters = {}, {}
    for table in stage.tables(manifest, ["document_id", "score", "cluster"]):
        for row in table.to_pylist():
            if row["score"] is not None:
                scores[row["document_id"]] = row["score"]
                clusters[row["document_id"]] = row["cluster"]
    return scores, clusters if any(value is not None for value in clusters.values()) else None


def notes(one: Summary) -> Iterator[str]:
    """What has to be told of a result besides its figures."""
    name = f"{one['model']} in {one['benchmark']}"
    if one["without_reply"]:
        yield f"{name}: {one['without_reply']:,} documents have no reply and count as wrong; --retry-failed asks for them again"
    if one["empty"]:
        yield f"{name}: {one['empty']:,} replies are empty, and were scored as that"
    if one["shots"] < one["asked_shots"]:
        yield f"{name}: {one['shots']} shots in place of {one['asked_shots']}, as its context is shorter"
    seen = one.get("contamination")
    if seen and seen["found"]:
        yield (
            f"{name}: its training examples hold {seen['found']:,} of {seen['documents']:,} documents ({seen['examples']:,} "
            "examples do); pick.clean takes them out"
        )


def from_stages(stages: FinishedStages) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Results and differences of a run."""
    found = {
        (names[1], names[2]): (stages.stage(name), manifest)
        for name, manifest in stages.manifests.items()
        if len(names := name.split("/")) == 3 and names[0] == KIND
    }
    ordered = dict(sorted(found.items(), key=lambda item: (item[0][1], item[0][0] != FIRST, item[0][0])))
    return [result(model, task, manifest) for (model, task), (_, manifest) in ordered.items()], differences(ordered)


def rows(results: list[dict[str, Any]]) -> Iterator[list[str | int | float | None]]:
    """A row of the table for each result."""
    for one in results:
        score, seen = one["score"], one["contamination"]
        yield [
            one["benchmark"],
            one["model"],
            *(_points(score[key]) for key in ("value", "low", "high")),
            score["n"],
            one["shots"],
            one["without_reply"],
            None if seen is None else seen["found"],
            duration(one["seconds"]),
            dollars(one["dollars"]),
        ]


def pair_rows(found: list[dict[str, Any]]) -> Iterator[list[str | int | float | None]]:
    """A row of the table for each difference."""
    for one in found:
        apart = one["difference"]
        yield [
            one["benchmark"],
            " - ".join(one["models"]),
            *(_points(apart[key]) for key in ("value", "low", "high")),
            one["first_only"],
            one["second_only"],
            p_value(one["p"]),
            p_value(one["holm_p"]),
            _points(one["smallest"]),
            one["documents"],
        ]


def points(results: list[dict[str, Any]], found: list[dict[str, Any]]) -> Iterator[str]:
    """What benchmarks say, a sentence each."""
    yield from (in_words(one) for one in found)
    for one in results:
        yield from notes(one)


def in_words(one: Summary) -> str:
    """A difference, and whether so many documents can show it."""
    apart, (first, second) = one["difference"], one["models"]
    if apart["value"] is None:
        return f"{one['benchmark']}: {first} and {second} have no document in common"
    said = f"{one['benchmark']}: {first} is {_signed(apart['value'])} points from {second}"
    if apart["low"] is None:
        return f"{said}, in every one of {one['documents']:,} documents alike"
    ends = f"({_signed(apart['low'])} to {_signed(apart['high'])})"
    is_apart = apart["low"] > 0 or apart["high"] < 0
    by_test = f", p = {p_value(one['p'])}" if one["p"] is not None else ""
    if one["holm_p"] is not None and one["tested"] > 1:
        by_test += f", {p_value(one['holm_p'])} by Holm for {one['tested']} differences"
    if is_apart and one["holm_p"] is not None and one["holm_p"] >= LEVEL:
        shown = "by itself a difference, and none that can be shown among as many as were tested"
    else:
        shown = "a difference" if is_apart else "no difference that can be shown"
    unequal = "" if one["equal_shots"] else "; they were asked with unequal numbers of shots"
    least = f"{one['documents']:,} documents show {100 * one['smallest']:.2f} points or more"
    return f"{said} {ends}: {shown}{by_test}. {least}{unequal}"


def score_text(score: Summary) -> str:
    """A score in percent with its interval."""
    if score["value"] is None:
        return "no score by document"
    value = f"{100 * score['value']:.1f}%"
    return value if score["low"] is None else f"{value} ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}"


def _points(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)
