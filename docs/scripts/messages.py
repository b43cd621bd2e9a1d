"""Every message of the package that tells a user what is wrong, read from its source: the list of docs/troubleshooting.md.

python docs/scripts/messages.py prints it.
"""

import ast
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

PACKAGE = Path(__file__).parents[2] / "alpagasus_ray"
RAISED = {
    "AlpagasusError", "UsageError", "InputError", "SettingsChanged", "RunLocked", "StageFailed", "BudgetReached",
    "EngineUnusable", "RowRefused", "EngineDied", "ValueError",
}  # fmt: skip
"""Errors whose text a user sees. A `ValueError` of config/ is told with the key, by pydantic."""
TOLD = {"warning", "say", "refuse", "stop"}
"""Functions that tell a user something that is no error."""
COLLECTING = ("feasibility", "run_all", "raycluster", "doctor")
"""Modules whose functions return or yield what is wrong, to be told all at once."""
AREAS = {
    "The recipe and the command": (
        "config",
        "cli",
        "recipe",
        "commands",
        "first_recipe",
        "run_all",
        "plan_all",
        "feasibility",
        "__main__",
        "api",
    ),
    "Data": ("data",),
    "The run and its files": ("store",),
    "The judge, servers and models that answer": ("engines", "inference", "batch_api", "doctor"),
    "Ray and the cluster": ("raycluster", "interrupts", "terminal"),
    "Rating, choosing, answering, comparing": ("judging", "selection", "distill", "stages", "evaluation", "people"),
    "Training": ("training",),
    "The report": ("reporting",),
}
"""Parts of the page, and the modules whose messages they have."""
FEWEST_WORDS = 4
"""A text of fewer words is a part of a message, not one."""


class Message(NamedTuple):
    """A message as the source has it; what is filled in stands as `…`."""

    area: str
    text: str
    module: str


def messages() -> list[Message]:
    """All messages, each once, by area and alphabet."""
    trees = {
        path.relative_to(PACKAGE).with_suffix("").as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")
    }
    # what a raised error calls for its text writes messages too
    writers = {_name(call.func) for tree in trees.values() for call in _calls_of_raised(tree)}
    found: dict[str, Message] = {}
    for module, tree in sorted(trees.items()):
        for text in _texts(tree, module, writers):
            if len(text.replace("…", " ").split()) >= FEWEST_WORDS and not text.startswith((";", ",")):
                found.setdefault(text, Message(_area(module), text, module))
    return sorted(found.values(), key=lambda one: (list(AREAS).index(one.area), one.text.lower()))


def _area(module: str) -> str:
    first = module.partition("/")[0]
    return next((area for area, modules in AREAS.items() if first in modules), next(iter(AREAS)))


def _texts(tree: ast.AST, module: str, writers: Container[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if _is_raised(node) and (_name(node.exc.func) != "ValueError" or module.startswith("config")):
            # the longest argument: that of `InputError` is its third, an engine's error begins with a category
            yield max((_text(argument) for argument in node.exc.args), key=len, default="")
            yield from _assigned(tree, {argument.id for argument in node.exc.args if isinstance(argument, ast.Name)})
        elif isinstance(node, ast.Call) and _name(node.func) in TOLD and node.args:
            yield _text(node.args[0])
        elif isinstance(node, ast.FunctionDef) and (node.name in writers or module.startswith(COLLECTING)):
            values = [part.value for part in ast.walk(node) if isinstance(part, ast.Return | ast.Yield) and part.value]
            yield from map(_text, values)


def _is_raised(node: ast.AST) -> TypeGuard[Any]:
    return isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and _name(node.exc.func) in RAISED


def _calls_of_raised(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if _is_raised(node):
            yield from (part for argument in node.exc.args for part in ast.walk(argument) if isinstance(part, ast.Call))


def _assigned(tree: ast.AST, names: Container[str]) -> Iterator[str]:
    """Texts that a module gives these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(isinstance(part, ast.Name) and part.id in names for part in node.targets):
            yield _text(node.value)


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def _text(node: ast.expr) -> str:
    """The text of an expression, with `…` for what is filled in."""
    if isinstance(node, ast.Constant):
        return " ".join(str(node.value).split(" ")) if isinstance(node.value, str) else "…"
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.IfExp):
        return max(_text(node.body), _text(node.orelse), key=len)
    return "…"


def page() -> str:
    """The list as Markdown: one line a message, below the part of the product that it comes from."""
    lines: list[str] = []
    area = ""
    for message in messages():
        if message.area != area:
            area = message.area
            lines += ["", f"### {area}", ""]
        shown = " ".join(message.text.split()).replace("``", "` `")
        lines.append(f"- `` {shown} ``")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(page() + "\n")
