"""The jobs that tell how far judges can be trusted, and ask people, as the command line runs them."""

from typing import Any

from alpagasus_ray.cli import Call, JobSpec
from alpagasus_ray.commands.summaries import always
from alpagasus_ray.errors import UsageError


def _card(call: Call) -> dict[str, Any]:
    from alpagasus_ray.stages import card

    make = card.plan if call.flags.plan else card.card
    return make(call.recipe, call.run, again=bool(call.flags.again))


def _people(call: Call) -> dict[str, Any]:
    from alpagasus_ray.stages import people

    action, files = call.flags.action, call.flags.files
    if files and action != "import":
        raise UsageError(f"people {action} takes no files ({files[0]}); people import does")
    if action == "make":
        return people.make(call.recipe, call.run)
    return people.take_in(call.recipe, call.run, files) if action == "import" else people.status(call.run)


CARD = JobSpec(
    "card",
    "card",
    "Tell how far each judge of the run can be trusted. Reads what is there, and asks nothing unless card.repeat or "
    "card.probes is set.",
    _card,
    {
        "plan": "print what the judge would be asked for its card, and what that costs; sends and writes nothing",
        "again": "ask the stored probes once more, though the judge has rated nothing since they were asked last",
    },
    reading=("plan",),
    needs_run=always,
)
PEOPLE = JobSpec(
    "people",
    "people",
    "Ask people: make a ballot that they vote with in a browser, import what they export, and say how far it is.",
    _people,
    actions={
        "make": "write people/<study>/ballot.html and its key",
        "import": "read the files that voters have exported",
        "status": "how far each study is, and what its votes come to",
    },
    reading=("status",),
    needs_run=always,
)
