"""Trainings as a person reads them on a terminal: a preview with the label mask in colour, and what finished ones took.

Texts of the dataset come without codes that would command the terminal.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from alpagasus_ray.reporting.number_text import money
from alpagasus_ray.reporting.training_data import comparison
from alpagasus_ray.terminal import spelled

MASKED, TRAINED, END = "dim", "green", "green reverse"
BEGINS, ENDS = "«", "»"
"""Around what is trained, where there is no colour."""


def show_preview(report: Mapping[str, Any], stream: TextIO) -> None:
    """Print what a training would do; examples in colour where the stream has some."""
    console = Console(file=stream, highlight=False, soft_wrap=True)
    is_plain = console.color_system is None
    workers = "1 worker" if report["workers"] == 1 else f"{report['workers']:,} workers"
    head = f"preview of training {report['model']} on {workers} ({report['workers_by']}); nothing was trained or written"
    console.print(Text(spelled(head)))
    for arm in report["arms"]:
        for line in _arm(arm, packing=report["packing"]):
            console.print(Text(spelled(line)))
        for shown in arm["shown"]:
            console.print(_example(shown, is_plain=is_plain))
    console.print(Text("\n"), _legend(is_plain=is_plain), sep="")


def _arm(arm: Mapping[str, Any], *, packing: bool) -> Iterator[str]:
    about = "about " if arm["estimate"] else ""
    left = "".join(f", {count:,} left out ({reason})" for reason, count in arm["left_out"].items())
    counts = f"{arm['whole']:,} whole, {arm['cut']:,} cut{left}"
    yield f"{arm['arm']}: {about}{arm['examples']:,} examples of {arm['rows']:,} rows: {counts}"
    if not arm["examples"]:
        yield "  nothing of it can be trained on; look at finetune.max_length, finetune.too_long and finetune.template"
        return
    if arm["estimate"]:
        yield f"  counted by {arm['read']:,} of its rows"
    yield (
        f"  tokens: {about}{arm['tokens']:,}, {arm['label_tokens']:,} of them with loss; "
        f"{arm['mean_tokens']:,.0f} an example, the longest {arm['longest']:,}"
    )
    yield (
        f"  updates: {arm['steps']:,} of about {arm['tokens_per_update']:,} tokens, {arm['epochs']:.3g} epochs, "
        f"{about}{arm['tokens_seen']:,} tokens in all"
    )
    form = "packs" if packing else "micro-batches"
    longest, limit = (f"{arm['padding_share'][name]:.0%}" for name in ("to_longest", "to_max_length"))
    yield (
        f"  an update: {arm['micro_batches']:.3g} {form} a worker; padding {'would be' if packing else 'is'} {longest} of rows "
        f"padded to the longest of a micro-batch, {limit} of rows padded to max_length, nothing of packs"
    )
    yield _minutes(arm)


def _minutes(arm: Mapping[str, Any]) -> str:
    by = spelled(arm["predicted_by"])
    if arm["minutes"] is None:
        return f"  minutes: unknown; {by}"
    dollars = "" if arm["dollars"] is None else f", about ${money(arm['dollars'])}"
    return f"  minutes: about {arm['minutes']:,.1f}{dollars}, predicted by {by}"


def _example(shown: Mapping[str, Any], *, is_plain: bool) -> Text:
    cut = ", cut" if shown["cut"] else ""
    head = f"\n--- {shown['example_id']}: {shown['tokens']:,} tokens, {shown['label_tokens']:,} with loss{cut} ---\n"
    masked, end = spelled(shown["masked"]), spelled(shown["end"])
    learned = spelled(shown["trained"].removesuffix(shown["end"]))
    if is_plain:
        return Text(f"{spelled(head)}{masked}{BEGINS}{learned}{end}{ENDS}")
    return Text.assemble(spelled(head), (masked, MASKED), (learned, TRAINED), (end, END))


def _legend(*, is_plain: bool) -> Text:
    if is_plain:
        return Text(f"what stands between {BEGINS} and {ENDS} is trained, all before it carries no loss")
    return Text.assemble(
        "what is ", (MASKED, MASKED), " carries no loss, what is ", (TRAINED, TRAINED), " is trained, up to the ", ("end", END)
    )


def trained_lines(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What finished trainings took, and how many times as much the largest of them did."""
    for model in models:
        yield from _trained(model)
    compared = comparison({model["name"]: model for model in models})
    for arm in compared["arms"]:
        if arm["arm"] != compared["largest"]:
            times = (
                f"{ratio:,.2f} times the {name.replace('_', ' ')}"
                for name, ratio in arm["times_less_than_largest"].items()
                if ratio is not None
            )
            yield f"  {compared['largest']} took, beside {arm['arm']}, {', '.join(times)}"


def _trained(model: Mapping[str, Any]) -> Iterator[str]:
    loss, mfu = model["loss"], model["mfu"]
    heldout = model.get("heldout")
    measured = "" if heldout is None else f", held-out loss {_before(model)}{heldout['loss']:.3f}"
    used = "" if mfu is None else f", MFU {mfu:.1%}"
    dollars = "" if model["dollars"] is None else f", ${money(model['dollars'])}"
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in model["counts"].items() if count)
    yield (
        f"  {model['name']}: {model['examples']:,} examples ({counts}), {model['steps']:,} updates, "
        f"loss {loss['first']:.3f} -> {loss['last_tenth']:.3f}{measured}, {model['tokens_per_s']:,.0f} tokens/s on "
        f"{model['workers']} x {model['device']}{used}, {model['minutes']:,.1f} minutes{dollars}"
    )
    yield f"    {model['location']}"
    if heldout is not None:
        yield from _heldout_notes(heldout)


def _before(model: Mapping[str, Any]) -> str:
    """The held-out loss before the first update, where it was measured."""
    first = next(iter(model.get("heldout_curve") or ()), None)
    return f"{first['loss']:.3f} -> " if first and first["step"] == 0 else ""


def _heldout_notes(heldout: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the loss has to know."""
    of = f"of {heldout['examples'] + heldout['left_out']:,} held-out examples"
    if heldout["in_arm"]:
        yield f"    {heldout['in_arm']:,} {of} are in the arm too, so that their loss is too low; take them out of one"
    if heldout["left_out"]:
        yield f"    {heldout['left_out']:,} {of} were left out, as an arm's are: too long, or without a trainable token"


def elsewhere_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Models that another trainer has made, and what it is given for those that are still to be made."""
    for arm, place in report.get("checkpoints", {}).items():
        yield f"  {arm}: trained elsewhere, {place}"
    written = report.get("trainers", ())
    for one in written:
        yield f"  {one['arm']}: {one['examples']:,} examples for {one['trainer']}, {one['updates']:,} updates"
        yield f"    in {one['location']} call: {one['command']}"
    if written:
        yield f"  what {written[0]['trainer']} does otherwise than a training here:"
        yield from (f"    - {line}" for line in dict.fromkeys(line for one in written for line in one["differences"]))
        places = ", ".join(f"{one['arm']}: {one['location']}/model" for one in written)
        yield f"  then name what was trained: -s 'finetune.checkpoints={{{places}}}'"
