"""The knobs of training: one model, one way to train it, the same for every arm.

OPERATIONAL fields decide how the work is spread and timed, not what is learned. A model that is packed, or sharded over another
number of workers, is the same model up to the order of float additions (`docs/finetune.md`).
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from alpagasus_ray.config.base import OPERATIONAL, Labels, Name, Section, Share, ordered

Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flash_attention_4"]
LEARNING_RATE, LORA_LEARNING_RATE = 2e-5, 2e-4
"""The paper's, and the one that adapters usually need (ten times as much, as they begin at nothing)."""
Recomputed = Literal["auto", "none", "attention", "full"]
Trainer = Literal["axolotl", "llama-factory", "trl"]
Workers = PositiveInt | Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(ordered)]


def _recomputed(given: Any) -> Any:
    """As it was said before there were more than two kinds."""
    return {True: "full", False: "none"}.get(given, given) if isinstance(given, bool) else given


class Lora(Section):
    """Train low-rank adapters in place of the weights (through `peft`); what is written is the merged model."""

    stated = frozenset({"rank", "alpha", "dropout", "targets"})

    rank: PositiveInt = 8
    """Rank of the adapters."""
    alpha: PositiveInt = 16
    """Their scale is alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of an adapter's inputs that is left out at random; adapters of experts have none."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the modules that get adapters, e.g. `[q_proj, v_proj]`, or every linear layer but the output's."""


class Checkpoints(Section):
    """When the state is saved that a stopped training goes on from. The newest is kept until the next is whole."""

    every_steps: PositiveInt | None = None
    """After so many steps; null leaves it to the time."""
    every_minutes: PositiveFloat | None = 10.0
    """After so many minutes of training; null leaves it to the steps."""


