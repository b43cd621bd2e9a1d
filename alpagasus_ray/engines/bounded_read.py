"""Bounded reading of what a server answers: a body may be of any size and compressed to any degree, a worker's memory is not.

A hook for the HTTP client; it knows nothing of replies.
"""

import zlib
from collections.abc import AsyncIterator

import httpx2 as httpx

from alpagasus_ray.errors import TryAgain

LARGEST = 16 << 20
"""Bytes of a body, unpacked: above any reply, log probabilities of each of its tokens among them."""
ACCEPTED = "gzip"
"""How bodies may be compressed; it is asked for, and nothing else is unpacked."""
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


class Bounded(httpx.AsyncByteStream):
    """A body's bytes, unpacked; `TryAgain` once they are more than `most`, or where they cannot be unpacked."""

    def __init__(self, body: httpx.AsyncByteStream, packed_as: str, most: int) -> None:
        self._body, self._packed_as, self._most = body, packed_as, most
        self._unpacker = zlib.decompressobj(_GZIP_OR_ZLIB) if packed_as else None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._most
        if self._packed_as not in ("", ACCEPTED):
            raise TryAgain("malformed reply", f"its body is compressed as {self._packed_as!r}, which was not asked for")
        async for part in self._body:
            # one byte more than is allowed is enough to know; a kilobyte may unpack to a gigabyte
            unpacked = self._unpack(part, left + 1)
            left -= len(unpacked)
            if left < 0:
                raise TryAgain("malformed reply", f"its body is larger than {self._most >> 20} MiB")
            yield unpacked

    async def aclose(self) -> None:
        """Close the connection below."""
        await self._body.aclose()

    def _unpack(self, part: bytes, most: int) -> bytes:
        if self._unpacker is None:
            return part
        try:
            return self._unpacker.decompress(part, most)
        except zlib.error:
            raise TryAgain("connection", "the body cannot be unpacked") from None


async def bound(response: httpx.Response) -> None:
    """Let the body of a response be read as `Bounded`."""
    # taken away, so that the client does not unpack once more
    packed_as = response.headers.pop("content-encoding", "").strip().lower()
    assert isinstance(response.stream, httpx.AsyncByteStream), "the client is asynchronous"
    response.stream = Bounded(response.stream, "" if packed_as == "identity" else packed_as, LARGEST)
