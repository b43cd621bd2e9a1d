"""Answers side by side: which pairs there are on which test sets, and each prompt with both answers in both orders."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from alpagasus_ray.config import Compare
from alpagasus_ray.data.schema import PAIRS
from alpagasus_ray.errors import UsageError
from alpagasus_ray.store.run import MANIFEST, Begun, FileEntry, Manifest, Run, StageDir, shard_name, versus

ROWS_PER_SHARD = 256
"""Both games of a prompt are in one shard."""
SHOWN = ("first", "second")
"""Columns of the answers, in the order in which they are shown."""
SHOWN_IDS = 3
TEXTS = ("instruction", "input", *SHOWN)
"""What a judge sees of a game."""


class Bout(NamedTuple):
    """Two models on one test set."""

    a: str
    b: str
    test_set: str

    @property
    def pair(self) -> str:
        """The directory of the pair."""
        return versus(self.a, self.b)


def bouts(config: Compare, run: Run) -> Iterable[Bout]:
    """Each pair on each test set, once both models are known to have answered it."""
    for a, b in config.pairs:
        answered = {model: _answered(run, model) for model in (a, b)}
        wanted = config.test_sets or answered[a]
        for model, names in answered.items():
            missing = [name for name in wanted if name not in names]
            if missing or not names:
                what = f"no answers to {', '.join(missing)}" if names else "no finished answers"
                raise UsageError(
                    f"compare.pairs: {model!r} has {what} in this run; let it answer by `alpagasus answer RUN`"
                    + (", or choose others by `compare.test_sets`" if names else "")
                )
        yield from (Bout(a, b, name) for name in wanted)


def _answered(run: Run, model: str) -> list[str]:
    """The test sets that a model has finished."""
    names = run.answers(model).storage.all_names()
    return sorted(name.split("/")[0] for name in names if name.count("/") == 1 and name.endswith(f"/{MANIFEST}"))


def pair_up(run: Run, bout: Bout) -> Manifest:
    """Make `pairs/<a>-vs-<b>/<test set>/`, the answers as every judge sees them."""
    made = [run.answers(model, bout.test_set) for model in (bout.a, bout.b)]
    listed = [stage.finished() for stage in made]
    inputs = {stage.name: manifest.content_hash() for stage, manifest in zip(made, listed, strict=True)}
    stage, settings = run.pairs(*bout), {"pair": [bout.a, bout.b]}
    done = stage.made(settings, inputs)
    if done is not None:
        return done
    answers = [_by_prompt(stage, manifest) for stage, manifest in zip(made, listed, strict=True)]
    _check_same_prompts(bout, *answers)
    games = [game for key, row in answers[0].items() for game in both_orders(row, row["reply"], answers[1][key]["reply"])]
    begun = Begun(settings=settings, inputs=inputs)
    stage.begin(begun)
    return write_pairs(stage, begun, games)


def _by_prompt(stage: StageDir, manifest: Manifest) -> dict[str, dict[str, Any]]:
    return {row["prompt_id"]: row for table in stage.tables(manifest) for row in table.to_pylist()}


def _check_same_prompts(bout: Bout, of_a: Mapping[str, Mapping[str, Any]], of_b: Mapping[str, Mapping[str, Any]]) -> None:
    """Both must have answered the same prompts, and those with one id must say the same."""
    for model, own, other in ((bout.a, of_a, of_b), (bout.b, of_b, of_a)):
        alone = [key for key in own if key not in other]
        if alone:
            raise UsageError(
                f"compare: of {bout.test_set} only {model!r} has answered {_some(alone)}; the answers of "
                f"{bout.a!r} and {bout.b!r} are to different prompts. Let both answer the same test set"
            )
    texts = ("instruction", "input")
    differ = [key for key in of_a if any(of_a[key][text] != of_b[key][text] for text in texts)]
    if differ:
        raise UsageError(
            f"compare: of {bout.test_set} the prompts {_some(differ)} say one thing for {bout.a!r} and another for {bout.b!r}; "
            "the test set has changed between their answers"
        )


def check_told_one_way(run: Run, name: str | None, bouts: Iterable[Bout]) -> None:
    """One judge has one comparison of two models on a test set: that which names the other first would be the same again."""
    for bout in bouts:
        turned = run.verdicts(name, versus(bout.b, bout.a), bout.test_set)
        # both orders are asked anyway: a pair named the other way round would be paid for twice and say the same
        if bout.a != bout.b and turned.storage.names() and not run.verdicts(name, bout.pair, bout.test_set).manifest():
            raise UsageError(
                f"compare.pairs: {turned.name}/ already compares {bout.b!r} with {bout.a!r}, in both orders; write the pair as "
                f"[{bout.b}, {bout.a}], or let another judge compare them under a `compare.name` of its own"
            )


def lay_out(run: Run, bout: Bout, begun: Begun, games: Sequence[Mapping[str, Any]]) -> Manifest:
    """Write the pairs of imported reviews, unless they are there: all judges of two models are to see the same texts."""
    stage = run.pairs(*bout)
    done = stage.manifest()
    if done is None:
        return write_pairs(stage, begun, games)
    there = {(row["prompt_id"], row["order"]): row for table in stage.tables(done) for row in table.to_pylist()}
    for game in games:
        held = there.pop((game["prompt_id"], game["order"]), None)
        differs = [name for name in TEXTS if held is None or (held[name] or "") != (game[name] or "")]
        if differs:
            what = "has no prompt of this id" if held is None else f"has another text as `{differs[0]}`"
            raise _other_answers(stage, game["prompt_id"], what)
    for prompt_id, _ in there:
        raise _other_answers(stage, prompt_id, "has this prompt, and the files have not")
    return done


def _other_answers(stage: StageDir, prompt_id: str, what: str) -> UsageError:
    return UsageError(
        f"compare.import.files: of the prompt {prompt_id!r} {stage.name}/ {what}; the reviews are of other answers than "
        "those this run compares. Import them into another run"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_IDS:,} more" if len(names) > SHOWN_IDS else ""
    return ", ".join(repr(name) for name in names[:SHOWN_IDS]) + more


def write_pairs(stage: StageDir, begun: Begun, games: Sequence[Mapping[str, Any]]) -> Manifest:
    """Write the pairs of a test set, both orders of a prompt in one shard, and the manifest."""
    started = time.monotonic()
    files = []
    for number, start in enumerate(range(0, len(games), ROWS_PER_SHARD)):
        rows = list(games[start : start + ROWS_PER_SHARD])
        written = stage.storage.write_table(shard_name(number), pa.Table.from_pylist(rows, schema=PAIRS))
        files.append(FileEntry(name=shard_name(number), rows=len(rows), **written._asdict()))
    manifest = stage.build(begun.after(time.monotonic() - started), files)
    stage.finish(manifest)
    return manifest


def by_model(row: Mapping[str, Any], name: str) -> list[str]:
    """The columns of the model that stands first in this order, and of the other."""
    return [f"{name}_{model}" for model in row["order"]]


def lengths(row: Mapping[str, Any]) -> dict[str, int | None]:
    """How long both answers of a game are: `length_*` in characters, which say it in every script; `words_*`, between blanks,
    for readers of earlier versions."""
    answers: list[str | None] = [row[name] for name in SHOWN]
    characters = [None if answer is None else len(answer) for answer in answers]
    words = [None if answer is None else len(answer.split()) for answer in answers]
    return dict(zip(by_model(row, "length") + by_model(row, "words"), characters + words, strict=True))


def both_orders(prompt: Mapping[str, Any], answer_a: str | None, answer_b: str | None) -> list[dict[str, Any]]:
    """The two games of a prompt, as rows of `schema.PAIRS`."""
    common = {name: prompt.get(name) for name in PAIRS.names if name not in ("order", *SHOWN)}
    return [
        {**common, "order": "ab", "first": answer_a, "second": answer_b},
        {**common, "order": "ba", "first": answer_b, "second": answer_a},
    ]
