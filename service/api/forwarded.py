"""Who a request comes from and by which scheme, where a proxy that is trusted says so.

Pure ASGI, around everything else. Of other headers of proxies nothing is believed: the path is the one that was asked
for, and the host the one that was sent.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

Address = IPv4Address | IPv6Address


class Forwarded:
    """Replaces the client and the scheme of requests that come from one of the `proxies`."""

    def __init__(self, app: ASGIApp, proxies: tuple[IPv4Network | IPv6Network, ...]) -> None:
        self.app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("client") and self._trusted(_address(scope["client"][0])):
            fields = {name: _elements(scope["headers"], name) for name in (b"x-forwarded-for", b"x-forwarded-proto")}
            if client := self._client(fields[b"x-forwarded-for"]):
                scope["client"] = (str(client), 0)
            if fields[b"x-forwarded-proto"][-1:] in (["http"], ["https"]):  # the last one is the nearest proxy's
                scope["scheme"] = fields[b"x-forwarded-proto"][-1]
        await self.app(scope, receive, send)

    def _client(self, addresses: list[str]) -> Address | None:
        """The last one that is no trusted proxy: what stands before it, the client may have written itself."""
        found = None
        for text in reversed(addresses):
            address = _address(text)
            if address is None:
                return found
            found = address
            if not self._trusted(address):
                return found
        return found

    def _trusted(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._proxies)


def _elements(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[str]:
    """The elements of a header that is a list, of all its lines."""
    lines = [value.decode("latin-1") for name, value in headers if name == wanted]
    return [each.strip() for line in lines for each in line.split(",")]


def _address(text: str) -> Address | None:
    """The address in `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`; None where there is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
