"""The command line that all jobs share: recipe and overrides to a checked configuration, then the stage, then its summary.

Messages go to stderr, and what only reads prints its result to stdout; with `--json` the last line of stdout is the summary as
one JSON object. Exit codes: 0 done, 1 failed or incomplete, 2 wrong usage, recipe or input, 3 stopped at the budget. The only
place where every exception is caught.
"""

import argparse
import difflib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

import yaml

from alpagasus_ray import interrupts
from alpagasus_ray import recipe as recipes
from alpagasus_ray.config import DEBUG, Ingest, Recipe, Section, deciding
from alpagasus_ray.errors import AlpagasusError, BudgetReached, SettingsChanged, UsageError
from alpagasus_ray.reporting import terminal
from alpagasus_ray.store import lock
from alpagasus_ray.store.find_run import check_exists
from alpagasus_ray.store.run import RECIPE, Run, StageDir, differences
from alpagasus_ray.terminal import Spelling, say, say_json

ALL_STATUSES = "all"
"""What `--retry-failed` means without a status."""
FLAG_VALUES: Mapping[str, dict[str, Any]] = {
    "limit": {"type": int, "metavar": "N"},
    "gpu": {"metavar": "NAME"},
    "fetch": {"metavar": "DIR"},
    "data": {"metavar": "SOURCE"},
    "top": {"type": int, "metavar": "N"},
    "threshold": {"type": float, "metavar": "X"},
    "share": {"type": float, "metavar": "S"},
    "per": {"choices": ("category", "source")},
    "jsonl": {"metavar": "FILE"},
    "retry-failed": {"nargs": "?", "const": ALL_STATUSES, "metavar": "STATUS,…"},
}
"""What the switches take that take something."""


class Call(NamedTuple):
    """What the user asked for."""

    recipe: Recipe
    run: Run
    flags: argparse.Namespace
    servers_answer: bool = False
    """Whether the servers of the recipe were asked for their models before, and need not be again."""


class JobSpec(NamedTuple):
    """One entry point: how it describes itself and what it runs."""

    name: str
    """Name of the file under `jobs/`."""
    section: str
    """Its section of the recipe; empty where it is all of them."""
    doc: str
    work: Callable[[Call], dict[str, Any]]
    """Does the stage and returns its summary, plain JSON values."""
    flags: Mapping[str, str] = {}
    """Switches of this job alone, with their help."""
    reading: tuple[str, ...] = ()
    """Switches under which the job only reads: it takes no lock, and the run keeps the recipe it has."""
    only_reads: bool = False
    """Whether it does so without any switch."""
    actions: Mapping[str, str] = {}
    """What the job can be told to do, one of which has to be said, with their help; `reading` can name some of them."""
    needs_run: Callable[[Recipe], bool] = lambda recipe: False
    """Whether, by this recipe, the run must be there already: a mistyped one would be an empty one."""
    in_full: Callable[[recipes.Loaded, argparse.Namespace], recipes.Loaded] = lambda loaded, flags: loaded
    """The recipe with the knobs that switches stand for."""
    instead_of_a_run: str = ""
    """A switch with a directory, under which the job needs no run."""


