"""Replies that are programs: what is run of a reply, and whether it ran to its end. On CPU workers where there is a Ray."""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jinja2

from alpagasus_ray.benchmarking.harness import Scored
from alpagasus_ray.benchmarking.sandbox import Ran, Sandbox
from alpagasus_ray.errors import UsageError

FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
"""A block of code in Markdown; one that is not closed goes to the end."""
MEASURE = "pass"
AT_ONCE = 16
"""Programs of one task of Ray."""


def scored(template: str, documents: Sequence[Scored], sandbox: Sandbox) -> list[Scored]:
    """Documents with the score that their programs have: 1 where one ran to its end without an error, else 0."""
    programs = [program(template, one) for one in documents]
    return [
        one._replace(score=float(ran.is_solved), measures={MEASURE: float(ran.is_solved)}, error=ran.error)
        for one, ran in zip(documents, _run(programs, sandbox), strict=True)
    ]


def program(template: str, one: Scored) -> str:
    """What is run: the template with the document's columns, and as `reply` the first block of code of the reply, or all of
    it."""
    try:
        made = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False).from_string(  # noqa: S701
            template
        )
        return made.render({**one.document, "reply": code_of(one.prediction)})
    except jinja2.TemplateError as error:
        raise UsageError(f"`code` of the task file cannot be filled in for document {one.document_id}: {error}") from None


def code_of(reply: str) -> str:
    """The first block of code of a reply in Markdown, behind a line's end; a reply without one as it is."""
    found = FENCED.search(reply)
    return f"\n{found[1]}" if found else reply


def _run(programs: Sequence[str], sandbox: Sandbox) -> list[Ran]:
    chunks = [programs[start : start + AT_ONCE] for start in range(0, len(programs), AT_ONCE)]
    return [ran for part in _spread(chunks, sandbox) for ran in part]


def _spread(chunks: Sequence[Sequence[str]], sandbox: Sandbox) -> Iterator[list[Ran]]:
    import ray

    if ray.is_initialized():
        task = ray.remote(_run_all).options(num_cpus=1)
        yield from ray.get([task.remote(chunk, sandbox) for chunk in chunks])
        return
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from pool.map(lambda chunk: _run_all(chunk, sandbox), chunks)


def _run_all(programs: Sequence[str], sandbox: Sandbox) -> list[Ran]:
    if not sandbox.unsafe and (problem := sandbox.problem()):
        raise UsageError(f"bench: a node that is to run programs has no sandbox: {problem}; install bubblewrap on all of them")
    return [sandbox.run(one) for one in programs]
