"""How the workers of a training join one torch.distributed group, as by Ray Train's `TorchConfig`, with torch in workers alone:
`ray.train.torch` imports it in the driver and in Ray Train's controller too, and a worker starts when both have done so.

Knows Ray Train; loads torch in the workers alone.
"""

import os
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from alpagasus_ray.raycluster.ray_internals import free_address, join_group, leave_group

LEAVE_S = 30.0
"""Seconds that workers have to leave the group, as Ray Train gives them."""


@dataclass
class ProcessGroup(BackendConfig):
    """What Ray Train is given in place of its `TorchConfig`."""

    backend: str
    """`nccl` or `gloo`."""
    timeout_s: int
    """Seconds that workers wait for each other."""

    @property
    def backend_cls(self) -> type[Backend]:
        """What sets it up."""
        return _Joining

    def to_dict(self) -> dict[str, Any]:
        """What Ray's dashboard shows."""
        return {"backend": self.backend, "timeout_s": self.timeout_s}


class _Joining(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Let all workers join."""
        address, port = worker_group.execute_single(0, free_address)
        told = {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
        number = len(worker_group)
        joining = [
            worker_group.execute_single_async(
                rank, _join, told, rank, number, (backend_config.backend, backend_config.timeout_s)
            )
            for rank in range(number)
        ]
        ray.get(joining)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Let all workers leave; those that are gone or hang are left to Ray Train."""
        del backend_config
        try:
            ray.get(worker_group.execute_async(leave_group, several=len(worker_group) > 1), timeout=LEAVE_S)
        except ray.exceptions.GetTimeoutError:
            return


def _join(told: dict[str, str], rank: int, number: int, how: tuple[str, int]) -> None:
    """In a worker."""
    os.environ |= told
    backend, timeout_s = how
    join_group(backend, rank, number, timeout_s)
