"""A model in the job: vLLM's asynchronous engine in this process's care, asked for many rows at once.

The engine runs in a process of its own, which ends with this one, however this one ends. When it dies by itself every request
that it had raises `EngineDied`, and a new worker starts a new one (`inference/worker.py`).
"""

import asyncio
import itertools
import os
import subprocess
import uuid
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alpagasus_ray.config import EngineConfig
from alpagasus_ray.config.extra_fields import collision
from alpagasus_ray.engines import score_grammar as scores_of
from alpagasus_ray.engines.base import Message, Rate, Reply, ReplyForm, Request, Tree, Wanted
from alpagasus_ray.engines.finish_reasons import ERROR, finish_reason
from alpagasus_ray.engines.vllm_benchmarks import fitting, probabilities
from alpagasus_ray.engines.vllm_model import Prompts, start_failure, vllm_config
from alpagasus_ray.errors import EngineDied, RowRefused, TryAgain, UsageError

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

MARK = "ALPAGASUS_ENGINE"
"""Environment variable by which the processes of an engine are known."""
GUARD = """
cat
for process in /proc/[0-9]*; do
  if grep -qsz "^$1$" "$process/environ"; then kill -9 "${process#/proc/}"; fi
done
"""
"""Waits for the end of its input, which comes when its parent is gone, then ends the processes with a mark."""
RARE = 1e-3
"""A beginning of a reply that is less probable, among those that the scale allows, is not looked into."""
MOST_PLACES = 4
"""Beginnings of a reply behind which is looked for its score."""
MOST_TOKENS = 128
"""Tokens whose probability vLLM tells at once (its MAX_LOGPROB_TOKEN_IDS)."""


class VllmEngine:
    """One engine of vLLM; to be used on the event loop that it was started on."""

    address = "vLLM in the job"
    stated = Rate()

    def __init__(self, engine: "AsyncLLM", prompts: Prompts, config: EngineConfig, form: ReplyForm) -> None:
        self._engine, self._prompts, self._form = engine, prompts, form
        self._sampling = _sampling(config, form)
        self._config, self._of_wanted = config, dict[Wanted, "SamplingParams"]()
        self._longest = config.max_tokens
        self._lora = _lora(config)
        self._numbers = itertools.count()
        self._next = _NextTokens(engine, prompts.tokenizer, form.scores) if form.probabilities else None

    @classmethod
    def start(cls, config: EngineConfig, form: ReplyForm, shortest: Sequence[Message]) -> "VllmEngine":
        """Start an engine; takes from half a minute to some minutes. A `UsageError` says what of the model, its template, its
        context or the memory is wrong."""
        made = vllm_config(config)
        from vllm.v1.engine.async_llm import AsyncLLM

        _sampling(config, form)  # what it says of wrong parameters it says at once
        prompts = Prompts(config, made.model_config.max_model_len)
        prompts.check(shortest)
        log = _Log()
        guard = _guard()
        try:
            engine = AsyncLLM.from_vllm_config(made, stat_loggers=_stat_loggers(), disable_log_stats=True)
        except (RuntimeError, ValueError) as error:
            # closes its input: the guard ends what the failed start has left behind, and the memory with it
            guard.communicate()
            raise start_failure(config, made, f"{log.since()}\n{type(error).__name__}: {error}", _has_gpu()) from None
        finally:
            os.environ.pop(MARK, None)
        started = cls(engine, prompts, config, form)
        weakref.finalize(started, _end, engine, guard)  # also at the end of the process, where that ends in good order
        return started

    async def complete(self, request: Request) -> Reply:
        if request.wanted is not None:
            return await self._wanted(request, request.wanted)
        ids = self._prompts.ids(request.messages)
        output = await self._run(ids, self._parameters(len(ids)))
        made = output.outputs[0]
        tree = await self._tree(ids, made.text, list(made.token_ids)) if self._next else None
        return _reply(ids, output)._replace(logprobs=tree)

    async def _wanted(self, request: Request, wanted: Wanted) -> Reply:
        if wanted.continuations or wanted.rolling:
            return await probabilities(self._run, self._prompts, request, wanted)
        ids = fitting(self._prompts, request, wanted, self._longest)
        return _reply(ids, await self._run(ids, self._own_parameters(wanted, len(ids))))

    def _own_parameters(self, wanted: Wanted, prompt: int) -> "SamplingParams":
        """The stage's sampling with what one request wants of its own; most requests of a benchmark want the same."""
        if wanted not in self._of_wanted:
            own = {key: value for key in ("temperature", "top_p") if (value := getattr(wanted, key)) is not None}
            self._of_wanted[wanted] = _sampling(self._config.model_copy(update=own), self._form, wanted.stop)
        parameters = self._of_wanted[wanted].clone()
        parameters.max_tokens = min(wanted.max_tokens or self._longest or self._prompts.context, self._prompts.context - prompt)
        return parameters

    def _parameters(self, prompt: int) -> "SamplingParams":
        room = self._prompts.context - prompt
        parameters = self._sampling.clone()
        parameters.max_tokens = min(self._longest or room, room)
        return parameters

    async def _run(self, ids: list[int], parameters: "SamplingParams") -> "RequestOutput":
        from vllm.exceptions import VLLMError
        from vllm.v1.engine.exceptions import EngineDeadError

        final: RequestOutput | None = None
        name = f"{next(self._numbers)}"
        try:
            async for output in self._engine.generate({"prompt_token_ids": ids}, parameters, name, lora_request=self._lora):
                final = output
        except EngineDeadError:
            raise EngineDied("engine died", "vLLM's process has ended; Ray's logs of the worker say why") from None
        except (ValueError, VLLMError) as error:
            raise RowRefused("refused", " ".join(str(error).split())[:300]) from None
        assert final is not None, "vLLM gives one output or raises"
        return final

    # probabilities

    async def _tree(self, ids: list[int], text: str, made: list[int]) -> Tree:
        """How probable what may come next is, for every beginning of a score that is not too rare and not yet one: one token is
        drawn after each, without a grammar, which would hide what lies outside the scale. Where nothing keeps the reply to
        beginning with its score, also behind the beginnings of the reply that numbers follow."""
        starts = {"": 0} | (beginnings(self._prompts.tokenizer, text, made) if self._form.constrained == "off" else {})
        tree: dict[str, dict[str, float]] = {}
        for before, count in starts.items():
            behind: dict[str, dict[str, float]] = {}
            await self._look(behind, "", [*ids, *made[:count]], 1.0)
            tree |= {before + beginning: told for beginning, told in behind.items()}
        return tree

    async def _look(self, tree: dict[str, dict[str, float]], text: str, ids: list[int], reached: float) -> None:
        assert self._next is not None, "only where probabilities are asked for"
        tokens = self._next.after(text)
        output = await self._run(ids, self._next.parameters(text))
        seen = (output.outputs[0].logprobs or [{}])[0]
        found = sorted((seen[token].logprob, token) for token in tokens if token in seen)
        tree[text] = scores_of.added_up((tokens[token], logprob) for logprob, token in found)
        likeliest = {tokens[token]: token for _, token in found}  # of those that are written alike
        shares = scores_of.shares(tree, text, self._form.scores)
        deeper = {token: reached * share for token, share in shares.items() if self._next.is_open(text + token)}
        looks = (
            self._look(tree, text + token, [*ids, likeliest[token]], probability)
            for token, probability in deeper.items()
            if probability >= RARE
        )
        # together: the engine batches them with the other rows' requests
        await asyncio.gather(*looks)


