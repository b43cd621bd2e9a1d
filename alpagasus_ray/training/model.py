"""The model that is trained: how it is loaded, what it can do, what a token costs it, how it is written.

Knows transformers, peft and DeepSpeed's sharded weights; knows nothing of data, runs or Ray.
"""

import inspect
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from alpagasus_ray.config import Finetune
from alpagasus_ray.datasets.templates import ALPACA_CHAT_TEMPLATE
from alpagasus_ray.errors import UsageError
from alpagasus_ray.training import attention

PAD = "[PAD]"
LARGEST_FILE = "5GB"


class Loaded(NamedTuple):
    """A model and what belongs to it."""

    model: Any
    tokenizer: Any
    slices: bool
    """Whether it takes `logits_to_keep`."""
    kind: str
    """Name of its attention."""


def dtype(config: Finetune) -> torch.dtype:
    """What it computes in."""
    return torch.bfloat16 if config.precision == "bf16" else torch.float32


def shape(config: Finetune) -> Any:
    """Its configuration. A `UsageError` tells of a model that is not there or no causal language model."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            str(config.model), revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise _unusable(config, error) from None


def _unusable(config: Finetune, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:300]
    return UsageError(
        f"finetune.model {config.model!r} cannot be loaded as a causal language model: {reason}. Give a Hugging Face id, or a "
        "directory with config.json, weights and tokenizer (without weights: finetune.from_scratch: true)"
    )


def sizes(config: Finetune, its_shape: Any) -> tuple[int, int]:
    """Parameters, and how many of them are trained; nothing is loaded for that."""
    with torch.device("meta"):
        model = _empty(config, its_shape)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return sum(parameter.numel() for parameter in model.parameters()), trained


def _empty(config: Finetune, its_shape: Any) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            its_shape, dtype=dtype(config), trust_remote_code=config.trust_remote_code, attn_implementation="eager"
        )
    except (ValueError, ImportError) as error:
        raise _unusable(config, error) from None
    _check_apart(config, model)
    return _with_adapters(config, model)


def _check_apart(config: Finetune, model: Any) -> None:
    """In a pack it is attention alone that keeps examples apart: a state that goes from token to token does not, nor does an
    attention that takes no other in its place."""
    is_recurrent = model._is_stateful or "linear_attention" in (getattr(model.config, "layer_types", None) or ())  # noqa: SLF001 - transformers' own word for it
    if config.packing and (is_recurrent or not model._supports_attention_backend):  # noqa: SLF001 - as above
        raise UsageError(
            f"finetune.packing: layers of {config.model!r} ({model.config.model_type}) would carry what one example of a pack "
            "says into the next; set finetune.packing: false"
        )


def attention_kind(config: Finetune, *, on_gpu: bool) -> str:
    """Which attention computes, by what is asked for and what is there."""
    flash = on_gpu and config.precision == "bf16" and find_spec("flash_attn") is not None
    if config.attention == "flash_attention_2" and not flash:
        raise UsageError(
            "finetune.attention = flash_attention_2 needs the package flash-attn, a GPU and `precision: bf16`; set it to auto"
        )
    if config.attention != "sdpa" and flash:
        return "flash_attention_2"
    return attention.PACKED if config.packing else "sdpa"


def load(config: Finetune, its_shape: Any, tokenizer: Any, *, on_gpu: bool) -> Loaded:
    """The model with its weights in host memory, or sharded over the workers where DeepSpeed was told of ZeRO-3 before."""
    attention.register()
    kind = attention_kind(config, on_gpu=on_gpu)
    _check_packable(config, its_shape, kind)
    torch.manual_seed(config.seed)
    model = _weights(config, its_shape, kind)
    _add_pad(model, tokenizer)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if config.lora:
            model.enable_input_require_grads()
    model.config.use_cache = False
    slices = "logits_to_keep" in inspect.signature(model.forward).parameters
    return Loaded(_with_adapters(config, model), tokenizer, slices, kind)


def _weights(config: Finetune, its_shape: Any, kind: str) -> Any:
    from transformers import AutoModelForCausalLM

    told = {"dtype": dtype(config), "attn_implementation": kind, "trust_remote_code": config.trust_remote_code}
    try:
        if config.from_scratch:
            return AutoModelForCausalLM.from_config(its_shape, **told)  # type: ignore[no-untyped-call]
        return AutoModelForCausalLM.from_pretrained(str(config.model), revision=config.revision, **told)
    except (OSError, ValueError, ImportError) as error:
        raise _unusable(config, error) from None


def _check_packable(config: Finetune, its_shape: Any, kind: str) -> None:
    """The attention of packs is plain causal attention."""
    if kind != attention.PACKED:
        return
    window = getattr(its_shape, "sliding_window", None)
    if window is not None and getattr(its_shape, "use_sliding_window", True) and window < config.max_length:
        raise UsageError(
            f"finetune.packing: {config.model!r} looks back {window} tokens only, fewer than max_length = {config.max_length}; "
            "set finetune.packing: false"
        )
    if getattr(its_shape, "attn_logit_softcapping", None):
        raise UsageError(f"finetune.packing: the attention of {config.model!r} caps its logits; set finetune.packing: false")


def _add_pad(model: Any, tokenizer: Any) -> None:
    """A tokenizer without a padding token gets one, whose vectors are the mean of all others (tatsu-lab/stanford_alpaca,
    `train.py`, smart_tokenizer_and_embedding_resize)."""
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    model.config.pad_token_id = tokenizer.pad_token_id
    if model.generation_config is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    with _gathered(model.get_input_embeddings().weight):
        known = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) <= known:
        return
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if layer is not None:
            with torch.no_grad(), _gathered(layer.weight):
                layer.weight[known:] = layer.weight[:known].mean(dim=0, keepdim=True)


def _gathered(weight: torch.nn.Parameter) -> AbstractContextManager[Any]:
    """A weight as a whole, wherever its parts are; what is written to it stays."""
    if not hasattr(weight, "ds_id"):
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters([weight], modifier_rank=0)
    return gathered


def _with_adapters(config: Finetune, model: Any) -> Any:
    if config.lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    targets = config.lora.targets if isinstance(config.lora.targets, str) else list(config.lora.targets)
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=targets,
    )
    try:
        return get_peft_model(model, settings, autocast_adapter_dtype=False)
    except ValueError as error:
        raise UsageError(f"finetune.lora.targets = {targets}: {' '.join(str(error).split())[:300]}") from None


class Flops(NamedTuple):
    """Operations of forward and backward pass together (A. Chowdhery et al., "PaLM", appendix B, attention counted causally).
    A weight that is not trained needs no gradient of its own: 4 operations a token instead of 6."""

    a_token: float
    """In the layers."""
    a_label: float
    """In the output layer, which is computed where there is a label."""
    a_square: float
    """In attention, times the square of an example's length."""

    def of(self, tokens: int, labels: int, squares: int) -> float:
        """Of so many tokens, label tokens and squared lengths."""
        return self.a_token * tokens + self.a_label * labels + self.a_square * squares


