"""What a training would do: examples with what of them is trained, tokens, updates, and the time to expect.

It only reads, and starts no Ray. Knows the parts of a training; how long it may take is `training/forecast.py`'s to say.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpagasus_ray.config import Finetune
from alpagasus_ray.data.schema import conformed
from alpagasus_ray.store.run import Manifest, Run, StageDir
from alpagasus_ray.training import schedule
from alpagasus_ray.training.arms import finished_models, settings_of, subsets_of
from alpagasus_ray.training.encode import Encoded, Encoder, Left
from alpagasus_ray.training.forecast import Forecast, Volume
from alpagasus_ray.training.token_files import CUT, ROW, WHOLE

READ_WHOLE = 20_000
"""Rows of the largest arm that is encoded as a whole."""
DRAWN, DRAWN_SHARDS = 2000, 64
"""Rows that tell a larger one, and the most shards that they are drawn from."""
LOOKED_AT = 16
"""Updates whose micro-batches are made; the others are taken to be like them."""
SHOWN = 3


@dataclass(frozen=True)
class Read:
    """An arm, or a draw from it, as it is trained on; `training/collate.py` can build from it."""

    rows: list[dict[str, Any]]
    examples: list[Encoded]
    """One for each of `rows`, which can be trained on."""
    left: Counter[str]
    """Reasons of those that cannot."""
    lengths: schedule.Integers
    prompt_tokens: schedule.Integers
    share: float
    """Of the arm's rows, those that were read."""

    def ids(self, index: int) -> NDArray[np.int32]:
        return np.array(self.examples[index].ids, dtype=np.int32)

    def masked(self, index: int) -> list[int]:
        return [place for part in self.examples[index].masked for place in part]

    def in_all(self, number: float) -> int:
        """What a number of the rows that were read is for all rows."""
        return round(number / self.share)


def preview(config: Finetune, run: Run, arms: Sequence[str]) -> dict[str, Any]:
    """The summary of what `finetune(config, run, arms)` would do, plain JSON values. A `UsageError` tells of a
    model or arm that is not there, as that call would."""
    subsets = subsets_of(config, run, arms)
    encoder = Encoder(config)
    made = {arm: (manifest.settings, manifest.details) for arm, manifest in finished_models(run).items()}
    forecast = Forecast(config, settings_of(config), made, encoder.tokenizer)
    known = forecast.census
    return {
        "preview": True,
        "stage": "models",
        "model": config.model,
        "parameters": known.parameters if known else None,
        "trained": known.trained if known else None,
        "flops_a_token": forecast.costs.a_token if forecast.costs else None,
        "packing": config.packing,
        "workers": forecast.workers,
        "workers_by": forecast.workers_by,
        "arms": [
            _arm(config, forecast, encoder, {"arm": arm, "rows": subset.rows}, _read(config, run.subset(arm), subset, encoder))
            for arm, subset in subsets.items()
        ],
    }


def _read(config: Finetune, stage: StageDir, subset: Manifest, encoder: Encoder) -> Read:
    rows = _rows(stage, subset, config.seed)
    found = list(zip(rows, encoder.encode(rows), strict=True))
    kept = [(row, outcome) for row, outcome in found if isinstance(outcome, Encoded)]
    left = Counter(outcome.reason.partition(":")[0] for _, outcome in found if isinstance(outcome, Left))
    return Read(
        [row for row, _ in kept],
        [example for _, example in kept],
        left,
        np.array([len(example.ids) for _, example in kept], dtype=np.int64),
        np.array([example.prompt_tokens for _, example in kept], dtype=np.int64),
        len(rows) / subset.rows,
    )


def _rows(stage: StageDir, subset: Manifest, seed: int) -> list[dict[str, Any]]:
    """All rows of an arm, or those of a large one that are drawn by the seed, in order."""
    parts = subset.parts()
    if subset.rows <= READ_WHOLE:
        return [row for table in stage.tables(subset) for row in conformed(table, ROW).to_pylist()]
    dice = np.random.default_rng(seed)
    parts = [parts[place] for place in sorted(dice.permutation(len(parts))[:DRAWN_SHARDS].tolist())]
    ends = np.cumsum([part.rows for part in parts])
    drawn = np.sort(dice.choice(ends[-1], min(DRAWN, int(ends[-1])), replace=False))
    rows = []
    for part, end in zip(parts, ends.tolist(), strict=True):
        here = drawn[(drawn < end) & (drawn >= end - part.rows)] - (end - part.rows)
        if len(here):
            rows += conformed(stage.table(part.name, part.sha256), ROW).take(here).to_pylist()
    return rows


