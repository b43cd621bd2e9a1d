"""The kinds of stages that a run holds: one table, in the order of the experiment.

A kind is the first part of a stage's name; the verdicts of another judge are `verdicts-<name>`. What is of no kind in the table
is in no report and no status.
"""

from typing import NamedTuple


class StageKind(NamedTuple):
    """What the rest of the package has to know of a kind of stage."""

    verb: str
    """The command that makes it: `alpagasus <verb> RUN`."""
    depths: tuple[int, ...]
    """Directories below that of the kind: `answers/<model>/<test set>` has two. What lies deeper is a part of a stage."""
    is_asked_about: bool = False
    """An engine is asked about its rows, one by one: a stage made from it has as many."""
    is_minor: bool = False
    """It only lays out what others have made, and costs nothing to speak of."""
    trains: bool = False
    """It goes by updates, and counts its own tokens and dollars."""
    asked_in: str = ""
    """The directory inside that an engine fills, where the stage is made of it."""
    is_reported: bool = True
    """Reports are made from it."""


STAGE_KINDS: dict[str, StageKind] = {
    "examples": StageKind("ingest", (0,), is_asked_about=True),
    "ratings": StageKind("score", (1,)),
    "subsets": StageKind("pick", (1,)),
    "race": StageKind("race", (0,)),
    "models": StageKind("train", (1,), trains=True),
    "prompts": StageKind("answer", (1,), is_asked_about=True, is_minor=True),
    "answers": StageKind("answer", (2,)),
    "pairs": StageKind("compare", (2,), is_asked_about=True, is_minor=True),
    "verdicts": StageKind("compare", (2,)),
    "benchmarks": StageKind("bench", (2,), asked_in="replies"),
    "probes": StageKind("card", (2,), is_asked_about=True, is_minor=True),
    "judges": StageKind("card", (0, 1, 2)),
    "people": StageKind("people", (1,), is_minor=True),
    "report": StageKind("report", (0,), is_reported=False),
}
"""By name; a new kind of stage is one line here, and a method of `store.run.Run` that says where it lies."""
UNKNOWN = StageKind("run", (), is_reported=False)


def kind_name(stage: str) -> str:
    """`verdicts` of `verdicts-strict/a-vs-b/koala`."""
    first = stage.split("/", maxsplit=1)[0]
    return "verdicts" if first.startswith("verdicts-") else first


def kind_of(stage: str) -> StageKind:
    """The entry of a stage's kind; `UNKNOWN` where there is none."""
    return STAGE_KINDS.get(kind_name(stage), UNKNOWN)


def is_stage(name: str) -> bool:
    """Whether a name is that of a whole stage, and not of a directory inside one, or of a file."""
    return name.count("/") in kind_of(name).depths


def in_order(stage: str) -> tuple[int, str]:
    """The key that sorts stages in the order of the experiment; of a kind in the table."""
    return list(STAGE_KINDS).index(kind_name(stage)), stage