def flops(its_shape: Any, parameters: int, trained: int) -> Flops:
    """What a model of this shape computes."""
    output = its_shape.vocab_size * its_shape.hidden_size
    embeddings = output if getattr(its_shape, "tie_word_embeddings", False) else 2 * output
    in_layers = parameters - embeddings
    share = trained / parameters
    each = 4 + 2 * min(1.0, share)
    heads = its_shape.num_attention_heads
    width = heads * (getattr(its_shape, "head_dim", None) or its_shape.hidden_size // heads)
    return Flops(each * in_layers, each * output, 6 * its_shape.num_hidden_layers * width)


def weights_of(engine: Any, config: Finetune) -> dict[str, torch.Tensor] | None:
    """All weights in host memory on the first worker, None on the others; every worker has to call it."""
    if config.zero_stage == 3:
        found: dict[str, torch.Tensor] | None = engine._zero3_consolidated_16bit_state_dict()  # noqa: SLF001 - what DeepSpeed's own `save_16bit_model` writes to a file of another format
        return found
    if engine.global_rank != 0:
        return None
    return {name: weight.detach().cpu() for name, weight in engine.module.state_dict().items()}


def write(config: Finetune, loaded: Loaded, weights: dict[str, torch.Tensor], ends: set[int], folder: str) -> None:
    """Write what `from_pretrained` and vLLM open: weights (adapters merged), configuration, tokenizer, chat template. `ends`
    are the tokens that it has learned to end with: those that stop it from now on."""
    model = loaded.model
    _stop_at(ends, loaded)
    if config.lora is not None:
        model, weights = _merged(config, model, weights)
    model.config.use_cache = True
    model.save_pretrained(folder, state_dict=weights, max_shard_size=LARGEST_FILE)
    if config.template == "alpaca":
        begins = loaded.tokenizer("").input_ids[:1] == [loaded.tokenizer.bos_token_id]
        loaded.tokenizer.chat_template = ("{{- bos_token }}" if begins else "") + ALPACA_CHAT_TEMPLATE
    loaded.tokenizer.save_pretrained(folder)


def _stop_at(ends: set[int], loaded: Loaded) -> None:
    """A base model knows the end of a text; a chat template ends turns with another token."""
    tokenizer, its_config = loaded.tokenizer, loaded.model.config
    new = sorted(ends - {tokenizer.eos_token_id})
    if not new:
        return
    stops = [*new, tokenizer.eos_token_id]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(new[0])
    its_config.eos_token_id = stops
    if loaded.model.generation_config is not None:
        loaded.model.generation_config.eos_token_id = stops


def _merged(config: Finetune, model: Any, weights: dict[str, torch.Tensor]) -> tuple[Any, dict[str, torch.Tensor]]:
    """The adapters added to the weights, by an empty twin of the model that takes them over."""
    its_shape = model.get_base_model().config
    with torch.device("meta"):
        twin = _empty(config, its_shape)
    twin.load_state_dict(weights, strict=False, assign=True)
    merged = twin.merge_and_unload()
    merged.generation_config = model.get_base_model().generation_config
    return merged, merged.state_dict()
