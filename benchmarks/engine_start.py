"""Where the time goes when a worker opens an engine of vLLM, by what is done: seconds of the CPU, and of the clock.

    python benchmarks/engine_start.py [--modules] [CHECKOUT]

With another checkout the same is measured of its package too, in turns. What Ray's workers import anyway is not counted.
With --modules only our own part of that is looked at, and no engine starts.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
TINY = ROOT.parent / "shared/data/tiny_llama"
TURNS = 3
Parts = dict[str, tuple[float, float]]


@contextmanager
def counted(parts: Parts, name: str) -> Iterator[None]:
    """Add the seconds of the block, of this process's CPU and of the clock, to a part."""
    cpu, clock, before = time.process_time(), time.monotonic(), parts.get(name, (0.0, 0.0))
    try:
        yield
    finally:
        parts[name] = (before[0] + time.process_time() - cpu, before[1] + time.monotonic() - clock)


def split(*, modules_only: bool) -> Parts:
    """Open an engine as a worker of a judge does."""
    import psutil
    import ray.data  # noqa: F401 - a worker has it before it hears of us

    parts: Parts = {}
    with counted(parts, "our modules"):
        import alpagasus_ray.inference.worker  # noqa: F401
        from alpagasus_ray.config import Judge, Vllm
        from alpagasus_ray.engines import vllm_engine, vllm_model
        from alpagasus_ray.inference.tasks.rating import NOTHING
        from alpagasus_ray.judging import rubric
        from alpagasus_ray.judging.reply_format import reply_form
    if modules_only:
        return parts
    with counted(parts, "vLLM's modules"):
        from vllm import AsyncEngineArgs  # noqa: F401
        from vllm.v1.engine.async_llm import AsyncLLM

    def told(name: str, of: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **named: Any) -> Any:
            with counted(parts, name):
                return of(*arguments, **named)

        return measured

    settings = Vllm(dtype="float32", enforce_eager=True, kv_cache_gib=1)
    judge = Judge(kind="vllm", model=str(TINY), explain=False, vllm=settings)
    asked = rubric.load("accuracy")

    async def start() -> Any:
        with (
            mock.patch.object(AsyncLLM, "from_vllm_config", told("vLLM's engine", AsyncLLM.from_vllm_config)),
            mock.patch.object(vllm_engine, "vllm_config", told("vLLM's configuration", vllm_model.vllm_config)),
            counted(parts, "our checks"),
        ):
            return vllm_engine.VllmEngine.start(judge, reply_form(judge, asked), asked.messages(NOTHING))

    kept = asyncio.run(start())
    (cpu, clock), configured, checked = (parts[name] for name in ("vLLM's engine", "vLLM's configuration", "our checks"))
    parts["our checks"] = (checked[0] - cpu - configured[0], checked[1] - clock - configured[1])
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    parts["vLLM's engine"] = (cpu + sum(each.user + each.system for each in times), clock)
    del kept
    return parts


def measured(checkout: Path, options: list[str]) -> Parts:
    """The parts of a fresh process that has the package of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--here", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("{")]
    loaded: Parts = json.loads(line)
    return loaded


def main(options: list[str], others: list[Path]) -> None:
    checkouts = [*others, ROOT]
    seen: dict[Path, list[Parts]] = {checkout: [] for checkout in checkouts}
    for _ in range(TURNS):
        for checkout in checkouts:
            seen[checkout].append(measured(checkout, options))
    print("| what | " + " | ".join(f"{name}, s of CPU | s" for name in ("before", "now")[-len(checkouts) :]) + " |")
    print("|---" * (1 + 2 * len(checkouts)) + "|")
    for part in seen[ROOT][0]:
        means = [sum(turn[part][n] for turn in seen[checkout]) / TURNS for checkout in checkouts for n in (0, 1)]
        print(f"| {part} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")


if __name__ == "__main__":
    given = [option for option in sys.argv[1:] if option == "--modules"]
    if "--here" in sys.argv:
        print(json.dumps(split(modules_only=bool(given))), flush=True)
    else:
        main(given, [Path(name).resolve() for name in sys.argv[1:] if not name.startswith("--")])
