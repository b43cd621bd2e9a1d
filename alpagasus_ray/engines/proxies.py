"""Which proxy stands before an address: that of `HTTP_PROXY`, `HTTPS_PROXY` or `ALL_PROXY`, and none where `NO_PROXY` names the
host, as curl reads these. Nothing is read from `.netrc`.
"""

import ipaddress
from urllib.request import getproxies

from yarl import URL


def proxy_of(url: URL) -> URL | None:
    """The proxy for an address, with the name and password that the environment gives for it; None for a direct connection."""
    given = getproxies()
    if any(_exempts(entry.strip().lower(), url) for entry in given.get("no", "").split(",")):
        return None
    proxy = given.get(url.scheme) or given.get("all")
    return URL(proxy if "://" in proxy else f"http://{proxy}") if proxy else None


def _exempts(entry: str, url: URL) -> bool:
    """Whether an entry of `NO_PROXY` names the host: `*`, a domain (which stands for all below it too), `.domain` or `*.domain`
    (for those below it alone), an IP address or a network; each may have a scheme and a port."""
    scheme, _, place = entry.rpartition("://")
    if not place or scheme not in ("", "all", url.scheme):
        return False
    host = url.host or ""
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(place.strip("[]"), strict=False)
    except ValueError:
        pass  # one of them is a name
    before, _, port = place.rpartition(":")
    name, has_port = (before, True) if before and port.isdigit() else (place, False)
    if has_port and int(port) != url.port:
        return False
    suffix = name.removeprefix("*").strip("[]")
    return host.endswith(suffix) if suffix.startswith(".") else not suffix or host == suffix or host.endswith(f".{suffix}")