class _NextTokens:
    """Which tokens may come next in a first line that holds a score, and what they are as text."""

    def __init__(self, engine: "AsyncLLM", tokenizer: Any, scores: Sequence[str]) -> None:
        self._scores = scores
        self._texts = _line_tokens(tokenizer, scores, _ends(engine, tokenizer))
        self._after: dict[str, dict[int, str]] = {}
        self._parameters: dict[str, SamplingParams] = {}

    def after(self, text: str) -> dict[int, str]:
        """Token id -> its text, for the tokens that leave a score possible; of too many the shortest."""
        if text not in self._after:
            fit = {token: t for token, t in self._texts.items() if scores_of.can_become(text + t, self._scores)}
            self._after[text] = dict(sorted(fit.items(), key=lambda item: (len(item[1]), item[0]))[:MOST_TOKENS])
        return self._after[text]

    def parameters(self, text: str) -> "SamplingParams":
        from vllm import SamplingParams

        if text not in self._parameters:
            self._parameters[text] = SamplingParams(
                # probabilities of chosen tokens, not of the likeliest: those of all scores are wanted, however rare
                temperature=0.0,
                max_tokens=1,
                logprob_token_ids=list(self.after(text)),
                detokenize=False,
            )
        return self._parameters[text]

    def is_open(self, text: str) -> bool:
        """Whether it is still undecided which score the line holds."""
        return len(scores_of.can_become(text, self._scores)) > 1


