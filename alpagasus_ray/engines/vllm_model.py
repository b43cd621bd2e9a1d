"""What vLLM is started with, and what a prompt becomes for it: settings, tokenizer, chat template, context.

All that can be wrong with a model is told here, before an engine starts. Knows nothing of replies.
"""

import json
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jinja2

from alpagasus_ray import extras
from alpagasus_ray.config import PLAIN, EngineConfig
from alpagasus_ray.engines.base import EMPTY, Message
from alpagasus_ray.engines.messages import merged as _merged
from alpagasus_ray.engines.tokens import control_marks, disarmed, load_tokenizer
from alpagasus_ray.errors import EngineUnusable, RowRefused, UsageError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

SHORTEST_REPLY = 8
"""Tokens of the context that a prompt has to leave: a score and the end of its line, in any tokenizer."""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM can make room for."""
CPU_MEMORY = "VLLM_CPU_KVCACHE_SPACE"
CAUSE = re.compile(r"\b(\w*(?:Error|Exception)): (.+)")
OUT_OF_MEMORY = re.compile(r"memory|KV cache|cache blocks", re.IGNORECASE)
BUSY = "less than desired"
"""What vLLM says of a GPU whose memory others hold."""
LONGEST_CAUSE = 400


def vllm_config(config: EngineConfig) -> "VllmConfig":
    """What vLLM makes of the settings. A `UsageError` tells what of the model or of them it does not take."""
    # vLLM for CPUs takes this from the environment alone, and reads it when the configuration is made
    os.environ.setdefault(CPU_MEMORY, str(config.vllm.kv_cache_gib))
    try:
        from vllm import AsyncEngineArgs
        from vllm.exceptions import VLLMError
    except ModuleNotFoundError as missing:
        raise UsageError(
            f"{config.where}: a model in the job needs vLLM where it runs, and {missing.name} is not installed there: "
            f"{extras.advice('vllm')}"
        ) from None
    try:
        return AsyncEngineArgs(**_arguments(config)).create_engine_config()
    except RuntimeError as error:  # it finds no device that it was built for
        raise UsageError(
            f"{config.where}: vLLM finds no device to run on here: {' '.join(str(error).split())[:LONGEST_CAUSE]}. "
            f"{config.where}.vllm.gpu says whether engines go where GPUs are; the build for CPUs is make install EXTRA=cpu"
        ) from None
    except (OSError, ValueError, TypeError, ImportError, VLLMError) as error:
        name, reason = config.model, " ".join(str(error).split())[:LONGEST_CAUSE]
        raise UsageError(
            f"{config.where}: {name!r} cannot be loaded as a model: {reason}. Give a Hugging Face id, or a directory with "
            f"config.json, weights and tokenizer; settings for it are in {config.where}.vllm"
        ) from None


def _arguments(config: EngineConfig) -> dict[str, Any]:
    asked = config.vllm
    arguments: dict[str, Any] = {
        "model": config.model,
        "revision": asked.revision,
        "dtype": asked.dtype,
        "quantization": asked.quantization,
        "trust_remote_code": asked.trust_remote_code,
        "max_model_len": asked.max_model_len,
        "tensor_parallel_size": asked.tensor_parallel,
        "gpu_memory_utilization": asked.gpu_memory_utilization,
        "max_num_seqs": asked.max_num_seqs,
        "enforce_eager": asked.enforce_eager,
        "generation_config": "vllm",  # what a checkpoint recommends for sampling is not what the recipe says
        # all prompts of a stage begin with the same rubric, which is computed once so
        "enable_prefix_caching": True,
        "disable_log_stats": True,
    }
    if asked.tensor_parallel > 1:
        arguments["distributed_executor_backend"] = "mp"  # the GPUs are this actor's; Ray has placed it
    if asked.lora is not None:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _lora_rank(config, asked.lora)}
    return arguments | asked.extra


def _lora_rank(config: EngineConfig, lora: str) -> int:
    """The smallest rank that vLLM can make room for and that the adapter fits."""
    from transformers.utils.hub import cached_file

    try:
        with open(str(cached_file(lora, "adapter_config.json")), encoding="utf-8") as stream:
            rank = int(json.load(stream)["r"])
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{config.where}.vllm.lora {lora!r} is no LoRA adapter: {' '.join(str(error).split())[:200]}"
        ) from None
    # vLLM sets room aside for adapters by rank, in these steps only
    fit = next((room for room in LORA_RANKS if room >= rank), None)
    if fit is None:
        raise UsageError(f"{config.where}.vllm.lora {lora!r} has rank {rank}; vLLM takes at most {LORA_RANKS[-1]}")
    return fit


class Prompts:
    """Turns messages into token ids of one model."""

    def __init__(self, config: EngineConfig, context: int) -> None:
        assert config.model is not None, "checked by the stage"
        self._where, self._model = config.where, config.model
        self.context = context
        options = {"revision": config.vllm.revision or "main", "trust_remote_code": config.vllm.trust_remote_code}
        self.tokenizer = load_tokenizer(config.model, f"{config.where}: the tokenizer of", **options)
        self._template, self._told = _template(config, self.tokenizer), config.vllm.chat_template_kwargs
        self._merges_system = False
        self._marks = control_marks(self.tokenizer)

    def check(self, shortest: Sequence[Message]) -> None:
        """Refuse a model that cannot take even the shortest prompt."""
        if not shortest:
            return
        try:
            self._text(shortest)
        except jinja2.TemplateError:
            self._merges_system = True  # templates without a system turn refuse one
        try:
            length = len(self._encoded(shortest))
        except jinja2.TemplateError as error:
            raise UsageError(
                f"{self._where}: the chat template of {self._model!r} refuses the prompt: {error}. Give another by "
                f"{self._where}.vllm.chat_template"
            ) from None
        if length + SHORTEST_REPLY > self.context:
            raise UsageError(
                f"{self._where}: the shortest prompt alone takes {length:,} tokens, and the context of {self._model!r} has "
                f"{self.context:,} ({self._where}.vllm.max_model_len, or the model's own), of which a reply needs "
                f"{SHORTEST_REPLY}. Take a model with a longer context, or a shorter rubric"
            )

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of a prompt; `RowRefused` where there is nothing to ask, or no room for a reply."""
        if not messages:
            raise RowRefused(EMPTY)
        try:
            ids = self._encoded(messages)
        except jinja2.TemplateError as error:
            raise RowRefused("chat template", f"it refuses the prompt: {error}") from None
        if len(ids) + SHORTEST_REPLY > self.context:
            raise RowRefused("too long", f"the prompt has {len(ids):,} tokens, and the context {self.context:,}")
        return ids

    def plain_ids(self, text: str) -> list[int]:
        """The token ids of a text as it stands, with what the tokenizer adds by itself; not twice, where the text begins so."""
        begins = self.tokenizer.bos_token is not None and text.startswith(self.tokenizer.bos_token)
        return list(self.tokenizer(text, add_special_tokens=not begins, verbose=False)["input_ids"])

    def text(self, messages: Sequence[Message]) -> str:
        """A prompt as the chat template writes it; `RowRefused` where it refuses the messages."""
        try:
            return self._text(messages)
        except jinja2.TemplateError as error:
            raise RowRefused("chat template", f"it refuses the prompt: {error}") from None

    def templated_ids(self, text: str) -> list[int]:
        """The token ids of what the chat template has written, and of more behind it."""
        return list(self.tokenizer(text, add_special_tokens=self._template == PLAIN, verbose=False)["input_ids"])

    def _encoded(self, messages: Sequence[Message]) -> list[int]:
        # a template writes the special tokens itself; a text without one gets what the tokenizer adds by itself
        return self.templated_ids(self._text(messages))

    def _text(self, messages: Sequence[Message]) -> str:
        # a text under judgement may spell the token that ends a turn, and speak as somebody else behind it
        messages = [{**message, "content": disarmed(message["content"], self._marks)} for message in messages]
        if self._merges_system:
            messages = _merged(messages)
        if self._template == PLAIN:
            return "\n\n".join(message["content"] for message in messages)
        text: str = self.tokenizer.apply_chat_template(
            list(messages), chat_template=self._template, add_generation_prompt=True, tokenize=False, **self._told
        )
        return text


