"""The shape of the code: which way imports point, what may be large, what is said where. Reads the source, imports nothing."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "alpagasus_ray"

LAYERS = (
    ("__init__", "__main__"),
    ("api",),
    ("run_all",),
    ("commands", "plan_all"),
    ("first_recipe",),
    ("feasibility", "doctor"),
    ("stages",),
    ("batch_api", "benchmarking", "cli"),
    ("inference", "training", "pick_inputs"),
    ("recipe", "reporting", "distill", "people", "raycluster"),
    ("selection",),
    ("judging",),
    ("engines", "evaluation"),
    ("data",),
    ("store",),
    ("completion", "config", "extras", "progress"),
    ("errors", "terminal", "interrupts", "version"),
)
"""The parts of the package from the top down. A part imports from layers below its own, from none beside or above it."""

UPWARD: dict[tuple[str, str], str] = {}
"""Imports that point up or sideways, each with the reason why it stays. The list may only become shorter."""

HEAVY = {"torch", "deepspeed", "vllm", "transformers", "peft", "lm_eval", "nltk"}
HEAVY_AT_THE_TOP = {
    "attention",
    "behaviour",
    "collate",
    "devices",
    "engine",
    "failures",
    "finished_model",
    "head",
    "frozen",
    "loop",
    "measure",
    "model",
    "windows",
} | {"proxies", "proxy_answers"}
"""Modules of `training/` that only its workers load: these import torch when they are imported."""
HEAVY_IN_FUNCTIONS = {
    "benchmarking",
    "engines.tokens",
    "engines.vllm_benchmarks",
    "engines.vllm_engine",
    "engines.vllm_model",
    "feasibility",
    "training",
}
"""Parts that load a heavy library where a function needs it; the rest of the package never does."""

LONGEST_FUNCTION, LONGEST_FILE = 60, 350
LONG_FILES: dict[str, str] = {}
"""Files that are longer, each with the reason. The list may only become shorter."""

TOLD_IN_DOCSTRINGS = ("engines", "inference", "selection", "judging", "evaluation", "training")
METHODS_TOO = ("engines", "selection", "judging", "evaluation", "training")


class Import(NamedTuple):
    """One name that a module imports."""

    target: str
    inside_a_function: bool


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax of every module, by its name below the package."""
    return {_name(file): ast.parse(file.read_text(encoding="utf-8")) for file in sorted(PACKAGE.rglob("*.py"))}


