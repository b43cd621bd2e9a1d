"""Every knob of a run: frozen pydantic models, one section per stage, one docstring per field.

A recipe is a YAML file with these sections. What is not given has the default shown here; what is not known is refused.
Fields marked OPERATIONAL say how the work is carried out, not what comes out of it: they may change between two calls of
a stage. All others are the identity of a stage's results (`identity`), and a change of one is never mixed with old results.

This module knows nothing of files, of Ray or of how a recipe is read (`recipe.py`).
"""

import hashlib
import json
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

DEBUG = "ALPAGASUS_DEBUG"
"""Environment variable: show the traceback of an unexpected error, and what Ray writes to the terminal."""


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
    return url


OPERATIONAL = object()
"""Marks a field that does not change what a stage produces."""

OPENAI = "https://api.openai.com/v1"

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A name that becomes a directory: letters, digits, dot, dash, underscore; at most 64."""
KeyName = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")]
"""Name of an environment variable that holds a key."""
Address = Annotated[str, Field(pattern=r"^https?://[^/\s]+"), AfterValidator(_usable)]
"""`http://` or `https://`, host, path; no user name and no password."""


class Section(BaseModel):
    """Base of all sections: frozen, strict about unknown keys, fields documented by their docstrings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class Ingest(Section):
    """`jobs/ingest.py`: read a dataset and write it as examples."""

    source: str | tuple[str, ...] | None = None
    """What to read: a path, a glob, a list of them, `s3://…`, or `hf:<hub id or saved directory>`."""
    name: Name | None = None
    """First part of every example_id; by default taken from the name of the source."""
    format: Literal["auto", "alpaca", "dolly", "sharegpt", "messages", "oasst", "json", "jsonl", "csv", "parquet"] = "auto"
    """How records are laid out; `json`, `jsonl`, `csv` and `parquet` fix the kind of file and leave the layout to `columns`
    or to detection."""
    columns: dict[Literal["instruction", "input", "output", "category", "system"], str] = {}
    """For any other layout: which column holds what, e.g. `{instruction: question, output: answer}`."""
    turns: Literal["first", "all"] = "first"
    """Conversations of several turns: only the `first` becomes an example, or `all`, each with the turns before it."""
    rows_per_shard: PositiveInt = 1000
    """Examples in one Parquet file: the unit of work, retry and commit."""
    max_rejected: Annotated[Share, OPERATIONAL] = 0.05
    """Fail when a larger share of the records cannot be examples."""
    split: str = "train"
    """Which split of a Hugging Face dataset to read."""


class Price(Section):
    """What tokens cost, in US dollars a million."""

    input: Annotated[float, Field(ge=0)]
    """Tokens of the prompt."""
    output: Annotated[float, Field(ge=0)]
    """Tokens of the reply, those of its reasoning among them."""
    cached_input: Annotated[float | None, Field(ge=0)] = None
    """Tokens of the prompt that the provider had in its cache; by default as `input`."""


class Endpoint(Section):
    """One of several places that serve the same judge; each has limits of its own."""

    base_url: Address | None = None
    """The API's address; by default `judge.base_url`."""
    api_key_env: KeyName | None = None
    """Environment variable that holds its key; by default `judge.api_key_env`."""
    requests_per_minute: PositiveFloat | None = None
    """By default `score.requests_per_minute`."""
    tokens_per_minute: PositiveFloat | None = None
    """By default `score.tokens_per_minute`."""


class Batch(Section):
    """How `judge.mode: batch` talks to the provider's batch API."""

    max_requests: PositiveInt = 50_000
    """Most requests in one batch."""
    max_bytes: PositiveInt = 200_000_000
    """Largest input file of a batch."""
    in_flight: PositiveInt = 4
    """Batches that the provider has at the same time."""
    poll_s: PositiveFloat = 30.0
    """Seconds between two looks at a batch."""


class Judge(Section):
    """Who rates: an engine and a rubric."""

    kind: Literal["api", "rules", "recorded"] = "api"
    """`api`: an OpenAI-compatible server; `rules`: the offline baseline, no LLM; `recorded`: ratings you already have."""
    model: str | None = None
    """Model name that the API knows; needed for `api`."""
    base_url: Annotated[Address, OPERATIONAL] = OPENAI
    """The API's address, up to and with `/v1`."""
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
    """Hugging Face tokenizer (id or directory) that `--plan` counts tokens with; by default tiktoken."""
    rubric: str = "accuracy"
    """What is asked: `accuracy`, `helpfulness`, or the path of your own rubric file."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """Sampling temperature; null leaves it out of the request."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus sampling; null leaves it out of the request."""
    max_tokens: PositiveInt | None = 256
    """Longest reply, in tokens; null leaves it out of the request."""
    extra: dict[str, Any] = {}
    """Further fields of the request body, e.g. `{max_completion_tokens: 256, reasoning_effort: low}`."""
    timeout_s: Annotated[PositiveFloat, OPERATIONAL] = 120.0
    """Seconds to wait for one reply."""
    max_attempts: Annotated[PositiveInt, OPERATIONAL] = 6
    """How often one row may fail before it is `failed`. What a server turns away (429, 503) or what never reached it
    counts a tenth; while a server is down attempts count little."""
    max_outage_s: Annotated[PositiveFloat, OPERATIONAL] = 14_400.0
    """How long to wait for a server that is down or wants to be left alone, before the stage stops."""
    ratings: str | None = None
    """For `recorded`: a CSV, JSON, JSONL or Parquet file with `index` or `example_id`, and `score`; or the AlpaGasus
    release format (objects with `triplet`, `review`, `score`)."""
    columns: dict[Literal["index", "example_id", "score"], str] = {}
    """For `recorded`: names of the file's columns where they differ, e.g. `{index: alpaca_index, score: gpt-4o-mini}`."""

    @model_validator(mode="after")
    def _needs(self) -> "Judge":
        if self.kind == "recorded" and self.ratings is None:
            raise ValueError("kind `recorded` needs `ratings`: the file that holds them")
        return self

    @property
    def paid(self) -> bool:
        """Whether a reply costs something, so that it is kept in a ledger and never asked for again."""
        return self.kind == "api"

    def at_each_endpoint(self) -> "tuple[Judge, ...]":
        """The judge once for each of its endpoints, with that endpoint's address and key."""
        places = (endpoint.model_dump(include={"base_url", "api_key_env"}, exclude_none=True) for endpoint in self.endpoints)
        return tuple(self.model_copy(update={**place, "endpoints": ()}) for place in places) or (self,)