def _template(config: EngineConfig, tokenizer: Any) -> str | None:
    """The text of a chat template in place of the tokenizer's own, `plain`, or None for that one."""
    given, knob = config.vllm.chat_template, f"{config.where}.vllm.chat_template"
    if given is None:
        if tokenizer.chat_template is None:
            raise UsageError(
                f"{config.where}: {config.model!r} has no chat template. Give the path of one by {knob} (Jinja, as in a "
                f"tokenizer_config.json), or set {knob}={PLAIN} to send the prompt's text as it is"
            )
        return None
    return given


def start_failure(config: EngineConfig, made: "VllmConfig", log: str, on_gpu: bool) -> UsageError | EngineUnusable:
    """What to tell of an engine that did not start, from what it wrote to its log meanwhile."""
    # the engine's process raises, and this one only says that it did: the cause is in the log above
    causes = [match for match in CAUSE.finditer(log) if "initialization failed" not in match[2]]
    cause = causes[-1][2].strip()[:LONGEST_CAUSE] if causes else "Ray's logs of the worker say why"
    knobs, context = f"{config.where}.vllm", made.model_config.max_model_len
    if not any(OUT_OF_MEMORY.search(match[0]) for match in causes):
        return EngineUnusable("engine", f"vLLM did not start with {config.model!r}: {cause}")
    if any(BUSY in match[0] for match in causes):
        fix = f"free the GPU of what else runs on it, or lower {knobs}.gpu_memory_utilization"
    elif on_gpu:
        fix = (
            f"lower {knobs}.max_model_len (now {context:,}) or {knobs}.max_num_seqs (now {config.vllm.max_num_seqs}), raise "
            f"{knobs}.gpu_memory_utilization (now {config.vllm.gpu_memory_utilization:g}) or {knobs}.tensor_parallel, or take "
            "a quantised checkpoint"
        )
    else:
        fix = f"raise {knobs}.kv_cache_gib (now {config.vllm.kv_cache_gib}), or lower {knobs}.max_model_len (now {context:,})"
    return UsageError(f"{config.where}: {config.model!r} does not fit the memory: {cause}. To make it fit, {fix}")
