"""Bounded reading of what a server answers: a body may be of any size and compressed to any degree, a worker's memory is not.

It knows nothing of replies.
"""

import zlib

import aiohttp

from alpagasus_ray.errors import TryAgain

LARGEST = 16 << 20
"""Bytes of a body, unpacked: above any reply, log probabilities of each of its tokens among them."""
ASKED_FOR = "identity"
"""How bodies are asked to be packed: not at all. A reply has a few hundred bytes, and to unpack it costs more than it saves."""
PLAIN, PACKED = ("", ASKED_FOR), ("gzip", "x-gzip")
"""What servers and proxies send all the same is unpacked; nothing else is."""
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """A body's bytes, unpacked; `TryAgain` once they are more than `LARGEST`, or where they cannot be unpacked."""
    packed_as = response.headers.get("Content-Encoding", "").strip().lower()
    if packed_as not in (*PLAIN, *PACKED):
        raise TryAgain("malformed reply", f"its body is compressed as {packed_as!r}, which was not asked for")
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB) if packed_as in PACKED else None
    parts, left = [], LARGEST
    while part := await response.content.readany():
        # one byte more than is allowed is enough to know; a kilobyte may unpack to a gigabyte
        unpacked = _unpack(unpacker, part, left + 1) if unpacker else part
        left -= len(unpacked)
        if left < 0:
            raise TryAgain("malformed reply", f"its body is larger than {LARGEST >> 20} MiB")
        parts.append(unpacked)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _unpack(unpacker: "zlib._Decompress", part: bytes, most: int) -> bytes:
    try:
        return unpacker.decompress(part, most)
    except zlib.error:
        raise TryAgain("connection", "the body cannot be unpacked") from None
