"""The model that is trained: how it is loaded, and what is known of it before.

Knows transformers, peft and DeepSpeed's sharded weights; knows nothing of data, runs or Ray.
"""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import UsageError
from alpagasus_ray.training import attention, shapes
from alpagasus_ray.training.head import Head, choose

PAD = "[PAD]"
ADAPTER = "default"
"""The name that `peft` gives to the only one."""
ROWS = 64
"""A new vocabulary is a multiple of it, as GPUs like their matrices."""
EXPERTS, SHARED = ".experts.", ".shared_experts."
"""In the names of weights: experts among which a router chooses, and those that every token passes."""
MODELS_OWN = (RuntimeError, TypeError, AttributeError, LookupError, ArithmeticError)
"""What a model's code raises that was not written to be run without weights."""


class Loaded(NamedTuple):
    """A model and what belongs to it."""

    model: Any
    tokenizer: Any
    slices: bool
    """Whether it takes `logits_to_keep`."""
    kind: str
    """Name of the attention that computes."""
    own: str
    """Name of the attention that computes where there are no packs."""
    head: Head | None
    """The output layer where losses are computed without whole logits."""
    logits: str
    """How losses are computed from it, in words."""


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


class Has(NamedTuple):
    """Which attentions a model's class takes in place of its own code."""

    sdpa: bool = True
    """PyTorch's, where it computes all that its own does."""
    flash: bool = True


class Census(NamedTuple):
    """What an empty model of the same shape tells."""

    parameters: int
    trained: int
    routed: int
    """Weights of experts, of which a token passes some."""
    has: Has


ALL, NOTHING = Has(), Has(sdpa=False, flash=False)
"""The second of a model of which nothing is known: its own code is all."""


def sizes(config: Finetune, hf_config: Any) -> tuple[int, int]:
    """Parameters, and how many of them are trained; nothing is loaded for that."""
    found = census(config, hf_config)
    return (found.parameters, found.trained) if found else (0, 0)


def census(config: Finetune, hf_config: Any) -> Census | None:
    """What is known before anything is loaded; None where the model's code cannot be run without its weights. A `UsageError`
    tells of a model that cannot be trained, or not packed."""
    shapes.check(config, hf_config)
    try:
        # shapes without memory: a model of 70 billion weights is counted in a second on a laptop
        with torch.device("meta"):
            model = empty(config, hf_config)
    except MODELS_OWN:
        return None
    base = model.get_base_model() if config.lora else model
    return Census(
        *counted(model),
        has=Has(
            sdpa=bool(base._supports_sdpa) and not shapes.own_attention(shapes.text_of(hf_config)),  # noqa: SLF001 - transformers' own word for it
            flash=bool(base._supports_flash_attn),  # noqa: SLF001 - as above
        ),
    )


def counted(model: Any) -> tuple[int, int, int]:
    """Parameters, how many of them are trained, and how many are weights of experts."""
    named = [
        (name, getattr(weight, "ds_numel", weight.numel()), weight.requires_grad) for name, weight in model.named_parameters()
    ]
    return (
        sum(size for _, size, _ in named),
        sum(size for _, size, is_trained in named if is_trained),
        sum(size for name, size, _ in named if EXPERTS in name and SHARED not in name),
    )


def empty(config: Finetune, hf_config: Any) -> Any:
    """The same model without weights where the default device is `meta`, adapters on it."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            hf_config, dtype=dtype(config), trust_remote_code=config.trust_remote_code, attn_implementation="eager"
        )
    except (ValueError, ImportError) as error:
        raise _unusable(config, error) from None
    _check_apart(config, model)
    _freeze_other_senses(model)
    return _with_adapters(config, model)


def _check_apart(config: Finetune, model: Any) -> None:
    """In a pack it is attention alone that keeps examples apart: a state that goes from token to token does not, nor does an
    attention that takes no other in its place."""
    if not config.packing:
        return
    why = shapes.why_not_packed(model.config, config.max_length)
    if why is None and model._is_stateful:  # noqa: SLF001 - transformers' own word for it
        why = "layers with a state"
    takes_another = model._supports_sdpa or shapes.text_of(model.config).model_type in shapes.CAPPED  # noqa: SLF001 - as above
    if why is None and not (model._supports_attention_backend and takes_another):  # noqa: SLF001 - as above
        why = "an attention that takes no other in its place"
    if why is not None:
        raise UsageError(
            f"finetune.packing: layers of {config.model!r} ({shapes.text_of(model.config).model_type}) are not known to keep "
            f"examples of a pack apart: it has {why}; set finetune.packing: false"
        )


def _freeze_other_senses(model: Any) -> None:
    """Where the language model is a part of one that also sees or hears, only that part learns: text has nothing to tell the
    others."""
    if shapes.text_of(model.config) is model.config:
        return
    parts = [model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()]
    texts = {id(weight) for part in parts if part is not None for weight in part.parameters()}
    for weight in model.parameters():
        if id(weight) not in texts:
            weight.requires_grad_(False)


def attention_kind(config: Finetune, *, on_gpu: bool, has: Has = ALL) -> str:
    """Which attention computes, by what is asked for, what is installed and what the model's class has."""
    if config.attention in attention.FLASH:
        attention.check_flash(config, on_gpu=on_gpu, has_flash=has.flash)
        return config.attention
    if config.attention == "eager":
        return "eager"
    flash = attention.quickest_flash(config, on_gpu=on_gpu) if config.attention == "auto" and has.flash else None
    if flash is not None:
        return flash
    if config.packing:
        return attention.PACKED
    if config.attention == "sdpa" and not has.sdpa:
        raise UsageError(
            f"finetune.attention = sdpa: the class of finetune.model {config.model!r} does not have it, or not all of its own "
            "attention; set finetune.attention: eager"
        )
    return "sdpa" if has.sdpa else "eager"