def beginnings(tokenizer: Any, text: str, made: Sequence[int]) -> dict[str, int]:
    """The beginnings of a reply that are followed by a token with a digit, and of how many tokens each is; of many the first
    and the last."""
    places = [n for n, token in enumerate(made) if any(sign.isdigit() for sign in tokenizer.decode([token]))]
    kept = places if len(places) <= MOST_PLACES else [*places[: MOST_PLACES // 2], *places[-MOST_PLACES // 2 :]]
    told = {tokenizer.decode(list(made[:n]), skip_special_tokens=True): n for n in kept}
    return {beginning: n for beginning, n in told.items() if text.startswith(beginning)}


def _ends(engine: "AsyncLLM", tokenizer: Any) -> set[int]:
    """The tokens that end a reply: the tokenizer's, and those that the checkpoint names besides."""
    named = engine.model_config.try_get_generation_config().get("eos_token_id")
    found = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    return {token for token in found if token is not None}


def _line_tokens(tokenizer: Any, scores: Sequence[str], ends: set[int]) -> dict[int, str]:
    """All tokens that can be a part of a first line with a score, or end it; the end of a reply is an end of the line."""
    import xgrammar

    signs = set("".join(scores)) | {" ", "/"}
    vocabulary = xgrammar.TokenizerInfo.from_huggingface(tokenizer).decoded_vocab
    texts = {token: raw.decode("utf-8", "replace") for token, raw in enumerate(vocabulary) if raw}
    found = {token: text for token, text in texts.items() if set(text.partition(scores_of.END)[0]) <= signs}
    return found | dict.fromkeys(ends, scores_of.END)


def _sampling(config: EngineConfig, form: ReplyForm, stop: Sequence[str] = ()) -> "SamplingParams":
    from vllm import SamplingParams
    from vllm.exceptions import VLLMError
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    given = {"temperature": config.temperature, "top_p": config.top_p, "seed": config.seed}
    asked: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if stop or form.score_only:
        asked["stop"] = list(stop) or [scores_of.END]
    if form.constrained == "regex":
        asked["structured_outputs"] = StructuredOutputsParams(regex=scores_of.pattern(form.scores))
    try:
        sampled = SamplingParams(**_merged(asked, config), output_kind=RequestOutputKind.FINAL_ONLY)
    except (TypeError, ValueError, VLLMError) as error:
        reason = f"vLLM does not take these sampling parameters: {error}"
        raise UsageError(f"{config.where}: {reason}; see {config.where}.extra") from None
    if sampled.seed is not None and sampled.temperature > 0 and not _has_gpu():
        raise UsageError(f"{config.where}.seed: on a CPU vLLM 0.29 dies over a seed; leave it out, or set `temperature: 0`")
    return sampled


def _merged(asked: dict[str, Any], config: EngineConfig) -> dict[str, Any]:
    twice = collision(asked, config.extra)
    if twice is not None:
        raise UsageError(f"{config.where}.extra holds {twice!r}, which the judge's own knobs say already; take it out there")
    return {**asked, **config.extra}


def _lora(config: EngineConfig) -> Any:
    if config.vllm.lora is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, config.vllm.lora)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _stat_loggers() -> list[Any]:
    """Where there is a Ray, vLLM's own numbers go to its metrics."""
    import ray

    if not ray.is_initialized():
        return []
    from vllm.v1.metrics import ray_wrappers

    # its module needs Ray Serve's packages, and stands without them where they are not installed
    return [ray_wrappers.RayPrometheusStatLogger] if getattr(ray_wrappers, "ray_metrics", None) else []


def _reply(ids: list[int], output: "RequestOutput") -> Reply:
    """What vLLM has made behind a prompt. `TryAgain` where it says that it went wrong."""
    made = output.outputs[0]
    ended = finish_reason(made.finish_reason)
    if ended == ERROR:
        raise TryAgain("engine error", "vLLM ended the request with an error; Ray's logs of the worker say why", "refused")
    return Reply(
        text=made.text,
        finish_reason=ended,
        tokens_in=len(ids),
        tokens_out=len(made.token_ids),
        tokens_cached=output.num_cached_tokens or 0,
    )


# the engine's process


class _Log:
    """What this process and its children write to files from here on: Ray gives each worker two, and vLLM uses both."""

    def __init__(self) -> None:
        paths = dict.fromkeys(os.path.realpath(f"/proc/self/fd/{number}") for number in (2, 1))
        self._starts = {path: os.path.getsize(path) for path in paths if os.path.isfile(path)}

    def since(self) -> str:
        return "\n".join(_read_from(path, start) for path, start in self._starts.items())


def _read_from(path: str, start: int) -> str:
    with open(path, "rb") as stream:
        stream.seek(start)
        return stream.read().decode("utf-8", "replace")


def _guard() -> "subprocess.Popen[bytes]":
    """Mark the processes that are started from here on, and see to it that they end with this one: killed by force, it would
    leave the engine behind with all the memory it holds."""
    mark = uuid.uuid4().hex
    os.environ.pop(MARK, None)
    nowhere = subprocess.DEVNULL
    command = ["/bin/sh", "-c", GUARD, "sh", f"{MARK}={mark}"]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, start_new_session=True)  # noqa: S603
    os.environ[MARK] = mark
    return guard


def _end(engine: "AsyncLLM", guard: "subprocess.Popen[bytes]") -> None:
    engine.shutdown()
    guard.communicate()  # closes its input: it ends what may be left
