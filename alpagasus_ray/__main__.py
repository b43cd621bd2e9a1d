"""The command `alpagasus`: `alpagasus VERB RUN [-r recipe] [-s key=value …] [--json]`.

Each verb is one of the jobs under `jobs/`, which stay what `ray job submit` starts; here the run comes first and the help is
short. Nothing that takes long to import is loaded before a verb is known.
"""

import argparse
import difflib
import importlib
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from alpagasus_ray.terminal import say
from alpagasus_ray.version import __version__


class Verb(NamedTuple):
    """What a verb does, in a line, and the job that does it."""

    help: str
    module: str
    job: str
    """Name of its `JobSpec` in that module."""
    fixed: Mapping[str, Any] = {}
    """Switches of the job that the verb stands for."""


COMMANDS, ALL = "alpagasus_ray.commands", "alpagasus_ray.run_all"
VERBS = {
    "init": Verb("look at a dataset and this machine, and write a commented recipe", "alpagasus_ray.first_recipe", "INIT"),
    "plan": Verb("what the whole experiment would ask, train and cost; sends nothing", ALL, "RUN_ALL", {"plan": True}),
    "run": Verb("the whole experiment; what is done is skipped", ALL, "RUN_ALL"),
    "ingest": Verb("read a dataset, whatever its layout", COMMANDS, "INGEST"),
    "score": Verb("rate every example with a judge", COMMANDS, "SCORE"),
    "distill": Verb("fit a small model of the judge, which scores every row", COMMANDS, "DISTILL"),
    "pick": Verb("choose the examples of each arm", COMMANDS, "PICK"),
    "race": Verb("which arm beats random, by small models trained on each", COMMANDS, "RACE"),
    "train": Verb("train a model on every arm", COMMANDS, "FINETUNE"),
    "answer": Verb("let the models answer test sets", COMMANDS, "GENERATE"),
    "compare": Verb("let a judge compare their answers, in both orders", COMMANDS, "COMPARE"),
    "bench": Verb("benchmarks of the models: MMLU, BBH, DROP, HumanEval, …", COMMANDS, "BENCH"),
    "card": Verb("how far each judge can be trusted", COMMANDS, "CARD"),
    "people": Verb("a ballot for people, and their votes: make, import, status", COMMANDS, "PEOPLE"),
    "report": Verb("write the page, report.json and a dataset card", COMMANDS, "REPORT"),
    "status": Verb("how far a run is, what it has cost, what failed", COMMANDS, "STATUS"),
    "doctor": Verb("look whether the judge can be asked from here", COMMANDS, "DOCTOR"),
}
COMPLETION = "completion"
COMPLETION_HELP = "print what bash, zsh or fish need to complete commands"
USUAL = (
    "ingest.source ingest.format ingest.columns "
    "score.judge.kind score.judge.model score.judge.base_url score.judge.rubric score.concurrency score.requests_per_minute "
    "score.max_cost_usd pick.arms race.model race.heldout "
    "finetune.model finetune.epochs finetune.steps finetune.learning_rate finetune.global_batch "
    "finetune.lora generate.test_sets compare.judge.model compare.max_cost_usd compare.pairs bench.models bench.tasks "
    "bench.data card.repeat card.probes "
    "card.gold card.max_cost_usd people.form people.pair people.voters report.arm"
).split()
"""The knobs that most people set; `--help` shows these, `--help-all` every one."""
EXAMPLES = """\
examples:
  alpagasus init runs/mine --data mine.json     writes runs/mine.yaml
  alpagasus plan runs/mine -r runs/mine.yaml    says what it will cost
  alpagasus run runs/mine -r runs/mine.yaml
  alpagasus score runs/mine -s score.judge.model=gpt-4o-mini -s score.max_cost_usd=5"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line; the answer is the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    verb = given[0] if given else "--help"
    if verb == COMPLETION:
        return _complete(given[1:])
    if verb not in VERBS:
        if near := _near(verb):
            say(f"alpagasus: error: there is no verb {verb!r}; did you mean `alpagasus {near}`?")
            return 2
        _overview().parse_args([verb])  # ends the process: with help, the version, or what is wrong
    from alpagasus_ray.cli import carry_out

    spec = _spec(verb)
    parsed = _of_verb(verb, spec).parse_args(given[1:])
    for name, value in VERBS[verb].fixed.items():
        setattr(parsed, name, value)
    return carry_out(spec, parsed)


def _near(word: str) -> str | None:
    """The verb that a mistyped word, or the name of a job, most likely means."""
    known = {**{verb.job.lower(): name for name, verb in VERBS.items()}, **{name: name for name in _verbs()}}
    return next((known[near] for near in difflib.get_close_matches(word, known, n=1)), None)


def _overview() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alpagasus",
        usage="alpagasus VERB RUN [-r RECIPE] [-s KEY=VALUE …] [--json]",
        description="Rate an instruction dataset with an LLM judge, keep the best, train on it, and see if it was right.",
        epilog="\n".join([*(f"  {name:<11}{text}" for name, text in _verbs().items()), "", EXAMPLES]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"alpagasus-ray {__version__}")
    parser.add_argument("verb", choices=_verbs(), metavar="VERB", help="one of those below; `alpagasus VERB --help` tells more")
    return parser


def _verbs() -> dict[str, str]:
    """All words that can come first, with what they do."""
    return {**{name: verb.help for name, verb in VERBS.items()}, COMPLETION: COMPLETION_HELP}


def _complete(given: Sequence[str]) -> int:
    """`alpagasus completion SHELL`."""
    from alpagasus_ray import completion, recipe

    parser = argparse.ArgumentParser(
        prog=f"alpagasus {COMPLETION}",
        description=f"{COMPLETION_HELP[0].upper()}{COMPLETION_HELP[1:]}.",
        epilog='bash, zsh: eval "$(alpagasus completion bash)" in ~/.bashrc, with zsh in ~/.zshrc\n'
        "fish: alpagasus completion fish > ~/.config/fish/completions/alpagasus.fish",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=completion.SHELLS, metavar="SHELL", help=", ".join(completion.SHELLS))
    shell = parser.parse_args(given).shell
    words = {name: _words(name) for name in VERBS}
    words[COMPLETION] = completion.Words(COMPLETION_HELP, (), ())
    sys.stdout.write(completion.script(shell, words, recipe.shipped()))
    return 0


def _words(verb: str) -> Any:
    from alpagasus_ray import recipe
    from alpagasus_ray.completion import Words
    from alpagasus_ray.config import Recipe

    spec = _spec(verb)
    flags = tuple(f"--{flag}" for flag in spec.flags if flag not in VERBS[verb].fixed)
    sections = {name: field.annotation for name, field in Recipe.model_fields.items() if spec.section in ("", name)}
    knobs = (knob.key for name, section in sections.items() for knob in recipe.knobs(cast("Any", section), name))
    return Words(VERBS[verb].help, flags, tuple(key for key in knobs if "<n>" not in key))


def _spec(verb: str) -> Any:
    return getattr(importlib.import_module(VERBS[verb].module), VERBS[verb].job)


def _of_verb(verb: str, spec: Any) -> argparse.ArgumentParser:
    from alpagasus_ray.cli import RUN_HELP, Parser, add_arguments

    parser = Parser(
        prog=f"alpagasus {verb}",
        description=textwrap.fill(spec.doc, _width()),
        epilog="\n".join(_table(spec.section, USUAL)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help=RUN_HELP, nargs="?" if spec.instead_of_a_run else None)
    flags = {flag: text for flag, text in spec.flags.items() if flag not in VERBS[verb].fixed}
    add_arguments(parser, spec._replace(flags=flags))
    parser.add_argument("--help-all", action=_HelpAll, nargs=0, help="all knobs, not only the usual ones", section=spec.section)
    return parser


class _HelpAll(argparse.Action):
    """Prints every knob of a section, or of all where it is empty."""

    def __init__(self, *args: Any, section: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._section = section

    def __call__(self, *_given: Any, **_options: Any) -> None:
        """Print them and end the process."""
        sys.stdout.write("\n".join(_table(self._section, None)) + "\n")
        sys.exit(0)


def _table(section: str, wanted: Sequence[str] | None) -> Iterator[str]:
    """The knobs of a section (empty: of all), those wanted or each; the knobs of an engine are told once."""
    from alpagasus_ray import recipe
    from alpagasus_ray.config import Recipe

    yield "knobs (in the recipe, or by -s):" if wanted is None else "usual knobs (in the recipe, or by -s):"
    told: dict[tuple[str, ...], str] = {}
    for name, field in Recipe.model_fields.items():
        if section in ("", name):
            assert isinstance(field.annotation, type)
            for knob in recipe.knobs(field.annotation, name):
                below = tuple(knob.key.split("."))[1:]
                first = told.setdefault(below, knob.key) if len(below) > 1 else knob.key
                if (wanted is None and first == knob.key) or (wanted is not None and knob.key in wanted):
                    yield from _line(knob, whole=wanted is None)
    if wanted is None and section == "":
        yield "\nThe knobs of `judge` are told once, under `score`; `compare.judge` has the same."


def _line(knob: Any, *, whole: bool) -> Iterator[str]:
    head = f"  {knob.key}: {knob.kind}" + (f" = {knob.default}" if knob.default else "")
    said = knob.doc if whole else knob.doc.partition(". ")[0].partition("; ")[0]
    # a default that does not fit on the line is for --help-all
    yield head if whole or len(head) <= _width() else f"  {knob.key}: {knob.kind}"
    yield textwrap.fill(said, _width(), initial_indent=" " * 6, subsequent_indent=" " * 6)


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 120)


if __name__ == "__main__":
    sys.exit(main())