def load(config: Finetune, hf_config: Any, tokenizer: Any, *, on_gpu: bool, has: Has | None = None) -> Loaded:
    """The model with its weights in host memory, or sharded over the workers where DeepSpeed was told of ZeRO-3 before;
    what its class `has` is the census's to say, and to be given where none can be taken any more."""
    attention.register()
    if has is None:
        known = census(config, hf_config)
        has = known.has if known else NOTHING
    kind = attention_kind(config, on_gpu=on_gpu, has=has)
    torch.manual_seed(config.seed)
    model = _weights(config, hf_config, kind)
    _check_apart(config, model)
    _freeze_other_senses(model)
    _add_pad(model, tokenizer)
    if config.gradient_checkpointing == "attention":
        attention.compute_again(config, model)
    if config.gradient_checkpointing == "full":
        # the reentrant form gives no gradients where the first layer's input needs none, as with frozen embeddings
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if config.lora:
            model.enable_input_require_grads()
    # keys and values are kept for generating; in a training they only take memory
    shapes.text_of(model.config).use_cache = model.config.use_cache = False
    slices = "logits_to_keep" in inspect.signature(model.forward).parameters
    own = ("sdpa" if has.sdpa else "eager") if kind == attention.PACKED else kind
    model = _with_adapters(config, model)
    return Loaded(model, tokenizer, slices, kind, own, *choose(config, model, on_gpu=on_gpu))


def _weights(config: Finetune, hf_config: Any, kind: str) -> Any:
    from transformers import AutoModelForCausalLM

    told = {"dtype": dtype(config), "attn_implementation": kind, "trust_remote_code": config.trust_remote_code}
    try:
        if config.from_scratch:
            return AutoModelForCausalLM.from_config(hf_config, **told)  # type: ignore[no-untyped-call]
        return AutoModelForCausalLM.from_pretrained(str(config.model), revision=config.revision, **told)
    except (OSError, ValueError, ImportError) as error:
        raise _unusable(config, error) from None


def _add_pad(model: Any, tokenizer: Any) -> None:
    """A tokenizer without a padding token takes one that is there for nothing else, or gets a new one, whose vectors are the
    mean of all others (tatsu-lab/stanford_alpaca, `train.py`, smart_tokenizer_and_embedding_resize), in a vocabulary of a
    multiple of `ROWS`."""
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": _pad_of(model, tokenizer) or PAD})
    for its_config in (model.config, shapes.text_of(model.config), model.generation_config):
        if its_config is not None:
            its_config.pad_token_id = tokenizer.pad_token_id
    # under ZeRO 3 the shape of a weight is 0 until its parts are gathered
    with _gathered(model.get_input_embeddings().weight):
        known = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) <= known:
        return
    # without transformers' own mean, which takes a covariance of the whole table; the plain mean is written below
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=ROWS, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if layer is not None:
            with torch.no_grad(), _gathered(layer.weight):
                layer.weight[known:] = layer.weight[:known].mean(dim=0, keepdim=True)


def _pad_of(model: Any, tokenizer: Any) -> str | None:
    """A token of the vocabulary to pad with: the one that the model's configuration names, one that says so, or the one for
    what is not known; none that begins or ends a text."""
    named = shapes.text_of(model.config).pad_token_id
    ends = {tokenizer.eos_token, tokenizer.bos_token, None}
    found = [tokenizer.convert_ids_to_tokens(named)] if isinstance(named, int) and 0 <= named < len(tokenizer) else []
    found += [
        token.content for token in tokenizer.added_tokens_decoder.values() if token.special and "pad" in token.content.lower()
    ]
    found.append(tokenizer.unk_token)
    return next((token for token in found if token not in ends), None)


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
        lora_dropout=0.0,
        target_modules=targets,
    )
    try:
        # in the model's own number format: by itself peft makes adapters float32 in a bf16 model
        adapted = get_peft_model(model, settings, autocast_adapter_dtype=False)
    except ValueError as error:
        raise UsageError(f"finetune.lora.targets = {targets}: {' '.join(str(error).split())[:300]}") from None
    _leave_out(adapted, config.lora.dropout)
    return adapted


def _leave_out(adapted: Any, share: float) -> None:
    """Give every adapter its dropout but those of experts, whose inputs are not their own to leave out: they have none."""
    from peft.tuners.lora import LoraLayer, ParamWrapper

    layers = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    plain = [layer for layer in layers if not isinstance(layer, ParamWrapper)]
    for layer in plain:
        layer.lora_dropout[ADAPTER] = torch.nn.Dropout(share) if share else torch.nn.Identity()
    if len(plain) == len(layers):  # with a share `peft` would refuse to open those of experts
        adapted.peft_config[ADAPTER].lora_dropout = share
