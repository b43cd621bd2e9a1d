"""What a worker computes on: its device, what that can do, how much of it a model needs at the least."""

import os
from typing import NamedTuple

import psutil
import torch
import torch.distributed as dist

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import UsageError
from alpagasus_ray.training.settings import host_bytes, state_bytes

PEAK_TFLOPS = {"GH200": 989, "H200": 989, "H100 PCIe": 756, "H100": 989, "H800": 989, "H20": 148, "A100": 312, "A800": 312}
PEAK_TFLOPS |= {"B200": 2250, "L40S": 362, "L4": 121, "A10G": 70, "A10": 125, "RTX 4090": 165, "RTX 3090": 71, "V100": 125}
"""Dense 16-bit operations by NVIDIA's data sheets, in 10^12 a second; the first name that a device's contains counts."""


class Place(NamedTuple):
    """Where a worker stands."""

    rank: int
    workers: int
    neighbours: int
    """Workers on the same node, itself among them."""
    device: torch.device

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.device.type == "cuda"


def here(config: Finetune) -> Place:
    """The place of the worker that asks, by Ray Train's context."""
    from ray import train
    from ray.train.torch import get_device

    context = train.get_context()
    device = get_device() if torch.cuda.is_available() else torch.device("cpu")
    place = Place(context.get_world_rank(), context.get_world_size(), context.get_local_world_size(), device)
    if place.on_gpu:
        torch.cuda.set_device(device)
    take_cores(cores(config, place))
    return place


def cores(config: Finetune, place: Place) -> int:
    """How many threads a worker computes with on the host: the CPUs it was given; with states in the host's memory its share of
    the node's, as the node's GPUs wait for them."""
    if config.offload == "none":
        return config.cpus
    return max(config.cpus, len(os.sched_getaffinity(0)) // place.neighbours)


def take_cores(number: int) -> None:
    """Ray lets a process of one CPU have one thread. DeepSpeed's Adam has an OpenMP of its own, which reads the environment
    when it is loaded."""
    os.environ["OMP_NUM_THREADS"] = str(number)
    torch.set_num_threads(number)


def choose_accelerator(place: Place) -> None:
    """Tell DeepSpeed what it runs on, before it is imported: it looks at the machine else, not at the worker."""
    if not place.on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"


def name_of(device: torch.device) -> str:
    """Name of a device as its maker has it; `CPU` for the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def peak_flops(config: Finetune, device: torch.device) -> float | None:
    """Operations a second that the device can do at most; None where nobody has said."""
    if config.peak_tflops is not None:
        return config.peak_tflops * 1e12
    # in the order of the table, where longer names stand before those that they contain
    known = (peak for name, peak in PEAK_TFLOPS.items() if name in name_of(device))
    tflops = next(known, None) if device.type == "cuda" else None
    return None if tflops is None else tflops * 1e12


def seen_gpu(config: Finetune) -> str | None:
    """Name of the GPU that a worker on this machine would have; None where there is none, or workers take none."""
    return torch.cuda.get_device_name() if config.gpu is not False and torch.cuda.is_available() else None


def check(config: Finetune, parameters: int, trained: int, place: Place) -> None:
    """Refuse what this device cannot do or hold, before a weight is loaded."""
    if config.precision == "bf16" and place.on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UsageError(
            f"finetune.precision = bf16: the {name_of(place.device)} cannot compute in it; set float32, or take GPUs from the "
            "A100's generation on"
        )
    # the least that is needed: what fits by this count may still be too much with activations, what does not never fits
    need, free = state_bytes(config, parameters, trained, place.workers), _free_bytes(place)
    if need > free:
        raise UsageError(_too_small(config, need, free, place))
    _check_host(config, host_bytes(config, parameters, trained, place.workers) * place.neighbours, place.neighbours)


def _check_host(config: Finetune, need: int, neighbours: int) -> None:
    free = psutil.virtual_memory().available
    if need > free:
        raise UsageError(
            f"finetune.offload = {config.offload}: the states of finetune.model {config.model!r} need at least "
            f"{need / 2**30:,.1f} GiB of a node's memory for its {neighbours} workers, and {free / 2**30:,.1f} GiB are free. "
            "What helps: more nodes (finetune.workers), nodes with more memory, finetune.offload: none with "
            "finetune.zero_stage: 3, or finetune.lora (trains adapters only)"
        )


def free_on_all(place: Place) -> float | None:
    """The least memory that is free on a worker's GPU, over all workers, which ask together; None on CPUs."""
    if not place.on_gpu:
        return None
    free = torch.tensor([_free_bytes(place)], dtype=torch.float64, device=place.device)
    dist.all_reduce(free, op=dist.ReduceOp.MIN)
    return float(free)


def _free_bytes(place: Place) -> float:
    if place.on_gpu:
        free: float = torch.cuda.mem_get_info(place.device)[0]
        return free
    available: float = psutil.virtual_memory().available
    return available / place.neighbours


def _too_small(config: Finetune, need: float, free: float, place: Place) -> str:
    ways = []
    if config.zero_stage < 3:
        ways.append("finetune.zero_stage: 3 (spreads the weights too)")
    ways.append(f"more finetune.workers (now {place.workers})")
    if config.offload != "all" and place.on_gpu:
        ways.append("finetune.offload (keeps states in the host's memory)")
    if config.lora is None:
        ways.append("finetune.lora (trains adapters only)")
    if config.precision == "float32":
        ways.append("finetune.precision: bf16")
    return (
        f"finetune.model {config.model!r} does not fit: a worker needs at least {need / 2**30:,.1f} GiB for weights, gradients "
        f"and optimizer states, activations not counted, and has {free / 2**30:,.1f} GiB free ({name_of(place.device)}). What "
        f"helps: {', '.join(ways)}"
    )


def out_of_memory(config: Finetune, detail: str) -> str:
    """What to tell when the device's memory was full in the middle of the work."""
    smaller = (
        f"lower finetune.pack_tokens (now {config.pack_tokens}; at least max_length, {config.max_length:,})"
        if config.packing
        else f"lower finetune.micro_batch (now {config.micro_batch})"
    )
    ways = [smaller, "raise finetune.workers"]
    if config.gradient_checkpointing != "full":
        ways.append("set finetune.gradient_checkpointing: full")
    if config.offload == "none" and config.zero_stage >= 2:
        ways.append("set finetune.offload: optimizer")
    return (
        f"the GPU's memory is full: {detail.partition(' If ')[0]} What helps, and leaves the trained model what it is: "
        f"{'; '.join(ways)}. The same command goes on from the last state"
    )