def main(spec: JobSpec, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a job and end the process with its exit code."""
    sys.exit(carry_out(spec, _parser(spec).parse_args(arguments)))


def carry_out(spec: JobSpec, parsed: argparse.Namespace) -> int:
    """Do what was asked for, tell what became of it, and return the exit code."""
    interrupts.install()
    if parsed.run is None and not (spec.instead_of_a_run and getattr(parsed, spec.instead_of_a_run)):
        _complain(
            f"{spec.name}: give the run's directory" + (f", or --{spec.instead_of_a_run} DIR" if spec.instead_of_a_run else "")
        )
        return UsageError.exit_code
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Spelling())
    try:
        code = _run(spec, parsed)
    except AlpagasusError as error:
        _complain("\n".join((str(error), *getattr(error, "__notes__", ()))))
        if parsed.json and isinstance(error, BudgetReached):
            say_json(error.report)
        code = error.exit_code
    except KeyboardInterrupt as interrupt:  # a stage says what it has kept
        _complain(str(interrupt) or "interrupted")
        code = 1
    except SystemExit as error:  # of a library: no stage ends in that way, and whatever its code is, nothing is done
        _complain(f"a library ended the job (exit code {error.code}); what is done is kept, and the same command goes on")
        code = 1
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        _complain(f"{named}{error.strerror or error}")
        code = 1
    except Exception as error:  # the one place for what nobody foresaw: still one message, the traceback on request
        if os.environ.get(DEBUG):
            say(traceback.format_exc())
        first = (str(error).splitlines() or [""])[0]
        _complain(f"unexpected {type(error).__name__}: {first}\nSet {DEBUG}=1 for the traceback.")
        code = 1
    if interrupts.seen() and code == 0:  # a library has swallowed it
        _complain("interrupted")
        code = 1
    sys.stdout.flush()
    return code


def _run(spec: JobSpec, parsed: argparse.Namespace) -> int:
    loaded, run = recipes.load(parsed.recipe, parsed.set), _opened(spec, parsed)
    try:
        report = perform(spec, loaded, run, parsed)
    except UsageError as error:
        if parsed.recipe is None and parsed.run is not None and not spec.only_reads and (kept := _recipe_of(run, parsed.run)):
            error.add_note(f"No recipe was given: did you forget -r {kept}?")
        raise
    # a plan, a preview or a status is what the command was called for; other summaries tell what was done
    is_result = _only_reads(spec, parsed) and not parsed.json
    terminal.show(report, sys.stdout if is_result else sys.stderr)
    if parsed.json:
        say_json(report)
    return 0 if report.get("ok", True) else 1


def _recipe_of(run: Run, location: str) -> str | None:
    """The recipe that lies beside a run, as `init` writes it, or that it was last made with."""
    beside = f"{location.rstrip('/')}.yaml"
    if run.storage.is_local and os.path.exists(os.path.expanduser(beside)):
        return beside
    with suppress(OSError):  # of storage that cannot be read the error tells
        return f"{location.rstrip('/')}/{RECIPE}" if run.storage.exists(RECIPE) else None
    return None


def _opened(spec: JobSpec, parsed: argparse.Namespace) -> Run:
    """The run, or the directory that stands in its place."""
    return Run.open(parsed.run if parsed.run is not None else getattr(parsed, spec.instead_of_a_run))


def perform(spec: JobSpec, loaded: recipes.Loaded, run: Run, flags: argparse.Namespace) -> dict[str, Any]:
    """Do a job and return its summary; `flags` has a value for each switch of the job."""
    loaded = spec.in_full(loaded, flags)
    if spec.needs_run(loaded.recipe) and not (spec.instead_of_a_run and getattr(flags, spec.instead_of_a_run)):
        check_exists(run)
    call = Call(loaded.recipe, run, flags)
    if not _only_reads(spec, flags):
        return _write(spec, loaded, call)
    with suppress(OSError):  # the job tells better what of the storage cannot be used
        _check_earlier(loaded, run, spec.section)
    return spec.work(call)


def _only_reads(spec: JobSpec, flags: argparse.Namespace) -> bool:
    """Whether the job only reads: always, or under a switch that is on, or by the action that was said."""
    switches = (flag.replace("-", "_") for flag in spec.reading if flag in spec.flags)
    is_switched = any(getattr(flags, switch) for switch in switches)
    return spec.only_reads or is_switched or getattr(flags, "action", None) in spec.reading


def _write(spec: JobSpec, loaded: recipes.Loaded, call: Call) -> dict[str, Any]:
    """The job's work under the run's lock; the run keeps the recipe that it was done with."""
    with lock.held(call.run) as run:
        call = call._replace(run=run)
        _check_earlier(loaded, call.run, spec.section)
        try:
            report = spec.work(call)
        except UsageError:
            raise  # refused: the run keeps the recipe it has
        except BaseException:
            _save_recipe(call.recipe, call.run, spec.section)
            raise
        _save_recipe(call.recipe, call.run, spec.section)
    return report


def _complain(message: str) -> None:
    say(f"error: {message}")


class Parser(argparse.ArgumentParser):
    """One that spells out what it repeats of the command, and names the switches that were meant."""

    def error(self, message: str) -> NoReturn:
        """Tell a wrong use and end with code 2."""
        known = [option for action in self._actions for option in action.option_strings]
        given = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        near = [switch for word in given if word not in known for switch in difflib.get_close_matches(word, known, n=1)]
        meant = f"; did you mean {' and '.join(near)}?" if near else ""
        say(f"{self.format_usage()}{self.prog}: error: {message}{meant}")
        sys.exit(2)


def _parser(spec: JobSpec) -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"python jobs/{spec.name}.py",
        description=spec.doc,
        epilog=_knob_table(spec.section),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", required=not spec.instead_of_a_run, metavar="DIR", help=RUN_HELP)
    add_arguments(parser, spec)
    return parser


RUN_HELP = "the run's directory: a path, s3://… or gs://…"


def add_arguments(parser: argparse.ArgumentParser, spec: JobSpec) -> None:
    """What every job takes beside its run, and the switches and actions of this one."""
    if spec.actions:
        told = "; ".join(f"{action}: {text}" for action, text in spec.actions.items())
        parser.add_argument("action", choices=spec.actions, metavar="|".join(spec.actions), help=told)
        parser.add_argument("files", nargs="*", metavar="FILE", help="files to import")
    parser.add_argument(
        "-r",
        "--recipe",
        metavar="FILE",
        help="the YAML file that describes the run, its URI, or the name of a recipe that ships with the package; without "
        "one the defaults hold",
    )
    parser.add_argument(
        "-s", "--set", action="append", default=[], metavar="KEY=VALUE", help="override one knob; the value is YAML"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object on the last line of stdout")
    for flag, text in spec.flags.items():
        parser.add_argument(f"--{flag}", help=text, **FLAG_VALUES.get(flag, {"action": "store_true"}))


def _knob_table(section: str) -> str:
    if not section:
        return "knobs: those of all jobs; python jobs/<job>.py --help lists them"
    annotation = Recipe.model_fields[section].annotation
    assert isinstance(annotation, type)
    assert issubclass(annotation, Section)
    lines = ["knobs (in the recipe, or by --set):", ""]
    for knob in recipes.knobs(annotation, section):
        lines.append(f"  {knob.key}: {knob.kind}" + (f" = {knob.default}" if knob.default else " (required)"))
        lines.append(f"      {knob.doc}")
    return "\n".join(lines)


def _check_earlier(loaded: recipes.Loaded, run: Run, section: str) -> None:
    """Refuse when the recipe says something else about an earlier stage than what that stage was made with."""
    earlier: list[tuple[str, StageDir, Section]] = []
    if section not in ("", "ingest"):  # a job that is all of them does every stage by this recipe
        earlier.append(("ingest", run.examples(), loaded.recipe.ingest))
    if section == "pick":
        earlier.append(("score", run.ratings(loaded.recipe.pick.ratings), loaded.recipe.score))
    for name, stage, config in earlier:
        written = loaded.written.get(name)
        manifest = stage.manifest() if written else None
        if manifest is None or (name == "score" and loaded.recipe.score.name != loaded.recipe.pick.ratings):
            continue
        changed = differences(*_both(_with_defaults(manifest.settings, config), deciding(config), written), prefix=f"{name}.")
        if changed:
            raise SettingsChanged(
                f"the recipe differs from what {stage.name}/ was made with:\n  " + "\n  ".join(changed) + "\n"
                "Take that back, or start a new run."
            )


def _with_defaults(settings: Mapping[str, Any], config: Section) -> Mapping[str, Any]:
    """The settings of a manifest, and the defaults that it does not name; of `ingest`, whose knobs are in it as in a recipe."""
    return {**deciding(Ingest()), **settings} if isinstance(config, Ingest) else settings


def _both(made: Mapping[str, Any], asked: Mapping[str, Any], written: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that the user wrote himself, as they were then and as they are now."""
    old: dict[str, Any] = {}
    new: dict[str, Any] = {}
    for key in written if isinstance(written, Mapping) else ():
        if key in made and asked.get(key) is not None:
            if isinstance(made[key], Mapping) and isinstance(asked[key], Mapping):
                old[key], new[key] = _both(made[key], asked[key], written[key])
            else:
                old[key], new[key] = made[key], asked[key]
    return old, new


def _save_recipe(recipe: Recipe, run: Run, section: str) -> None:
    """Keep the resolved recipe in the run: this job's section as it is now, the others as their own jobs left them.
    It holds the names of variables with keys, never keys."""
    resolved = recipe.model_dump(mode="json")
    if section and run.storage.exists(RECIPE):
        resolved |= {name: kept for name, kept in yaml.safe_load(run.storage.read(RECIPE)).items() if name != section}
    run.storage.write(RECIPE, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True).encode(), private=True)


def no_flag_with(flags: argparse.Namespace, *names: str) -> None:
    """Refuse two switches that exclude each other."""
    given = [name for name in names if getattr(flags, name.replace("-", "_"))]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} exclude each other")
