"""ASGI middleware around every request: request id, metrics, access log, unexpected errors, HEAD, trusted proxies.

Pure ASGI, so that streams stay streams and a disconnect stays visible.
"""

import asyncio
import logging
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from random import getrandbits

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import INTERNAL_ERROR, MEDIA_TYPE, headers, problem, problem_type_of
from service.errors import ClientGone, NotReady
from service.telemetry.metrics import Metrics
from service.telemetry.request_context import CONNECTION_ERROR

REQUEST_ID = "X-Request-ID"
_REQUEST_ID = REQUEST_ID.lower().encode()
#: An id that a client may send. Any other is replaced, because ids are written into logs and headers.
_VALID_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
#: Sent with every answer: no caching (pictures are of patients), no framing, no guessing of another type.
_SECURITY_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
#: Counted, never sent: the client closed the connection before the answer (nginx's number for it).
CLIENT_CLOSED = 499

log = logging.getLogger(__name__)
access_log = logging.getLogger("service.requests")

Address = IPv4Address | IPv6Address


class RequestContext:
    """Gives each request an id, counts and logs it, and answers an unexpected error with a 500 without details.

    Requests that the connection layer rejects are answered here too, so they get an id, headers, a count and a log line
    like all others.

    The access log holds method, route, status, duration and caller. The caller is the name of a key or person, or the
    client's address if it is unauthenticated or its connection was rejected. Queries and file names are not logged.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, hsts_max_age_s: int) -> None:
        self.app = app
        self.metrics = metrics
        # HSTS: browsers then use TLS only (RFC 6797).
        hsts = (b"strict-transport-security", b"max-age=%d" % hsts_max_age_s)
        self._tls_headers = (*_SECURITY_HEADERS, hsts) if hsts_max_age_s else _SECURITY_HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        added = self._tls_headers if scope.get("scheme") == "https" else _SECURITY_HEADERS
        answer = _Answer(send, _request_id(scope["headers"]), scope["path"], added)
        scope.setdefault("state", {})["request_id"] = answer.request_id
        method, started_s = scope["method"], time.perf_counter()
        try:
            await self._answer(scope, receive, answer)
        finally:
            status, duration_s = answer.status or CLIENT_CLOSED, time.perf_counter() - started_s
            # Static files and unknown paths share one label, so that clients cannot create metrics.
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, status, duration_s)
            if access_log.isEnabledFor(logging.INFO):
                _log_access(scope, method, route, status, duration_s, answer.request_id)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            if (rejected := scope["state"].get(CONNECTION_ERROR)) is not None:
                await self._refuse(answer, rejected)
                return
            await self.app(scope, receive, answer.send)
        except (ClientGone, ClientDisconnect):
            answer.status = CLIENT_CLOSED
        except asyncio.CancelledError:
            # The server cancels what is still open when the shutdown timeout has passed.
            if not answer.status:
                await self._refuse(answer, NotReady("the service has shut down before the answer was ready"))
            raise
        except Exception as error:
            log.exception("request %s failed", answer.request_id)
            if answer.status:
                raise
            await self._refuse(answer, error)

    async def _refuse(self, answer: "_Answer", error: BaseException) -> None:
        if (found := problem_type_of(error)) is not INTERNAL_ERROR:
            self.metrics.refused(found.name)
        await answer.refuse(error)


@dataclass(slots=True)
class _Answer:
    """The answer to one request. `status` is 0 until it has begun."""

    to_client: Send
    request_id: str
    path: str
    added_headers: tuple[tuple[bytes, bytes], ...]
    status: int = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name for name, _ in message["headers"]}
            if b"etag" in own:  # a file of the package, which may be cached
                own.add(b"cache-control")
            added = [each for each in self.added_headers if each[0] not in own]
            message["headers"] = [*message["headers"], (_REQUEST_ID, self.request_id.encode()), *added]
        await self.to_client(message)

    async def refuse(self, error: BaseException) -> None:
        document = problem(error, self.request_id, self.path)
        sent = Response(document.json_bytes(), document.status, headers(error) | {"Connection": "close"}, MEDIA_TYPE)
        await self.send({"type": "http.response.start", "status": sent.status_code, "headers": sent.raw_headers})
        await self.send({"type": "http.response.body", "body": sent.body})


def _log_access(scope: Scope, method: str, route: str, status: int, duration_s: float, request_id: str) -> None:
    fields = {"method": method, "route": route, "status": status, "duration_ms": round(1000 * duration_s, 1)}
    if caller := _caller(scope, status):
        fields["caller"] = caller
    values = (method, route, status, 1000 * duration_s, f"by {caller} " if caller else "", request_id)
    access_log.info("%s %s %d %.1f ms %s%s", *values, extra={"fields": fields})


def _caller(scope: Scope, status: int) -> str:
    """The caller in the access log; empty for anonymous requests where authentication is off."""
    known = scope["state"].get("caller")
    if known is not None:
        return str(known.name)
    unauthenticated = status == HTTPStatus.UNAUTHORIZED or CONNECTION_ERROR in scope["state"]
    return str(scope["client"][0]) if unauthenticated and scope.get("client") else ""


def _request_id(fields: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in fields:
        if name == _REQUEST_ID:
            if _VALID_ID.fullmatch(value):
                return value.decode()
            break
    # uuid4 calls the system, which takes a tenth of the event loop's time for a picture. Ids only have to be unique.
    return f"{getrandbits(128):032x}"


class HeadAsGet:
    """Answers HEAD like GET, without the body (RFC 9110, 9.3.2), on every route that has GET."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            scope["method"] = "HEAD"  # the server reads it to know whether a body must follow
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope["method"] = "GET"  # in place, because the matched route is written into the same scope
        await self.app(scope, receive, send_without_body)


class ForwardedHeaders:
    """Replaces client address and scheme by `X-Forwarded-For` and `-Proto`, in requests from trusted proxies.

    Other forwarded headers are ignored: path and host stay as they were sent.
    """

    def __init__(self, app: ASGIApp, proxies: tuple[IPv4Network | IPv6Network, ...]) -> None:
        self.app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("client") and self._is_trusted(_address(scope["client"][0])):
            fields = {name: _elements(scope["headers"], name) for name in (b"x-forwarded-for", b"x-forwarded-proto")}
            if client := self._client(fields[b"x-forwarded-for"]):
                scope["client"] = (str(client), 0)
            if fields[b"x-forwarded-proto"][-1:] in (["http"], ["https"]):  # the last one is of the nearest proxy
                scope["scheme"] = fields[b"x-forwarded-proto"][-1]
        await self.app(scope, receive, send)

    def _client(self, addresses: list[str]) -> Address | None:
        """The last address that is no trusted proxy. The client may have forged those before it."""
        found = None
        for text in reversed(addresses):
            address = _address(text)
            if address is None:
                return found
            found = address
            if not self._is_trusted(address):
                return found
        return found

    def _is_trusted(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._proxies)


def _elements(fields: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[str]:
    """The elements of a list header, of all its lines."""
    lines = [value.decode("latin-1") for name, value in fields if name == wanted]
    return [each.strip() for line in lines for each in line.split(",")]


def _address(text: str) -> Address | None:
    """The address in `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`; None for other text."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
