"""What benchmarks ask of a model in the job: replies with settings of their own, and how probable given texts are.

Texts are cut into tokens as lm-eval does it with a Hugging Face model, so that figures are the same.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from alpagasus_ray.engines.base import EMPTY, Reply, Request, Wanted
from alpagasus_ray.engines.vllm_model import Prompts
from alpagasus_ray.errors import RowRefused

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

Run = Callable[[list[int], "SamplingParams"], Awaitable["RequestOutput"]]
MOST_AT_ONCE = 128
"""Tokens whose probability vLLM tells at one place (its MAX_LOGPROB_TOKEN_IDS)."""
MADE = 1
"""vLLM makes a token at least, for which the context needs room."""


class Pair(NamedTuple):
    """A prompt, and what may come behind it, as token ids."""

    before: list[int]
    behind: list[int]


def fitting(prompts: Prompts, request: Request, wanted: Wanted, longest: int | None) -> list[int]:
    """The prompt of a reply that is made, cut to what the context has room for where that is wanted, else `RowRefused`."""
    ids, _ = _prompt(prompts, request, wanted)
    return _cut(ids, prompts.context - (wanted.max_tokens or longest or MADE), prompts.context, cut=wanted.cut)


async def probabilities(run: Run, prompts: Prompts, request: Request, wanted: Wanted) -> Reply:
    """A reply that tells log probabilities, as `Wanted` has it."""
    if wanted.rolling:
        return await _rolling(run, prompts, request)
    pairs = _pairs(prompts, request, wanted)
    room = prompts.context - MADE
    cut = [_cut_pair(pair, room, prompts.context, cut=wanted.cut) for pair in pairs]
    one_token = len({tuple(pair.before) for pair in cut}) == 1 and all(len(pair.behind) == 1 for pair in cut)
    if one_token and len(cut) <= MOST_AT_ONCE:
        told, asked = await _one_token(run, cut), len(cut[0].before)
    else:
        told = [await _several(run, pair) for pair in cut]
        asked = sum(len(pair.before) + len(pair.behind) for pair in cut)
    return Reply(text=json.dumps(told), tokens_in=asked, tokens_out=MADE)


def _prompt(prompts: Prompts, request: Request, wanted: Wanted) -> tuple[list[int], str]:
    """The token ids of a prompt, and its text."""
    if not request.messages:
        raise RowRefused(EMPTY)
    text = "\n\n".join(one["content"] for one in request.messages) if wanted.plain else prompts.text(request.messages)
    return (prompts.plain_ids(text) if wanted.plain else prompts.templated_ids(text)), text


def _pairs(prompts: Prompts, request: Request, wanted: Wanted) -> list[Pair]:
    """Each continuation behind the prompt. Blanks at the end of the prompt belong to what follows: most tokens begin with
    one."""
    _, text = _prompt(prompts, request, wanted)
    ids = prompts.plain_ids if wanted.plain else prompts.templated_ids
    bare = text.rstrip()
    blanks = text[len(bare) :]
    if not bare:
        return [
            Pair([_first(prompts)], list(prompts.tokenizer(one, add_special_tokens=False)["input_ids"]))
            for one in wanted.continuations
        ]
    before = ids(bare)
    return [Pair(before, ids(bare + blanks + one)[len(before) :]) for one in wanted.continuations]


def _first(prompts: Prompts) -> int:
    """The token that a text begins with."""
    begin = prompts.tokenizer.bos_token_id
    token = prompts.tokenizer.eos_token_id if begin is None else begin
    if token is None:
        raise RowRefused("no first token", "the tokenizer has neither a token to begin with nor one to end with")
    return int(token)


def _cut(ids: list[int], room: int, context: int, *, cut: bool) -> list[int]:
    if len(ids) <= room:
        return ids
    if not cut or room < 1:
        raise RowRefused("too long", f"the prompt has {len(ids):,} tokens, and of the context of {context:,} it has {room:,}")
    return ids[-room:]


def _cut_pair(pair: Pair, room: int, context: int, *, cut: bool) -> Pair:
    return pair._replace(before=_cut(pair.before, room - len(pair.behind), context, cut=cut))


async def _one_token(run: Run, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
    """Continuations of a token each behind the same prompt: one request tells of all of them."""
    from vllm import SamplingParams

    tokens = [pair.behind[0] for pair in pairs]
    parameters = SamplingParams(temperature=0.0, max_tokens=MADE, logprob_token_ids=sorted(set(tokens)), detokenize=False)
    output = (await run(pairs[0].before, parameters)).outputs[0]
    seen = (output.logprobs or [{}])[0]
    return [(float(seen[token].logprob), token == output.token_ids[0]) for token in tokens]


async def _several(run: Run, pair: Pair) -> tuple[float, bool]:
    """One continuation, token by token."""
    if not pair.behind:
        return 0.0, True
    return await _sum(run, pair.before + pair.behind, len(pair.behind))


async def _sum(run: Run, ids: list[int], last: int) -> tuple[float, bool]:
    """The log probability of the `last` tokens of a text, and whether each was the likeliest."""
    from vllm import SamplingParams

    output = await run(ids, SamplingParams(temperature=0.0, max_tokens=MADE, prompt_logprobs=0, detokenize=False))
    told = (output.prompt_logprobs or [])[-last:]
    assert len(told) == last, "vLLM tells one for each token of the prompt"
    own = [place[token] for place, token in zip(told, ids[-last:], strict=True) if place is not None]
    return sum(float(one.logprob) for one in own), all(one.rank == 1 for one in own)


async def _rolling(run: Run, prompts: Prompts, request: Request) -> Reply:
    """The log probability of a text: each token once, in windows that are as long as the context lets them be."""
    text = "\n\n".join(one["content"] for one in request.messages)
    # the first token twice, where the tokenizer adds it by itself: so does lm-eval, and its figures are those people compare
    ids = [_first(prompts), *prompts.plain_ids(text)]
    told = [await _sum(run, ids[start:end], new) for start, end, new in windows(len(ids), prompts.context - MADE)]
    return Reply(text=json.dumps(sum(value for value, _ in told)), tokens_in=len(ids), tokens_out=MADE)


def windows(length: int, room: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, new): windows over `length` tokens, the first of which is given; `new` at the end of each are told of.
    Windows do not overlap but by the token that the next one begins with; the last is as long as the others, as in lm-eval."""
    told = 1
    while told < length:
        end = min(told + room - 1, length)
        yield max(0, end - room), end, end - told
        told = end
