"""Nothing that others have written commands the terminal, hides in it or breaks it; there is one way to it."""

import ast
import io
import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from alpagasus_ray import cli
from alpagasus_ray.inference.counts import Counts, in_words
from alpagasus_ray.progress import Progress
from alpagasus_ray.reporting import terminal
from alpagasus_ray.terminal import is_plain, say, say_json, spelled
from toy_runs import ROOT

CONTROL = ["\x00", "\x07", "\x08", "\r", "\x1b", "\x7f", "\x85", "\x9b"]
BIDI = ["\u061c", "\u200e", "\u200f", "\u202a", "\u202d", "\u202e", "\u2066", "\u2067", "\u2069"]
HIDDEN = [
    "\u00ad",
    "\u034f",
    "\u115f",
    "\u180e",
    "\u200b",
    "\u200c",
    "\u200d",
    "\u2060",
    "\u2063",
    "\u3164",
    "\ufe0f",
    "\ufeff",
]
HIDDEN += ["\uffa0", "\U000e0041", "\U000e0101", "\u2028", "\u2029", "\ud800", "\ue000", "\U0010ffff"]
BAD = [*CONTROL, *BIDI, *HIDDEN]
HOSTILE = "a" + "".join(BAD) + "b"
FINE = "Zürich 東京 हिन्दी العربية עברית 🙂 ½ ≤ “quoted” a\u00a0b\n\t|"


@pytest.mark.parametrize("character", BAD, ids=lambda c: f"U+{ord(c):04X}")
def test_a_character_that_is_not_shown_as_it_is_is_spelled_out(character: str) -> None:
    shown = spelled(f"a{character}b")
    assert character not in shown
    assert shown.isprintable()
    assert f"{ord(character):02x}" in shown


def test_every_character_that_is_left_is_shown_and_none_orders_the_line() -> None:
    left = [chr(number) for number in range(sys.maxunicode + 1) if is_plain(chr(number))]
    assert all(character.isprintable() or character.isspace() for character in left)
    assert not set(left) & set(BAD)


def test_what_people_write_stays_as_it_is() -> None:
    assert spelled(FINE) == FINE


def test_json_for_scripts_is_safe_to_look_at_and_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"reply": HOSTILE, "fine": FINE, HOSTILE: [1, None]}
    say_json(value)
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 1
    assert not set(printed) & set(BAD)
    assert "東京" in printed
    assert json.loads(printed) == value


def test_messages_progress_summaries_and_logs_take_that_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say(HOSTILE)
    with Progress("score", 3, plain_every_s=0.0) as progress:
        progress.show(1, details=in_words(Counts(without_reply=Counter({HOSTILE: 1}))))
    terminal.show({"stage": HOSTILE, "rows": 1, "location": HOSTILE, "reasons": {HOSTILE: 1}, "notes": [HOSTILE]}, sys.stderr)
    monkeypatch.setenv(cli.DEBUG, "1")

    def work(call: Any) -> Any:
        logging.getLogger("some.library").warning("%s", HOSTILE)
        raise RuntimeError(HOSTILE)

    with pytest.raises(SystemExit):
        cli.main(cli.JobSpec("ingest", "ingest", "A job.", work), ["--run", str(tmp_path / "run")])
    told = capsys.readouterr().err
    assert told.count("a\\x00\\x07") >= 7
    assert not set(told) & set(BAD)


def test_a_preview_of_hostile_rows_is_spelled_out_too() -> None:
    out = io.StringIO()
    tokens = dict.fromkeys(("examples", "rows", "whole", "cut", "tokens", "label_tokens", "longest", "tokens_seen", "steps"), 1)
    arm = {
        "arm": HOSTILE, "estimate": False, "left_out": {HOSTILE: 1}, **tokens, "mean_tokens": 1.0, "tokens_per_update": 1,
        "epochs": 1.0, "padding_share": {"to_longest": 0.0, "to_max_length": 0.0}, "micro_batches": 1.0, "minutes": None,
        "predicted_by": HOSTILE, "read": 1,
        "shown": [{"example_id": HOSTILE, "tokens": 1, "label_tokens": 1, "cut": False, "masked": HOSTILE, "trained": HOSTILE,
                   "end": ""}],
    }  # fmt: skip
    terminal.show({"preview": True, "model": HOSTILE, "workers": 1, "workers_by": "", "arms": [arm], "packing": False}, out)
    assert not set(out.getvalue()) & set(BAD)


WRITERS = {
    "terminal.py": "the writer itself",
    "__main__.py": "the help, a text of the package alone",
    "run_all.py": "a rich table of spelled texts",
    "reporting/terminal_training.py": "rich texts of spelled lines, in colour",
    "progress.py": "rich's bars and spelled texts",
    "reporting/watch.py": "rich's live view of spelled lines",
}


def _writes(tree: ast.AST) -> bool:
    """Whether a module writes to a stream by `print`, by `sys.stdout` or `sys.stderr`, or by a console of rich."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "Console"):
            return True
        if isinstance(node, ast.Attribute) and ast.unparse(node) in (
            "sys.stdout.write",
            "sys.stderr.write",
            "traceback.print_exc",
        ):
            return True
    return False


def test_no_other_module_of_the_package_writes_to_the_terminal() -> None:
    package = ROOT / "alpagasus_ray"
    found = {str(file.relative_to(package)) for file in package.rglob("*.py") if _writes(ast.parse(file.read_text()))}
    assert found == set(WRITERS)
