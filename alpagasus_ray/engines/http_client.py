"""HTTP requests to one address over connections that are kept open: each call sends one request, and never a second one.

A request that may have been read may have been billed, so every failure tells whether the request left at all. Knows bytes and
headers; nothing of chats, replies or rows.
"""

import asyncio
import platform
from collections.abc import Callable, Mapping
from typing import NamedTuple

import aiohttp
import httpx2 as httpx
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from alpagasus_ray.engines.bounded_read import ASKED_FOR, read_body
from alpagasus_ray.engines.proxies import proxy_of
from alpagasus_ray.errors import TryAgain
from alpagasus_ray.version import __version__

LATE = "no reply in time"
IDLE_S = 4.0
"""How long an idle connection is kept: uvicorn, and with it vLLM's server, closes one after 5 s, and a request that meets the
close may have been read."""
MOST_REDIRECTS = 20
ALWAYS = {
    "Accept": "application/json",
    "Accept-Encoding": ASKED_FOR,
    "Content-Type": "application/json",
    "User-Agent": f"alpagasus-ray/{__version__} (Python {platform.python_version()})",
}


class Answer(NamedTuple):
    """What came back, whatever its status; `headers` are looked up in any case of letters."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class HttpClient:
    """Sends to one address; to be used on one event loop."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout: httpx.Timeout, tellable: Callable[[str], str]) -> None:
        """`tellable` makes of what an error says what may be told: it may repeat a header."""
        self._url, self._tellable = URL(url), tellable
        self._headers = CIMultiDict(ALWAYS)
        self._headers.update(headers)
        # one clock bounds the whole of an attempt; the transport's own would begin anew with every byte
        self._whole_s, self._timeout = timeout.read, aiohttp.ClientTimeout(total=None, sock_connect=timeout.connect)
        # as the `openai` package has it: `SSL_CERT_FILE`, `SSL_CERT_DIR`, else the system's
        self._certificates = httpx.create_ssl_context()
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes) -> Answer:
        """Send this once. `TryAgain` says why there is no answer, with the cause `unreached` where nothing was sent."""
        return await self._send("POST", body)

    async def get(self) -> Answer:
        """Ask for what is at the address, once; errors as for `post`."""
        return await self._send("GET", None)

    async def _send(self, method: str, body: bytes | None) -> Answer:
        session = self._session or self._open()
        try:
            async with (
                asyncio.timeout(self._whole_s),
                session.request(method, self._url, data=body, max_redirects=MOST_REDIRECTS) as response,
            ):
                return Answer(response.status, response.headers, await read_body(response))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise TryAgain("connection", self._tellable(str(error)), "unreached") from None
        except TimeoutError:
            raise TryAgain("timeout", LATE) from None
        # an answer that is no HTTP is one of the second kind; event loops say by a RuntimeError that a transport is gone
        except (aiohttp.ClientError, HttpProcessingError, OSError, RuntimeError) as error:
            raise TryAgain("connection", self._tellable(str(error) or type(error).__name__)) from None

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        # at the first request, for a session belongs to the event loop on which it is made
        self._session = aiohttp.ClientSession(
            # no limit: the runner bounds what is in flight, and a second queue would only hide where requests wait
            connector=aiohttp.TCPConnector(limit=0, ssl=self._certificates, keepalive_timeout=IDLE_S),
            headers=self._headers,
            timeout=self._timeout,
            proxy=proxy_of(self._url),
            auto_decompress=False,
        )
        return self._session