class Score(Section):
    """`jobs/score.py`: rate every example."""

    name: Name = "judge"
    """Directory under `ratings/`; give another judge another name."""
    judge: Judge = Judge()
    """The judge."""
    concurrency: Annotated[PositiveInt, OPERATIONAL] = 64
    """Most requests in flight from each actor to an endpoint; it starts low, grows, and yields where a server pushes back."""
    actors: Annotated[PositiveInt | None, OPERATIONAL] = None
    """Processes that judge; by default one for `api` and one per CPU for the offline judges."""
    requests_per_minute: Annotated[PositiveFloat | None, OPERATIONAL] = None
    """Limit of each endpoint, for the whole cluster; what the server states in its replies holds too."""
    tokens_per_minute: Annotated[PositiveFloat | None, OPERATIONAL] = None
    """Limit of each endpoint in tokens, of prompts and replies together."""
    max_cost_usd: Annotated[PositiveFloat | None, OPERATIONAL] = None
    """Stop before these ratings have cost more, over all calls; raise it and the same command goes on."""
    limit: Annotated[PositiveInt | None, OPERATIONAL] = None
    """A trial: rate only the first so many examples and stop. Replies are kept, and a full run does not ask again."""
    max_failed: Annotated[Share, OPERATIONAL] = 0.1
    """Stop when a larger share of all rows has failed."""


class Arm(Section):
    """One set of examples to train on."""

    name: Name
    """Directory under `subsets/`."""
    policy: Literal["threshold", "top", "random", "longest", "lowest", "full"]
    """`threshold`: score >= threshold; `top`: the k best; controls of the same size: `random`, `longest` (output),
    `lowest` (score); `full`: everything."""
    threshold: float | None = None
    """For `threshold`: the lowest score to keep; 4.5 unless given (AlpaGasus, equation 1)."""
    k: PositiveInt | None = None
    """How many to keep; `top` needs it, the controls take the size of the first `threshold` or `top` arm without it."""
    seed: int = 0
    """Decides ties and random draws; the same on every machine."""
    floors: dict[str, PositiveInt] = {}
    """For `threshold` and `top`: keep at least so many of a category, best first, e.g. `{coding: 500}`."""

    @model_validator(mode="after")
    def _fits_policy(self) -> "Arm":
        if self.policy == "top" and self.k is None:
            raise ValueError("policy `top` needs `k`: how many to keep")
        if self.threshold is not None and self.policy != "threshold":
            raise ValueError(f"policy `{self.policy}` takes no `threshold`; only `threshold` does")
        if self.k is not None and self.policy in ("threshold", "full"):
            raise ValueError(f"policy `{self.policy}` takes no `k`; use `top` for a fixed size")
        if self.floors and self.policy not in ("threshold", "top"):
            raise ValueError(f"policy `{self.policy}` takes no `floors`; only `threshold` and `top` do")
        if sum(self.floors.values()) > (self.k or float("inf")):
            raise ValueError(f"`floors` add up to {sum(self.floors.values())}, more than k = {self.k}")
        return self


class Pick(Section):
    """`jobs/pick_subset.py`: choose the arms of the experiment."""

    ratings: Name = "judge"
    """Which ratings to choose by: the `score.name` they were made under."""
    max_unscored: Annotated[Share, OPERATIONAL] = 0.01
    """Refuse when a larger share of the rows has no score."""
    arms: tuple[Arm, ...] = (Arm(name="selected", policy="threshold", threshold=4.5), Arm(name="random", policy="random"))
    """The sets to write."""
    tokenizer: str | None = None
    """Hugging Face tokenizer (id or directory) to count tokens with; without one the report estimates them."""

    @model_validator(mode="after")
    def _names_differ(self) -> "Pick":
        names = [arm.name for arm in self.arms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two arms have the name {twice[0]!r}; every arm needs its own")
        return self


class Recipe(Section):
    """A whole run."""

    ingest: Ingest = Ingest()
    score: Score = Score()
    pick: Pick = Pick()


def identity(section: Section) -> dict[str, Any]:
    """The section's settings that decide what comes out, as plain JSON values, OPERATIONAL fields left out."""
    plain = section.model_dump(mode="json")
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if OPERATIONAL in field.metadata:
            del plain[key]
        elif isinstance(value, Section):
            plain[key] = identity(value)
    return plain


def digest(value: object) -> str:
    """A short stable hash (16 hex digits) of any JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
