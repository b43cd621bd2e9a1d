"""What decides an engine's replies: the part of its settings that names results, and the key of each request.

Old runs are found again by both, so neither may change for settings that older recipes could have. Knows nothing of stages.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson

from alpagasus_ray.config import EngineConfig, Vllm, digest, identity
from alpagasus_ray.engine_config import PLAIN
from alpagasus_ray.engines.base import Message, ReplyForm
from alpagasus_ray.errors import UsageError

WEIGHTS = (".safetensors", ".bin", ".json", ".model", ".jinja")
"""Ends of the names of a checkpoint's files."""
MIB = 1 << 20
Configured = TypeVar("Configured", bound=EngineConfig)


def identity_of(engine: EngineConfig) -> dict[str, Any]:
    """What decides the replies of an engine; what only another kind would use is left out."""
    settings = identity(engine)
    kept = {"kind"} | ({"model", "temperature", "top_p", "max_tokens", "extra"} if engine.is_model else set())
    chosen = {key: value for key, value in settings.items() if key in kept}
    if engine.is_model and engine.max_tokens_field != "max_tokens":
        # as older recipes said it, by `extra`: their runs go on
        chosen["extra"] = {**chosen["extra"], engine.max_tokens_field: chosen["max_tokens"]}
        chosen["max_tokens"] = None
    # what older recipes could not say is left out where it is as usual, so that their runs are the same
    if engine.is_model and engine.seed is not None:
        chosen["seed"] = engine.seed
    if engine.is_remote and engine.system != "own":
        chosen["system"] = engine.system
    if engine.kind == "vllm":
        chosen["vllm"] = _vllm_identity(engine)
    return chosen


def _vllm_identity(engine: EngineConfig) -> dict[str, Any]:
    """The settings of a model in the job that differ from the usual; of a chat template what it says, not where it lies."""
    usual = identity(Vllm())
    chosen = {key: value for key, value in identity(engine.vllm).items() if value != usual[key]}
    if chosen.get("chat_template") not in (None, PLAIN):
        chosen["chat_template_digest"] = digest(chosen.pop("chat_template"))
    return chosen


def with_template(engine: Configured) -> Configured:
    """The same with the text of its chat template in place of the file's path: nodes need not have the file."""
    path = engine.vllm.chat_template
    if path in (None, PLAIN):
        return engine
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"{engine.where}.vllm.chat_template = {path!r} cannot be read: {reason}") from None
    return engine.model_copy(update={"vllm": engine.vllm.model_copy(update={"chat_template": text})})


def weights_print(engine: EngineConfig) -> dict[str, str]:
    """A fingerprint for each checkpoint that is a directory on this machine, so that one that was overwritten is noticed. Empty
    for a model of the hub, or one that only other machines see."""
    if engine.kind != "vllm":
        return {}
    return checkpoint_print("model", engine.model) | checkpoint_print("lora", engine.vllm.lora)


def checkpoint_print(name: str, path: str | None) -> dict[str, str]:
    """Sizes and the ends of a checkpoint's files, if it is a directory here."""
    if path is None or not os.path.isdir(path):
        return {}
    files = sorted(entry.path for entry in os.scandir(path) if entry.name.endswith(WEIGHTS))
    return {f"{name} {path}": digest([(os.path.basename(file), *_ends(file)) for file in files])}


def _ends(file: str) -> tuple[int, str]:
    """Size of a file, and a hash of its first and last MiB."""
    # to hash all of a checkpoint would take minutes at each call; its ends hold the header and the last tensor
    with open(file, "rb") as stream:
        size = os.path.getsize(file)
        content = stream.read(MIB)
        stream.seek(max(0, size - MIB))
        return size, hashlib.sha256(content + stream.read(MIB)).hexdigest()[:16]


def body(engine: EngineConfig, form: ReplyForm) -> dict[str, Any]:
    """All that decides a reply besides the messages."""
    if engine.is_remote:
        from alpagasus_ray.engines.openai_api import request_body

        merging = {"system": engine.system} if engine.system != "own" else {}
        return request_body(engine, form) | merging
    return identity_of(engine) | {"form": form._asdict()}


def request_key(body: Mapping[str, Any], messages: Sequence[Message]) -> str:
    """By this a stored reply is found again."""
    return hashlib.blake2b(orjson.dumps([body, messages], option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
