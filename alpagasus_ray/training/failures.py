"""What ends a training for good, and what is only a lost process, after which Ray Train starts all again.

Closed the other way round than usual: what is known to come of a lost process, device or connection is tried again; everything
else, a mistake of ours or of the model's code, would come again, so it ends the training with its own words and place.
"""

import traceback
from types import TracebackType

import torch
import torch.distributed as dist

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import AlpagasusError, UsageError
from alpagasus_ray.training import devices
from alpagasus_ray.training.spec import Stopped
from alpagasus_ray.training.status import TrainingStatus

LOST = (dist.DistError, ConnectionError, TimeoutError, EOFError)
"""What is raised where another process, or the way to it, is gone."""
LOST_WORDS = (
    "gloo",
    "nccl",
    "cuda error",
    "connection reset by peer",
    "connection closed by peer",
    "aws error network_connection",
    "aws error service_unavailable",
    "aws error internal_failure",
    "aws error slow_down",
)
"""The same where only the words tell it: PyTorch's and Arrow's errors are plain ones."""
OURS = ("device-side assert", "out of memory")
"""Words of errors of a device that the program has caused."""
SHOWN = 400


class Telling:
    """While it lasts, what is raised is looked at: the driver is told of what ends the training. It is raised all the same, as
    other workers may wait for this one, and only its death ends them."""

    def __init__(self, config: Finetune, status: TrainingStatus) -> None:
        self._config, self._status = config, status

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> None:
        stopped = None if error is None else why_stopped(self._config, error)
        if stopped is not None:
            self._status.stop(stopped)


def why_stopped(config: Finetune, error: BaseException) -> Stopped | None:
    """Why no other try can succeed; None where one may."""
    if isinstance(error, torch.OutOfMemoryError):
        return Stopped(devices.out_of_memory(config, str(error)), is_usage=True)
    if isinstance(error, AlpagasusError):
        return Stopped(str(error), isinstance(error, UsageError))
    # an interrupt is the driver's to tell of
    if isinstance(error, KeyboardInterrupt) or _is_lost(error):
        return None
    return Stopped(_told(config, error), is_usage=False)


def _is_lost(error: BaseException) -> bool:
    words = str(error).lower()
    if isinstance(error, LOST):
        return True
    # by words, as PyTorch raises plain RuntimeErrors for a broken ring of workers
    is_known = isinstance(error, RuntimeError | OSError) and any(word in words for word in LOST_WORDS)
    return is_known and not any(word in words for word in OURS)


def _told(config: Finetune, error: BaseException) -> str:
    words = " ".join(str(error).split())[:SHOWN]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    return (
        f"finetune.model {config.model!r}: the training ended with {type(error).__name__}: {words}{where}. It would end there "
        "again, so nothing was tried a second time; a state that was saved stays"
    )