def _arm(config: Finetune, forecast: Forecast, encoder: Encoder, known: Mapping[str, Any], read: Read) -> dict[str, Any]:
    cut = read.in_all(sum(example.cut for example in read.examples))
    examples = read.in_all(len(read.examples))
    told = {
        **known,
        "read": len(read.rows) + read.left.total(),
        "estimate": read.share < 1,
        "examples": examples,
        WHOLE: examples - cut,
        CUT: cut,
        "left_out": {reason: read.in_all(count) for reason, count in read.left.most_common()},
    }
    if not read.examples:
        return {
            **told,
            "minutes": None,
            "predicted_by": "there is nothing to train on",
            "dollars": None,
            "shown": [],
        }
    order = schedule.Order.of(examples, config.global_batch, config.seed, epochs=config.epochs, steps=config.steps)
    return {**told, **_amounts(config, forecast, read, order), "shown": [_shown(encoder, read, at) for at in _telling(read)]}


def _amounts(config: Finetune, forecast: Forecast, read: Read, order: schedule.Order) -> dict[str, Any]:
    """Tokens, updates, micro-batches and time."""
    total, labels = int(read.lengths.sum()), sum(example.label_tokens for example in read.examples)
    each = order.seen / len(read.examples)
    seen = round(total * each)
    parts = _micro_batches(config, read, order, forecast.workers)
    padding = _padding(config, read, order)
    mean_parts = sum(len(share) for update in parts for share in update) / (len(parts) * forecast.workers)
    volume = Volume(
        tokens=seen,
        labels=round(labels * each),
        squares=round(int((read.lengths**2).sum()) * each),
        micro_batches=mean_parts * order.steps,
        padding=padding[_form(config)],
    )
    predicted = forecast.minutes(volume, read, [part for part in parts[0][0] if len(part)])
    return {
        "tokens": read.in_all(total),
        "label_tokens": read.in_all(labels),
        "mean_tokens": total / len(read.examples),
        "longest": int(read.lengths.max()),
        "steps": order.steps,
        "epochs": order.seen / order.examples,
        "tokens_per_update": round(seen / order.steps),
        "tokens_seen": seen,
        "label_tokens_seen": volume.labels,
        "micro_batches": mean_parts,
        "padding_share": padding,
        "minutes": predicted.minutes,
        "predicted_by": predicted.by,
        "dollars": forecast.dollars(predicted),
    }


def _form(config: Finetune) -> str:
    return "packed" if config.packing else "to_max_length" if config.pad_to_max else "to_longest"


def _updates(read: Read, order: schedule.Order) -> list[schedule.Integers]:
    """The examples of the first updates, by their place among those that were read."""
    small = schedule.Order(len(read.examples), order.global_batch, order.seed, order.seen)
    return [small.batch(step) for step in range(min(small.steps, LOOKED_AT))]


def _micro_batches(config: Finetune, read: Read, order: schedule.Order, workers: int) -> list[list[list[schedule.Integers]]]:
    """Those of the first updates, by worker."""
    if config.packing:
        return [schedule.packs(batch, read.lengths, config.least_pack, workers) for batch in _updates(read, order)]
    return [schedule.rows(batch, config.micro_batch, workers) for batch in _updates(read, order)]


def _padding(config: Finetune, read: Read, order: schedule.Order) -> dict[str, float]:
    """The share of padding in what is computed: of packs, of rows padded to the longest of a micro-batch, to `max_length`."""
    updates = _updates(read, order)
    held = sum(int(read.lengths[batch].sum()) for batch in updates)
    rows = [part for batch in updates for part in schedule.rows(batch, config.micro_batch, 1)[0]]
    places = {"to_longest": None, "to_max_length": config.max_length}
    return {"packed": 0.0} | {form: 1 - held / schedule.occupied(rows, read.lengths, to) for form, to in places.items()}


def _telling(read: Read) -> list[int]:
    """Places of the first example, one that is cut, the longest of those that are not; of more where two are the same."""
    places = range(len(read.examples))
    cut = [at for at in places if read.examples[at].cut][:1]
    whole = [at for at in places if not read.examples[at].cut]
    longest = [max(whole, key=lambda at: int(read.lengths[at]))] if whole else []
    return list(dict.fromkeys([0, *cut, *longest, *places[:SHOWN]]))[:SHOWN]


def _shown(encoder: Encoder, read: Read, at: int) -> dict[str, Any]:
    """An example as two texts in which control tokens are spelled out; `end` is the token that ends the second."""
    example = read.examples[at]
    masked, learned = example.ids[: example.prompt_tokens], example.ids[example.prompt_tokens :]
    return {
        "example_id": read.rows[at]["example_id"],
        "tokens": len(example.ids),
        "label_tokens": example.label_tokens,
        "cut": example.cut,
        "masked": encoder.tokenizer.decode(masked),
        "trained": encoder.tokenizer.decode(learned),
        "end": "" if example.cut else encoder.tokenizer.decode(learned[-1:]),
    }
