"""DeepSpeed's compiled operations: built once for each environment and machine, by one process at a time.

DeepSpeed compiles them when they are first needed, through `torch.utils.cpp_extension`, whose lock is a file. Nobody removes it
when the process that made it is killed, and every later training would wait for it for ever. Here the lock is the kernel's,
which ends with its process, and the folder is used by this environment alone, so a lock file found in it is a dead one's.
"""

import fcntl
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import UsageError
from alpagasus_ray.terminal import say

FOLDER = "TORCH_EXTENSIONS_DIR"
"""The variable by which PyTorch is told where compiled operations lie."""
LOCK = "lock"
"""What PyTorch calls its own lock file."""


def load(config: Finetune, *, on_gpu: bool, tell: Callable[[str], None] = lambda said: None) -> None:
    """Load the operations that this training needs, and build those that are not built yet; `tell` hears of that first.

    DeepSpeed keeps what is loaded, so its own calls for it find it done.
    """
    wanted = ([] if on_gpu else ["ShareMemCommBuilder"]) + ([] if config.offload == "none" else ["CPUAdamBuilder"])
    if wanted:
        _build(wanted, tell)


def _build(wanted: list[str], tell: Callable[[str], None]) -> None:
    home = _home()
    home.mkdir(parents=True, exist_ok=True)
    os.environ[FOLDER] = str(home)
    from deepspeed.accelerator import get_accelerator

    with (home / "builders").open("w") as held:
        # for all operations together: the processes of one node wait here, and find them built
        fcntl.flock(held, fcntl.LOCK_EX)
        for name in wanted:
            builder: Any = get_accelerator().create_op_builder(name)
            if builder is None or not builder.is_compatible():
                continue  # DeepSpeed does without, or says itself what is missing
            folder = home / builder.name
            # whoever holds the kernel's lock is alone here, so this file's maker is dead
            (folder / LOCK).unlink(missing_ok=True)
            if not (folder / f"{builder.name}.so").exists():
                tell(f"compiling DeepSpeed's {builder.name}, once for this machine and environment: about a minute")
            try:
                builder.load()
            except RuntimeError as error:
                raise UsageError(
                    f"DeepSpeed's operation {builder.name}, without which no training runs here, could not be compiled: "
                    f"{str(error).strip().splitlines()[0]} It needs a C++ compiler and ninja on each node "
                    "(on Debian: apt-get install g++; ninja comes with this package's install)"
                ) from error


def _home() -> Path:
    """The folder of this environment, below the one that PyTorch is told of, or below the user's cache."""
    given = os.environ.get(FOLDER)
    mine = "alpagasus-" + hashlib.sha256(sys.prefix.encode()).hexdigest()[:12]
    if given and Path(given).name == mine:
        return Path(given)
    return Path(given or Path.home() / ".cache" / "torch_extensions") / mine


def main() -> int:
    """Build what a training on CPUs needs, so that the first one does not wait for it: `make install` calls this."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    try:
        load(Finetune(), on_gpu=False, tell=say)
    except UsageError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