def _name(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@cache
def imports(module: str) -> tuple[Import, ...]:
    """All that a module imports, names of other modules of the package resolved to these."""
    return tuple(_imports(modules()[module]))


def _imports(tree: ast.Module) -> Iterator[Import]:
    at_the_top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        inside = id(node) not in at_the_top
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (Import(_target(node.module, alias.name), inside) for alias in node.names)


def _target(module: str, name: str) -> str:
    full = f"{module}.{name}".removeprefix("alpagasus_ray.")
    return f"alpagasus_ray.{full}" if module.startswith("alpagasus_ray") and full in modules() else module


def own(module: str) -> set[str]:
    """The modules of this package that one imports, by its name below the package."""
    targets = (found.target for found in imports(module))
    below = (target.removeprefix("alpagasus_ray").removeprefix(".") or "__init__" for target in targets if _is_own(target))
    return {name for name in below if name != module}


def _is_own(target: str) -> bool:
    return target == "alpagasus_ray" or target.startswith("alpagasus_ray.")


def part(module: str) -> str:
    return module.partition(".")[0]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_part_of_the_package_has_its_layer() -> None:
    listed = [name for layer in LAYERS for name in layer]
    assert len(listed) == len(set(listed))
    assert {part(module) for module in modules()} <= set(listed)


def test_imports_point_one_way() -> None:
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    edges = {(module, target) for module in modules() for target in own(module)}
    wrong = {edge for edge in edges if part(edge[0]) != part(edge[1]) and layer[part(edge[0])] >= layer[part(edge[1])]}
    assert wrong - UPWARD.keys() == set(), "imports that point up or sideways"
    assert UPWARD.keys() - wrong == set(), "these exceptions are no longer needed: delete them"


def test_jobs_import_only_what_runs_a_job() -> None:
    for file in (ROOT / "jobs").glob("*.py"):
        targets = {found.target for found in _imports(ast.parse(file.read_text(encoding="utf-8"))) if _is_own(found.target)}
        assert targets <= {"alpagasus_ray.commands", "alpagasus_ray.cli", "alpagasus_ray.run_all"}, file.name


def test_no_module_imports_itself_by_way_of_others_not_even_inside_functions() -> None:
    unseen = {module: own(module) for module in modules()}
    while free := {module for module, targets in unseen.items() if not targets & unseen.keys()}:
        for module in free:
            del unseen[module]
    on_a_cycle = _reachable_from_themselves(unseen)
    assert on_a_cycle == set()


def _reachable_from_themselves(edges: dict[str, set[str]]) -> set[str]:
    found = set()
    for start, targets in edges.items():
        seen: set[str] = set()
        ahead = list(targets)
        while ahead:
            module = ahead.pop()
            if module in edges and module not in seen:
                seen.add(module)
                ahead += edges[module]
        if start in seen:
            found.add(start)
    return found


def test_stages_import_no_stage() -> None:
    edges = {(module, target) for module in modules() for target in own(module)}
    assert {edge for edge in edges if all(part(end) == "stages" for end in edge)} == set(), "stages meet through files"


def test_files_that_docstrings_comments_and_docs_name_are_there() -> None:
    elsewhere = {"train.py", "rating/chatgpt_rating.py"}  # of the projects that a method was taken from
    modules = [file.as_posix() for file in PACKAGE.rglob("*.py")]
    for file in (*PACKAGE.rglob("*.py"), *ROOT.glob("docs/*.md"), ROOT / "CONTRIBUTING.md"):
        for named in set(re.findall(r"`([\w/]+\.py)`", file.read_text(encoding="utf-8"))) - elsewhere:
            is_module = any(module.endswith(f"/{named}") for module in modules)
            assert is_module or (ROOT / named).exists(), f"{file.name} names {named}"


def test_heavy_libraries_are_loaded_only_where_they_are_used() -> None:
    for module in modules():
        for found in imports(module):
            if found.target.partition(".")[0] not in HEAVY:
                continue
            if found.inside_a_function:
                assert module in HEAVY_IN_FUNCTIONS or part(module) in HEAVY_IN_FUNCTIONS, f"{module} imports {found.target}"
            else:
                assert module in {f"training.{name}" for name in HEAVY_AT_THE_TOP}, f"{module} imports {found.target}"


def test_what_ray_has_not_promised_is_used_in_one_file() -> None:
    private = re.compile(r"^ray(\..*)?\.(_\w+|generated|experimental)(\.|$)")
    users = {module for module in modules() if any(private.match(found.target) for found in imports(module))}
    assert users == {"raycluster.ray_internals"}


def test_no_function_is_longer_than_a_page() -> None:
    long = {
        f"{module}.{node.name}": lines
        for module, tree in modules().items()
        for node in functions(tree)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert long == {}


def test_no_file_is_longer_than_one_reads_at_once() -> None:
    files = {_name(file): len(file.read_text(encoding="utf-8").splitlines()) for file in PACKAGE.rglob("*.py")}
    long = {name for name, lines in files.items() if lines > LONGEST_FILE}
    assert long - LONG_FILES.keys() == set()
    assert LONG_FILES.keys() - long == set(), "these exceptions are no longer needed: delete them"


def test_whatever_catches_every_error_says_why() -> None:
    for file in PACKAGE.rglob("*.py"):
        lines = file.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if not isinstance(node, ast.ExceptHandler) or not _is_broad(node) or _raises_again(node):
                continue
            comment = lines[node.lineno - 1].partition("#")[2]
            reason = comment.partition(" - ")[2] if comment.strip().startswith("noqa") else comment
            assert len(reason.split()) >= 5, f"{file.name}, line {node.lineno}: no reason on the line"


def _is_broad(node: ast.ExceptHandler) -> bool:
    return node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))


def _raises_again(node: ast.ExceptHandler) -> bool:
    last = node.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_public_functions_say_what_they_do() -> None:
    documented = {node.name for tree in modules().values() for node in _protocol_methods(tree) if ast.get_docstring(node)}
    silent = [
        f"{module}.{node.name}"
        for module, tree in modules().items()
        if part(module) in TOLD_IN_DOCSTRINGS
        for node in _public(tree, methods=part(module) in METHODS_TOO)
        if not ast.get_docstring(node) and node.name not in documented
    ]
    assert silent == []


def _protocol_methods(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Methods of protocols and of `Watcher`, whose docstrings hold for all that implement them."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (node.name == "Watcher" or _is_protocol(node)):
            yield from (inner for inner in node.body if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef))


def _is_protocol(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)


def _public(tree: ast.Module | ast.ClassDef, *, methods: bool) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_") and methods:
            yield from _public(node, methods=True)
