"""Runs the blocks of a page that show what they print: `console` (lines that begin with `$ alpagasus`) and `pycon` (`>>>`).

python docs/scripts/blocks.py docs/tutorial.md     # writes what they print now
"""

import contextlib
import doctest
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DATA = ROOT / "examples/sample/examples.jsonl"
"""What lies in the working directory of every page as `my_data.jsonl`."""
BLOCK = re.compile(r"^```(console|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Step(NamedTuple):
    """An input of a block, and what the page says that it prints; `...` stands for anything."""

    block: str
    given: str
    shown: str


def steps(text: str) -> Iterator[Step]:
    """The inputs of a page in their order."""
    for kind, body in BLOCK.findall(text):
        sign = "$ " if kind == "console" else ">>> "
        for part in re.split(rf"^(?={re.escape(sign)})", body, flags=re.MULTILINE):
            if part:
                lines = part.splitlines(keepends=True)
                more = next((n for n, line in enumerate(lines[1:], 1) if not line.startswith("... ")), len(lines))
                yield Step(kind, "".join(lines[:more]), "".join(lines[more:]))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A working directory with the data, and a cache of its own."""
    before, cache = os.getcwd(), os.environ.get("ALPAGASUS_CACHE")
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(DATA, Path(name) / "my_data.jsonl")
        os.environ |= {"ALPAGASUS_CACHE": f"{name}/cache", "COLUMNS": "120"}
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)
            if cache is None:
                del os.environ["ALPAGASUS_CACHE"]
            else:
                os.environ["ALPAGASUS_CACHE"] = cache


PROGRESS = re.compile(r"[a-z]+: [\d,]+( of [\d,]+)? rows, .*(rows/|starting|no change)")
"""What a machine that is slow says in between, after ten seconds, is not of the page."""


def printed(step: Step, names: dict[str, object]) -> str:
    """What an input prints, on whichever stream."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        if step.block == "console":
            from alpagasus_ray.__main__ import main

            program, *arguments = shlex.split(step.given.removeprefix("$ "), comments=True)
            assert program == "alpagasus", f"a console block runs alpagasus alone, and not {program}"
            code = main(arguments)
            if code:
                out.write(f"exit code {code}\n")
        else:
            source = "".join(line[4:] for line in step.given.splitlines(keepends=True))
            exec(compile(source, "page", "single"), names)
    said = out.getvalue().replace(f"{os.getcwd()}/", "").strip("\n")
    return "".join(line.rstrip() + "\n" for line in said.splitlines() if not PROGRESS.match(line))


def differing(text: str) -> Iterator[tuple[Step, str]]:
    """Inputs that print something else than their page says, and what."""
    checker, names = doctest.OutputChecker(), dict[str, object]()
    with scratch():
        for step in steps(text):
            if not checker.check_output(step.shown, now := printed(step, names), SAME):
                yield step, now


def main(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for step, now in list(differing(text)):
        text = text.replace(step.given + step.shown, step.given + now, 1)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
