"""The training loop on one GPU: each lever on and off, and whether what is quick is also right.

    python benchmarks/gpu.py [--tiny] [--seconds 360] [--out FILE] [--model FOLDER] [--only NAME,…]

Sections run one after the other, each as a process of its own with a time limit, so that one that fails, hangs or fills the
memory costs its own figures alone: what it had measured until then is kept, and the reason is in the report. Needs torch,
transformers, DeepSpeed, pydantic and psutil; no Ray, no pyarrow, no network. `--tiny` measures nothing and tries all of it on a
CPU. The report is one JSON object, the last line of stdout; its rows are described in docs/benchmarks.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
sys.path += filter(None, [os.environ.get("CARRIED")])  # last: what the machine has of its own is what it was made for

Row = dict[str, Any]


class Section(NamedTuple):
    """A part of the report."""

    limit_s: float
    measure: Callable[[argparse.Namespace], Iterator[Row]]
    """Yields rows as they are measured."""


def _losses(asked: argparse.Namespace) -> Iterator[Row]:
    import gpu_kernels

    yield from gpu_kernels.losses(tiny=asked.tiny)


def _attention(asked: argparse.Namespace) -> Iterator[Row]:
    import gpu_kernels

    yield from gpu_kernels.attentions(tiny=asked.tiny)


def _loop(asked: argparse.Namespace) -> Iterator[Row]:
    import gpu_loop

    yield from gpu_loop.levers(tiny=asked.tiny)


def _model(asked: argparse.Namespace) -> Iterator[Row]:
    import gpu_loop

    yield from gpu_loop.finetuned(asked.model, tiny=asked.tiny)


SECTIONS = {
    "losses": Section(50, _losses),
    "attention": Section(80, _attention),
    "loop": Section(190, _loop),
    "model": Section(60, _model),
}
"""In the order of what is worth most where the time is short: whether it is right, then how quick it is."""
PATIENT = 5
"""How many times as long `--tiny` may take."""
FIRST = ("loop",)
"""Where all together would take longer than there is, this one has its time reserved."""


def report(asked: argparse.Namespace) -> dict[str, Any]:
    """All sections that are asked for."""
    # on a CPU nothing is measured, and other work may share it
    times = PATIENT if asked.tiny else 1
    started, ends = time.time(), time.monotonic() + asked.seconds * times
    found: dict[str, Any] = {}
    usual = [name for name in SECTIONS if name != "model" or asked.model]
    names = [name for name in SECTIONS if name in asked.only.split(",")] if asked.only else usual
    for name in names:
        # what stands first must not eat up what the loop needs
        kept = sum(SECTIONS[later].limit_s for later in names[names.index(name) + 1 :] if later in FIRST) * times
        left = ends - time.monotonic()
        limit = min(SECTIONS[name].limit_s * times, left - (kept if left > kept + 20 else 0))
        print(f"{name}: at most {limit:.0f} s", file=sys.stderr, flush=True)
        found[name] = _run(name, asked, limit)
    return {"machine": machine(), "tiny": asked.tiny, "started": started, "seconds": time.time() - started, "sections": found}


def _run(name: str, asked: argparse.Namespace, limit: float) -> dict[str, Any]:
    """One section in a process of its own; rows until its end, and why it ended if it did not finish."""
    if limit < 5:
        return {"finished": False, "why": "no time was left", "rows": []}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="alpagasus-gpu-") as folder:
        rows, errors = Path(folder) / "rows", Path(folder) / "errors"
        command = [sys.executable, __file__, "--section", name, "--rows", str(rows)]
        command += ["--tiny"] if asked.tiny else []
        command += ["--model", asked.model] if asked.model else []
        # threads of a tiny one on a CPU would wait for each other
        environment = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", **os.environ}
        environment |= {"OMP_NUM_THREADS": "1"} if asked.tiny else {}
        with errors.open("w") as stream:
            try:
                done = subprocess.run(command, stdout=stream, stderr=stream, timeout=limit, check=False, env=environment)
                code = done.returncode
                why = None if code == 0 else _last(errors) or f"it ended with code {code}"
            except subprocess.TimeoutExpired:
                why = f"it took longer than {limit:.0f} s"
        made = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    return {"finished": why is None, "why": why, "seconds": time.monotonic() - started, "rows": made}


def _last(errors: Path) -> str:
    lines = [line.strip() for line in errors.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-600:]


def machine() -> dict[str, Any]:
    """What it is measured on. CUDA is not touched by the process that starts the others."""
    told: dict[str, Any] = {"python": sys.version.split()[0], "cpus": os.cpu_count()}
    asked = "--query-gpu=name,memory.total,driver_version,clocks.max.sm,power.limit"
    try:
        done = subprocess.run(
            ["nvidia-smi", asked, "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=False
        )
        told["gpu"] = done.stdout.strip() or done.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        told["gpu"] = f"none seen: {error}"
    from importlib import metadata

    for name in ("torch", "transformers", "triton", "deepspeed", "liger-kernel", "flash-attn", "flash-attn-3"):
        try:
            told[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            told[name] = None
    return told


def _section(asked: argparse.Namespace) -> None:
    """In the process of a section: its rows to a file, each whole as soon as it is there."""
    with Path(asked.rows).open("a") as stream:
        for row in SECTIONS[asked.section].measure(asked):
            stream.write(json.dumps(row) + "\n")
            stream.flush()


def main() -> int:
    """Measure, print, and write the report where it is asked for. Ends with 0 when every section finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try all of it on a CPU")
    parser.add_argument("--seconds", type=float, default=360, help="time for all sections together")
    parser.add_argument("--out", help="a file for the report as well")
    parser.add_argument("--model", help="a model's folder, to be finetuned; on rows.json in it, if that is there")
    parser.add_argument("--only", default="", help=f"names of sections, by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.section:
        _section(asked)
        return 0
    made = json.dumps(report(asked))
    if asked.out:
        Path(asked.out).write_text(made)
    print(made)
    return 0 if all(section["finished"] for section in json.loads(made)["sections"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
