"""The measures of the package's shape, as a table: `make shape`. Reads the source; needs nothing but Python.

A module's users are the modules of the package that import it. Files that `score(config)` passes through are not counted: that
takes a run.
"""

import ast
import io
import statistics
import sys
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "alpagasus_ray"


def main() -> None:
    files = {_name(file): file.read_text(encoding="utf-8") for file in sorted(PACKAGE.rglob("*.py"))}
    trees = {name: ast.parse(text) for name, text in files.items()}
    modules = {name for name, text in files.items() if text.strip()}
    users = _users(trees, modules)
    single = sum(len(users[name]) == 1 for name in modules)
    lengths = sorted((node.end_lineno or node.lineno) - node.lineno + 1 for node in _functions(trees))
    lines = {name: len(text.splitlines()) for name, text in files.items()}
    longest = max(lines, key=lambda name: lines[name])
    comments = sum(map(_comments, files.values()))
    table = {
        "package lines": f"{sum(lines.values()):,}",
        "modules, with one user": f"{len(modules)}, {single / len(modules):.0%}",
        "function lines: median, 90%, longest": f"{statistics.median(lengths):g}, {_ninth(lengths)}, {lengths[-1]}",
        "longest file, lines": f"{lines[longest]} ({longest})",
        "broad excepts that do not raise again": str(sum(map(_broad, trees.values()))),
        "comment lines": f"{comments / sum(lines.values()):.1%}",
    }
    width = max(map(len, table))
    sys.stdout.writelines(f"| {name:<{width}} | {value} |\n" for name, value in {"what": "now", "---": "---", **table}.items())


def _name(file: Path) -> str:
    parts = ("alpagasus_ray", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _users(trees: dict[str, ast.Module], modules: set[str]) -> dict[str, set[str]]:
    users: dict[str, set[str]] = {name: set() for name in modules}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    target = full if full in modules else node.module
                    if target in users and target != name:
                        users[target].add(name)
    return users


def _functions(trees: dict[str, ast.Module]) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = (node for tree in trees.values() for node in ast.walk(tree))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _ninth(lengths: list[int]) -> int:
    return lengths[int(len(lengths) * 0.9)]


def _broad(tree: ast.Module) -> int:
    return sum(
        isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not isinstance(node.body[-1], ast.Raise)
        for node in ast.walk(tree)
    )


def _comments(text: str) -> int:
    """Lines that hold a comment, but those that only speak to a checker."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    found = (token.string for token in tokens if token.type == tokenize.COMMENT)
    return sum(not comment.startswith(("# noqa", "# type:")) or " - " in comment for comment in found)


if __name__ == "__main__":
    main()
