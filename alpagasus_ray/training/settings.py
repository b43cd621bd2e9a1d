"""The learning rate of every step, DeepSpeed's configuration, and the memory that both kinds of states take.

Pure functions of the recipe; knows nothing of models or of torch.
"""

import math
from typing import Any

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import UsageError

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""AdamW's, as in the paper's training script (its defaults in PyTorch)."""


LAYER = 12
"""Weights of a layer, in squares of the hidden size (Kaplan et al. 2020, arXiv 2001.08361, table 1)."""
LEAST_SENT, MOST_SENT = 50_000_000, 500_000_000
"""Numbers that are sent together, at the least and at the most; the most is DeepSpeed's usual."""


def learning_rate(config: Finetune, step: int, steps: int) -> float:
    """Of the update `step` (from 0) of `steps`: a linear warm-up, then the schedule. As `transformers.get_scheduler` but for
    the warm-up, which there begins with an update that changes nothing; here no update is wasted."""
    warm = math.ceil(steps * config.warmup)
    if step < warm:
        # begins above 0 and ends one step below the full rate, which the first update after the warm-up has
        return config.rate * (step + 1) / (warm + 1)
    through = (step - warm) / max(1, steps - warm)
    if config.schedule == "cosine":
        return config.rate * 0.5 * (1 + math.cos(math.pi * through))
    return config.rate * (1 - through if config.schedule == "linear" else 1)


def check_rates(config: Finetune, steps: int) -> None:
    """Refuse a training that would change nothing."""
    if not any(learning_rate(config, step, steps) > 0 for step in range(steps)):
        raise UsageError(
            f"none of the {steps:,} updates would have a learning rate above 0: raise finetune.learning_rate (now "
            f"{config.rate:g})"
        )


def weight_groups(config: Finetune, model: Any) -> list[dict[str, Any]]:
    """The weights that are trained, as an optimizer takes them: norms, biases and embeddings do not decay."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    if not config.weight_decay:
        return [{"params": [weight for _, weight in named]}]
    spared = _spared(model)
    groups = (
        ([weight for name, weight in named if (name in spared) is is_spared], 0.0 if is_spared else config.weight_decay)
        for is_spared in (False, True)
    )
    return [{"params": weights, "weight_decay": decay} for weights, decay in groups if weights]


def _spared(model: Any) -> set[str]:
    """Names of weights that do not decay: vectors (of norms and biases), and the tables that tokens are looked up in."""
    tables = {
        id(weight)
        for module in model.modules()
        if "embedding" in type(module).__name__.lower()
        for weight in module.parameters(recurse=False)
    }
    return {
        name
        for name, weight in model.named_parameters()
        # under ZeRO 3 a weight's own shape is that of its shard, and `ds_shape` the one that it has in the model
        if id(weight) in tables or len(getattr(weight, "ds_shape", weight.shape)) < 2
    }


def deepspeed_config(config: Finetune, *, universal: bool, hidden: int | None = None) -> dict[str, Any]:
    """What `deepspeed.initialize` is told. `universal`: a state of another number of workers will be loaded. `hidden`: the
    hidden size of a model that several GPUs train, for what they send each other.

    Updates have as many micro-batches as their examples need, so that it is the loop that says where one ends
    (`managed_gradient_accumulation`), and DeepSpeed's own counts of them mean nothing.
    """
    bf16 = config.precision == "bf16"
    adam: dict[str, Any] = {"lr": config.rate, "betas": BETAS, "eps": EPSILON, "weight_decay": config.weight_decay}
    if config.offload == "none":
        # PyTorch's own, in one pass over the states, on GPUs and CPUs; in the host's memory DeepSpeed's is faster
        adam |= {"torch_adam": True, "fused": True}
    # micro-batches of 1 and no accumulation are DeepSpeed's least; what an update holds is the loop's business
    found: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.max_grad_norm or 0.0,
        "bf16": {"enabled": bf16},
        "zero_optimization": zero(config) | ({} if hidden is None else traffic(config.zero_stage, hidden)),
        "optimizer": {"type": "AdamW", "params": adam},
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
    if bf16 and config.zero_stage > 0:
        # many micro-batches are added up, and in bf16 the later ones would vanish beside the sum
        found["data_types"] = {"grad_accum_dtype": "fp32"}
    if universal:
        # the form of a state that any number of workers can load
        found["checkpoint"] = {"load_universal": True}
    return found


def zero(config: Finetune) -> dict[str, Any]:
    """DeepSpeed's settings of what is spread over the workers, and of what is kept in the memory of the host."""
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.zero_stage == 3:
        # under ZeRO 3 no worker has all weights; the model that is written at the end needs them together
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    host = {"device": "cpu", "pin_memory": True}
    if config.offload != "none":
        zero["offload_optimizer"] = host
    if config.offload == "all":
        zero["offload_param"] = host
    return zero


def traffic(stage: int, hidden: int) -> dict[str, Any]:
    """How several GPUs send each other gradients and weights: while the backward pass goes on, and in pieces of about a layer.

    Larger pieces are no quicker and take memory twice; under ZeRO 3, which sends weights too, a piece is about a matrix (as
    transformers' `auto` has it, but no smaller than a connection is busy with)."""
    if stage == 0:
        return {}
    layer, matrix = LAYER * hidden**2, hidden**2
    if stage == 3:
        bucket = _within(matrix, LEAST_SENT // 4, MOST_SENT)
        ahead = {"stage3_prefetch_bucket_size": bucket * 9 // 10, "stage3_param_persistence_threshold": 10 * hidden}
        return {"overlap_comm": True, "reduce_bucket_size": bucket, **ahead}
    bucket = _within(layer, LEAST_SENT, MOST_SENT)
    # below stage 2 gradients are sent when the update is whole, beside which nothing is computed
    return {"overlap_comm": stage == 2, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}


def _within(size: int, least: int, most: int) -> int:
    return max(least, min(most, size))


def state_bytes(config: Finetune, parameters: int, trained: int, workers: int) -> int:
    """The least memory of one worker's device: its part of weights, gradients and AdamW's states (S. Rajbhandari et al.,
    "ZeRO", section 3.1, with gradients summed in float32). Activations come on top."""
    wide = 2 if config.precision == "bf16" else 4
    weights: float = parameters * wide
    gradients: float = trained * (wide if config.zero_stage == 0 else 4)
    # two moments in float32, and in bf16 the weights in float32 besides, which the optimizer adds small updates to
    adam: float = trained * (12 if config.precision == "bf16" else 8)
    # stage 1 spreads the optimizer's states over the workers, stage 2 the gradients too, stage 3 the weights as well
    if config.zero_stage >= 1:
        adam /= workers
    if config.zero_stage >= 2:
        gradients /= workers
    if config.zero_stage == 3:
        weights /= workers
    if config.offload != "none":
        adam = 0
    if config.offload == "all":
        weights = 0
    return round(weights + gradients + adam)


def host_bytes(config: Finetune, parameters: int, trained: int, workers: int) -> int:
    """The least memory of the host that one worker's offloaded states take: AdamW's, a gradient in float32 and, on its way to
    the device, the weight; in bf16 18 bytes a parameter, spread over all workers. With `all` its part of the weights too."""
    if config.offload == "none":
        return 0
    wide = 2 if config.precision == "bf16" else 4
    adam = 12 if config.precision == "bf16" else 8
    weights = parameters * wide if config.offload == "all" else 0
    return math.ceil((trained * (adam + 4 + wide) + weights) / workers)
