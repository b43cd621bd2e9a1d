"""The list of models that an OpenAI-compatible server offers: the one question that costs nothing and shows whether it
takes a key, unless it is open to anybody. Sends nothing else; what it reports never holds the key.
"""

import asyncio
import os
import ssl
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, NamedTuple

import httpx2 as httpx
import orjson

from alpagasus_ray.config import EngineConfig
from alpagasus_ray.engines.access import Access, access
from alpagasus_ray.engines.http_client import HttpClient
from alpagasus_ray.engines.openai_api import NO_KEY, read_key, shown_address
from alpagasus_ray.errors import TryAgain

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
    plain = {name: value for name, value in judge.query.items() if not value.startswith("$")}
    carried = Access({}, plain, ()) if without_key else access(judge)
    headers = carried.sent_with(NO_KEY if without_key else read_key(judge))
    base = httpx.URL(judge.base_url.rstrip("/"))
    wait_s = min(judge.timeout_s, TIMEOUT_S)
    # what an error says may quote a header, and with it the key: none of it is passed on
    client = HttpClient(f"{httpx.URL(f'{base}/models', params=carried.query)}", headers, httpx.Timeout(wait_s), lambda _: "")
    with ThreadPoolExecutor(1) as pool:  # the caller's thread may have an event loop that runs, as in a notebook
        return pool.submit(asyncio.run, _asked(client, shown_address(base))).result()


async def _asked(client: HttpClient, address: str) -> Listing:
    try:
        answer = await client.get()
    except TryAgain as error:
        return Listing(address, None, None, "no answer in time" if error.category == "timeout" else _system_reason(error))
    finally:
        await client.close()
    is_good = 200 <= answer.status < 300
    return Listing(address, answer.status, _names(answer.content) if is_good else None)


def _system_reason(error: BaseException) -> str:
    """What the system said, as `Connection refused`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            # a connection's own text repeats the address; a certificate's number is none of the system's
            is_numbered = cause.errno is not None and cause.errno > 0 and not isinstance(cause, ssl.SSLError)
            return os.strerror(cause.errno) if is_numbered and cause.errno else cause.strerror
        # libraries raise "during the handling of" as well as "from"
        cause = cause.__cause__ or cause.__context__
    return "no connection"


def _names(content: bytes) -> tuple[str, ...] | None:
    try:
        body: Any = orjson.loads(content)
        return tuple(str(entry["id"]) for entry in body["data"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