class Finetune(Section):
    """`jobs/finetune.py`: train a model on every arm."""

    model_config = ConfigDict(serialize_by_alias=True)

    stated = frozenset(
        "model revision trust_remote_code from_scratch template chat_template_kwargs max_length too_long epochs steps "
        "global_batch learning_rate schedule warmup weight_decay max_grad_norm precision zero_stage lora seed".split()
    )

    model: str | None = None
    """What is trained: a Hugging Face id, or a directory with config.json, weights and tokenizer."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id."""
    trust_remote_code: bool = False
    """Run the model's own code."""
    from_scratch: bool = False
    """Start from random weights (by `seed`) of the shape that config.json says; the directory then needs no weights."""
    arms: tuple[Name, ...] = ()
    """Which arms to train on; all of `pick.arms` unless given."""
    trainer: Trainer | None = Field(default=None, alias="with")
    """Another trainer: nothing is trained here, and each arm's data and configuration for it are written to
    `trainers/<with>/<arm>/`, with what it does otherwise (docs/trainers.md)."""
    checkpoints: Annotated[dict[Name, str], OPERATIONAL] = {}
    """Models that were trained elsewhere: the directory of an arm's checkpoint, e.g. `{selected: /out/selected}`; it is what
    answers under the arm's name."""
    template: Literal["alpaca", "chat"] = "alpaca"
    """The text around an example: that of Alpaca's models, or the model's own chat template."""
    chat_template_kwargs: dict[str, Any] = {}
    """For `chat`: what the template is told besides, e.g. `{enable_thinking: false}`."""
    max_length: Annotated[int, Field(ge=8)] = 512
    """Longest example in tokens, prompt and response (the paper's 512)."""
    too_long: Literal["cut", "drop"] = "cut"
    """Examples that are longer: `cut` at the end, as Alpaca did, or `drop`."""
    epochs: PositiveFloat | None = None
    """How often every example is seen; 3 unless `epochs` or `steps` is given."""
    steps: PositiveInt | None = None
    """In place of `epochs`: how many updates, whatever the size of the arm (the control of equal training length)."""
    global_batch: PositiveInt = 128
    """Examples in one update, over all workers, packed or not."""
    learning_rate: PositiveFloat | None = None
    """The highest learning rate, reached at the end of the warm-up; 2e-5 unless given, and 2e-4 with `lora`."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up, to 0."""
    warmup: Share = 0.03
    """Share of the steps in which the learning rate rises; the first of them learns already."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay; norms, biases and embeddings have none."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Gradients of a larger norm are scaled down to it; null does not."""
    precision: Literal["bf16", "float32"] = "bf16"
    """What is computed in; with `bf16` the optimizer keeps weights in float32, and gradients are summed in it (ZeRO 1 to 3)."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """What DeepSpeed spreads over the workers: 0 nothing, 1 optimizer states, 2 gradients too, 3 weights too."""
    lora: Lora | None = None
    """Train adapters only, e.g. `{rank: 8}`."""
    heldout: str | None = None
    """Examples held out from every arm, in any format that `ingest.source` takes (a path); before and after training, the loss
    over their responses is measured."""
    heldout_every: Annotated[PositiveInt | None, OPERATIONAL] = None
    """Measure it after every so many updates as well."""
    keep: Literal["last", "best"] = "last"
    """Which weights become the model: those after the last update, or those whose held-out loss was the lowest of all that
    `heldout_every` measured."""
    seed: int = 0
    """Decides the order of the examples, dropout and random weights."""
    packing: Annotated[bool, OPERATIONAL] = True
    """Put several examples into one row, each seeing itself alone; no time is spent on padding."""
    pack_tokens: Annotated[PositiveInt | Literal["auto"], OPERATIONAL] = 2048
    """With packing: most tokens in one forward pass of a worker; `auto`: as many as the GPU's memory has room for."""
    micro_batch: Annotated[PositiveInt, OPERATIONAL] = 4
    """Without packing: examples in one forward pass of a worker, padded to the longest."""
    pad_to_max: Annotated[bool, OPERATIONAL] = False
    """Without packing: pad to `max_length`; as slow as the recipes that do it."""
    attention: Annotated[Attention, OPERATIONAL] = "auto"
    """`auto`: the flash-attn package where it is installed and can run, else PyTorch's own attention, and without packing the
    model's own code (`eager`) where its class has no other."""
    logits: Annotated[Literal["auto", "whole", "pieces", "liger"], OPERATIONAL] = "auto"
    """The loss by whole logits or piece by piece. `auto`: in pieces where whole ones would take more than 256 MiB and the
    output layer is known to be a plain one, by the package liger-kernel where that and a GPU are there."""
    gradient_checkpointing: Annotated[Recomputed, BeforeValidator(_recomputed), OPERATIONAL] = "auto"
    """What is computed again in the backward pass to save memory: `none`; `attention` alone; `full`, every layer, for about a
    third more time. `auto`: the first of these for which the GPU has room, and `none` on a CPU. (Earlier: `true`, `false`.)"""
    offload: Annotated[Literal["none", "optimizer", "all"], OPERATIONAL] = "none"
    """Keep the optimizer's states (ZeRO 2, 3), or weights too (ZeRO 3), in the memory of the host."""
    workers: Annotated[Workers | None, OPERATIONAL] = None
    """Training processes: one a GPU, and all GPUs unless given (1 without GPUs); `[2, 8]` takes what the cluster has."""
    gpu: Annotated[bool | None, OPERATIONAL] = None
    """Whether workers need a GPU; by default where the cluster has one."""
    cpus: Annotated[PositiveInt, OPERATIONAL] = 1
    """CPUs of each worker."""
    labels: Annotated[Labels | None, OPERATIONAL] = None
    """Labels of the nodes that they run on; where the cluster has pools (`cluster/`), besides that of the training pool, unless
    `ray-subcluster` names another."""
    checkpoint: Annotated[Checkpoints, OPERATIONAL] = Checkpoints()
    """When the state is saved."""
    max_failures: Annotated[int, Field(ge=0), OPERATIONAL] = 3
    """How often a lost worker or node is replaced in one call before it fails; preemptions that were announced do not count."""
    price_per_gpu_hour: Annotated[float | None, Field(ge=0), OPERATIONAL] = None
    """US dollars for one GPU and hour (without GPUs: for one worker and hour), for the cost of the training."""
    peak_tflops: Annotated[PositiveFloat | None, OPERATIONAL] = None
    """Peak of one GPU in 10^12 dense operations a second, for the utilisation (MFU); known GPUs need none."""
    tensorboard: Annotated[bool, OPERATIONAL] = True
    """Write the curve for TensorBoard too."""
    wandb: Annotated[str | None, OPERATIONAL] = None
    """Project at Weights & Biases to send the curve to; its key comes from the environment (`WANDB_API_KEY`)."""

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return LEARNING_RATE if self.lora is None else LORA_LEARNING_RATE

    @property
    def least_pack(self) -> int:
        """Most tokens of a pack; of `auto` what is taken where nobody knows of memory."""
        return max(2048, self.max_length) if self.pack_tokens == "auto" else self.pack_tokens

    @model_validator(mode="after")
    def _fits(self) -> "Finetune":
        if self.epochs is not None and self.steps is not None:
            raise ValueError("`epochs` and `steps` exclude each other: give one")
        if self.packing and self.pack_tokens != "auto" and self.pack_tokens < self.max_length:
            raise ValueError(f"`pack_tokens` = {self.pack_tokens} cannot hold an example of `max_length` = {self.max_length}")
        if self.pad_to_max and self.packing:
            raise ValueError("`pad_to_max` pads rows, and `packing` leaves nothing to pad; set `packing: false`")
        if self.packing and self.attention == "eager":
            raise ValueError(
                "`attention: eager` computes padded rows, and packs have an attention of their own; set `packing: false`"
            )
        if self.heldout_every is not None and self.heldout is None:
            raise ValueError("`heldout_every` measures the loss over `heldout`, which is not given; name a file of examples")
        if self.keep == "best" and self.heldout_every is None:
            raise ValueError("`keep: best` needs `heldout` and `heldout_every`, which tell what is best; or set `keep: last`")
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError(f"`offload: all` needs `zero_stage: 3`, which spreads the weights; it is {self.zero_stage}")
        if self.offload == "optimizer" and self.zero_stage < 2:
            raise ValueError(f"`offload: optimizer` needs `zero_stage` 2 or 3; it is {self.zero_stage}")
        if self.checkpoint.every_steps is None and self.checkpoint.every_minutes is None:
            raise ValueError("`checkpoint` needs `every_steps` or `every_minutes`: without a state nothing could go on")
        if len(set(self.arms)) < len(self.arms):
            raise ValueError("an arm is named twice in `arms`")
        return self
