"""What decides an engine's replies: the part of its settings that names results, and the key of each request.

Old runs are found again by both, so neither may change for settings that older recipes could have. Knows nothing of stages.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson

from alpagasus_ray.config import PLAIN, EngineConfig, digest, identity
from alpagasus_ray.config.engines import KINDS
from alpagasus_ray.engines.base import Message, ReplyForm
from alpagasus_ray.errors import UsageError

WEIGHTS = (".safetensors", ".bin", ".json", ".model", ".jinja")
"""Ends of the names of a checkpoint's files."""
MIB = 1 << 20
Configured = TypeVar("Configured", bound=EngineConfig)


def identity_of(engine: EngineConfig) -> dict[str, Any]:
    """What decides the replies of an engine, as a manifest names it. Fields that only another kind would use are left out, and
    so are those of a stage's own section (`Judge`, `Answerer`), which that stage names."""
    if not engine.is_model:
        return {"kind": engine.kind}
    ignored = KINDS[engine.kind].ignores
    chosen = {key: value for key, value in identity(engine).items() if key in EngineConfig.model_fields and key not in ignored}
    if "max_tokens_field" in chosen:
        # as older recipes said it, by `extra`: their runs go on
        chosen["extra"] = {**chosen["extra"], chosen.pop("max_tokens_field"): chosen["max_tokens"]}
        chosen["max_tokens"] = None
    if engine.in_job:
        chosen["vllm"] = _vllm_identity(engine)
    return chosen


def own_identity(engine: EngineConfig, *but: str) -> dict[str, Any]:
    """What a stage's section adds to `EngineConfig` and decides its results, without the fields `but`."""
    return {key: value for key, value in identity(engine).items() if key not in EngineConfig.model_fields and key not in but}


def _vllm_identity(engine: EngineConfig) -> dict[str, Any]:
    """The settings of a model in the job that differ from the usual; of a chat template what it says, not where it lies."""
    chosen = identity(engine.vllm)
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
    if not engine.in_job:
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
    """All that decides a reply besides the messages: of a server the request as OpenAI's API takes it, whatever API it has."""
    if engine.is_remote:
        from alpagasus_ray.engines.openai_api import request_body

        merging = {"system": engine.system} if engine.system != "own" else {}
        return request_body(engine, form) | merging
    return identity_of(engine) | {"form": form._asdict()}


def request_key(body: Mapping[str, Any], messages: Sequence[Message]) -> str:
    """By this a stored reply is found again."""
    return hashlib.blake2b(orjson.dumps([body, messages], option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()
