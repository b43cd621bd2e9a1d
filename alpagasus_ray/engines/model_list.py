"""The list of models that an OpenAI-compatible server offers: the one question that costs nothing and shows whether it
takes a key, unless it is open to anybody. Sends nothing else; what it reports never holds the key.
"""

from http import HTTPStatus
from typing import Any, NamedTuple

import httpx2 as httpx
import orjson

from alpagasus_ray.config import EngineConfig
from alpagasus_ray.engines.access import Access, access
from alpagasus_ray.engines.openai_api import NO_KEY, read_key, shown_address

TIMEOUT_S = 20.0


class Listing(NamedTuple):
    """What came of `GET {base_url}/models`."""

    address: str
    status: int | None
    """HTTP status; None where there was no answer, `detail` says why."""
    models: tuple[str, ...] | None
    """Names of the models; None where the answer holds no such list."""
    detail: str = ""


def is_open(judge: EngineConfig) -> bool:
    """Whether the judge's server lists its models to anybody: then its list says nothing of the key."""
    return ask_models(judge, without_key=True).status == HTTPStatus.OK


def ask_models(judge: EngineConfig, *, without_key: bool = False) -> Listing:
    """Ask the judge's server, the first of its endpoints, for its models. `UsageError` where the key cannot be read."""
    import openai

    plain = {name: value for name, value in judge.query.items() if not value.startswith("$")}
    carried = Access({}, plain, ()) if without_key else access(judge)
    client = openai.OpenAI(
        api_key=NO_KEY if without_key else read_key(judge),
        base_url=judge.base_url,
        max_retries=0,
        timeout=min(judge.timeout_s, TIMEOUT_S),
        http_client=openai.DefaultHttpxClient(event_hooks={"request": [carried.cleared]}),
        **carried.arguments,
    )
    address = shown_address(client.base_url)
    with client:
        try:
            response = client.get("/models", cast_to=httpx.Response)
        except openai.APITimeoutError:
            return Listing(address, None, None, "no answer in time")
        except openai.APIStatusError as error:
            return Listing(address, error.status_code, None)
        except openai.APIConnectionError as error:
            # the cause's text may quote headers, and with them the key: only the system's own words are passed on
            return Listing(address, None, None, _system_reason(error))
    return Listing(address, response.status_code, _names(response.content))


def _system_reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        # libraries raise "during the handling of" as well as "from"
        cause = cause.__cause__ or cause.__context__
    return "no connection"


def _names(content: bytes) -> tuple[str, ...] | None:
    try:
        body: Any = orjson.loads(content)
        return tuple(str(entry["id"]) for entry in body["data"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
