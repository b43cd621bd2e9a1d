"""What a model's configuration says of it before a weight is there: text part, layers, reach, costs.

Layers are decided by what is allowed: a kind of layer, or a family of models, that nobody has looked at is not packed. Knows
configurations of transformers by their fields; knows nothing of torch, data or Ray.
"""

from typing import Any, NamedTuple

from alpagasus_ray.config import Finetune
from alpagasus_ray.errors import UsageError

FULL, SLIDING = "full_attention", "sliding_attention"
"""Names of transformers for the kinds of layers whose attention packs can compute."""
PLAIN = frozenset(
    """
    apertus arcee aria_text axk1 bitnet cohere deepseek_v2 deepseek_v3 diffllama ernie4_5 ernie4_5_moe flex_olmo gemma glm
    glm4 glm4_moe glm4_moe_lite gpt2 gpt_bigcode gpt_neox granite granitemoe granitemoeshared helium hunyuan_v1_dense
    hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe llama longcat_flash minicpm3 minimax_m2 ministral3
    mistral mixtral nanochat olmo olmo2 olmoe opt persimmon phi phi3 phimoe qwen3_moe seed_oss solar_open starcoder2 youtu
    """.split()
)
"""Families whose configuration does not name the kinds of its layers, and which are all full attention (or sliding, by
`sliding_window`): each was seen to have the same loss packed and alone."""
WINDOWED = frozenset(
    """
    cohere2 exaone4 gemma2 gemma3 gemma3_text gemma4 gemma4_text ministral mistral mixtral olmo3 phi3 qwen2 qwen3 starcoder2
    """.split()
)
"""Families that tell their attention of its window; each was seen to have the same loss packed and alone where examples outgrow
it. Others (phimoe) leave it to a mask, which packs have none of."""
CAPPED = frozenset({"gemma2"})
"""Families that tell their attention of the cap on its scores, and were seen so."""
ENCODERS_OUT = {"gpt_neox", "gpt_neox_japanese"}
"""Families that write `is_decoder: false` and yet look back only."""
HEADS = frozenset(
    """
    apertus arcee deepseek_v2 deepseek_v3 ernie4_5 ernie4_5_moe gemma gemma3 gemma3_text gemma4 gemma4_text glm glm4 glm4_moe
    gpt2 gpt_bigcode gpt_neox helium llama mistral mixtral olmo olmo2 olmo3 olmoe opt phi phi3 phimoe qwen2 qwen2_moe qwen3
    qwen3_moe seed_oss smollm3 starcoder2
    """.split()
)
"""Families whose logits are one product with a matrix; each was seen to have the same loss in pieces and whole."""
AFTER = ("final_logit_softcapping", "logit_scale", "logits_scaling", "logits_soft_cap", "lm_head_multiplier")
"""Names of configurations for what is done to logits after that product."""
SEVERAL = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
"""Names of configurations for how many experts there are, and how many of them a token passes."""


def text_of(hf_config: Any) -> Any:
    """The part of a configuration that describes the language model; models that also see or hear nest it."""
    get = getattr(hf_config, "get_text_config", None)
    return hf_config if get is None else get(decoder=True)


def check(config: Finetune, hf_config: Any) -> None:
    """Refuse what its configuration already rules out, packed or not."""
    text = text_of(hf_config)
    if _looks_ahead(text):
        raise UsageError(
            f"finetune.model {config.model!r} ({text.model_type}) is no causal language model: its tokens see those that come "
            "after them, so that it would learn to copy, not to answer. Give a model that writes text (a decoder)"
        )
    reach = number(text, "max_position_embeddings")
    if reach is not None and reach < config.max_length:
        raise UsageError(
            f"finetune.max_length = {config.max_length}, and finetune.model {config.model!r} has positions for {reach} tokens; "
            f"set finetune.max_length: {reach}, or less"
        )


def number(text: Any, name: str) -> int | None:
    """A size above 0 that a configuration has under this name, the smallest where layers differ; None where it has none."""
    try:
        values = [getattr(text, name, None)]
    except RuntimeError:  # it differs by layer, or (a NotImplementedError, as XLNet's) is not there
        values = [getattr(layer, name, None) for layer in getattr(text, "per_layer_config", ())]
    return min((value for value in values if isinstance(value, int) and value > 0), default=None)


def _looks_ahead(text: Any) -> bool:
    if getattr(text, "is_decoder", None) is False and text.model_type not in ENCODERS_OUT:
        return True
    return getattr(text, "use_bidirectional_attention", None) in (True, "all") or getattr(text, "is_causal", None) is False


def why_not_packed(hf_config: Any, max_length: int) -> str | None:
    """What in a configuration keeps examples of a pack from being kept apart, or is not known to keep them; None where all
    layers are full attention, or sliding with a window of at least `max_length` or of a family in `WINDOWED`."""
    text = text_of(hf_config)
    kinds = set(getattr(text, "layer_types", None) or ())
    others = sorted(map(str, kinds - {FULL, SLIDING}))
    if others:
        return f"layers of the kind {', '.join(others)}"
    if not kinds and getattr(text, "model_type", None) not in PLAIN:
        return "layers of which its configuration does not say what they are"
    window = _window(text, kinds)
    if window is not None and window < max_length and text.model_type not in WINDOWED:
        return f"a window: it looks back {window} tokens only, fewer than max_length = {max_length}"
    if own_attention(text) and text.model_type not in CAPPED:
        return f"an attention of its own ({own_attention(text)})"
    return None


def _window(text: Any, kinds: set[str]) -> int | None:
    is_used = SLIDING in kinds if kinds else getattr(text, "use_sliding_window", True)
    return number(text, "sliding_window") if is_used else None


def own_attention(text: Any) -> str | None:
    """What its attention adds to the scores that only its own (`eager`) computes."""
    return "attn_logit_softcapping" if getattr(text, "attn_logit_softcapping", None) else None


def why_whole_logits(hf_config: Any) -> str | None:
    """What in a configuration is not known to be an output layer of one matrix; None where all is."""
    if hf_config.model_type not in HEADS:
        return f"a family ({hf_config.model_type}) whose logits nobody has looked at"
    after = next((name for name in AFTER if getattr(text_of(hf_config), name, None) not in (None, 1)), None)
    return None if after is None else f"logits that are changed after the output layer ({after})"


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


def flops(hf_config: Any, parameters: int, trained: int, routed: int = 0) -> Flops | None:
    """What a model of this shape computes; of its `routed` weights, those of experts, a token passes a share. None where the
    configuration does not say enough: no training is stopped for that."""
    text = text_of(hf_config)
    vocabulary, hidden = number(text, "vocab_size"), number(text, "hidden_size")
    layers, heads = number(text, "num_hidden_layers"), number(text, "num_attention_heads")
    share = _share(text) if routed else 1.0
    if vocabulary is None or hidden is None or layers is None or heads is None or share is None:
        return None
    output = vocabulary * hidden
    embeddings = output if getattr(text, "tie_word_embeddings", False) else 2 * output
    in_layers = parameters - embeddings - routed * (1 - share)
    each = 4 + 2 * min(1.0, trained / parameters)
    width = heads * (number(text, "head_dim") or hidden // heads)
    return Flops(each * in_layers, each * output, 6 * layers * width)


def _share(text: Any) -> float | None:
    """Of the experts, those that a token passes."""
    several, chosen = (next(filter(None, (number(text, name) for name in names)), None) for names in (SEVERAL, CHOSEN))
    return None if several is None or chosen is None else min(1.0, chosen / several)
