"""What wraps every request: its id, its count in the metrics, HEAD, and the last resort for an unexpected error.

Pure ASGI, so that streams stay streams and a disconnect stays visible. Knows no route.
"""

import asyncio
import logging
import re
import time
from dataclasses import dataclass
from http import HTTPStatus
from random import getrandbits

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import MEDIA_TYPE, UNEXPECTED, headers, kind_of, problem
from service.errors import ClientGone, NotReady
from service.telemetry.metrics import Metrics
from service.telemetry.request_context import CONNECTION_ERROR

REQUEST_ID = "X-Request-ID"
#: What a client's own id may be; anything else is replaced, because it goes into logs and headers.
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
#: With every answer. Nothing of it is kept on the way (pictures are of patients), framed, or taken for another type.
_ALWAYS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
#: Counted, never sent: the client closed the connection before its answer (nginx's number for it).
CLIENT_CLOSED = 499

log = logging.getLogger(__name__)
access_log = logging.getLogger("service.requests")


class RequestContext:
    """Gives each request an id, counts it, and answers an unexpected error with a problem that tells nothing inside.

    A request that its connection refuses is answered here, so that it is one like all others: with an id and headers,
    counted and logged.

    The access log holds method, route, status, duration and who called: the name of a key or person, or the address of
    a client that is unknown or whose connection was refused. No query, no file name.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, hsts_max_age_s: int) -> None:
        self.app = app
        self.metrics = metrics
        # From then on browsers come by TLS alone (RFC 6797).
        hsts = (b"strict-transport-security", b"max-age=%d" % hsts_max_age_s)
        self._by_tls = (*_ALWAYS, hsts) if hsts_max_age_s else _ALWAYS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        secured = self._by_tls if scope.get("scheme") == "https" else _ALWAYS
        exchange = _Exchange(send, _request_id(Headers(scope=scope)), scope["path"], secured)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        method, started_s = scope["method"], time.perf_counter()
        try:
            await self._answer(scope, receive, exchange)
        finally:
            status, duration_s = exchange.status or CLIENT_CLOSED, time.perf_counter() - started_s
            # Files of the interface and paths that do not exist share a label: a caller must not make up metrics.
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.request(route, status, duration_s)
            fields = {"method": method, "route": route, "status": status, "duration_ms": round(1000 * duration_s, 1)}
            if who := _who(scope, status):
                fields["caller"] = who
            told = (method, route, status, 1000 * duration_s, f"by {who} " if who else "", exchange.request_id)
            access_log.info("%s %s %d %.1f ms %s%s", *told, extra={"fields": fields})

    async def _answer(self, scope: Scope, receive: Receive, exchange: "_Exchange") -> None:
        try:
            if (refused := scope["state"].get(CONNECTION_ERROR)) is not None:
                await self._refuse(exchange, refused)
                return
            await self.app(scope, receive, exchange.send)
        except (ClientGone, ClientDisconnect):
            exchange.status = CLIENT_CLOSED
        except asyncio.CancelledError:
            # The server gives up on what is still open when the time for a shutdown is over.
            if not exchange.status:
                await self._refuse(exchange, NotReady("the service has stopped before the answer was there"))
            raise
        except Exception as error:
            log.exception("request %s failed", exchange.request_id)
            if exchange.status:
                raise
            await self._refuse(exchange, error)

    async def _refuse(self, exchange: "_Exchange", error: BaseException) -> None:
        if (kind := kind_of(error)) is not UNEXPECTED:
            self.metrics.refused(kind.name)
        await exchange.refuse(error)


@dataclass(slots=True)
class _Exchange:
    """One request's way out: `status` is 0 until the answer has begun."""

    to_client: Send
    request_id: str
    path: str
    secured: tuple[tuple[bytes, bytes], ...]
    status: int = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)[REQUEST_ID] = self.request_id
            own = {name for name, _ in message["headers"]}
            if b"etag" in own:  # a file of the interface: nobody's but ours
                own.add(b"cache-control")
            message["headers"] += [each for each in self.secured if each[0] not in own]
        await self.to_client(message)

    async def refuse(self, error: BaseException) -> None:
        document = problem(error, self.request_id, self.path)
        sent = Response(document.json_bytes(), document.status, headers(error) | {"Connection": "close"}, MEDIA_TYPE)
        await self.send({"type": "http.response.start", "status": sent.status_code, "headers": sent.raw_headers})
        await self.send({"type": "http.response.body", "body": sent.body})


class HeadAsGet:
    """HEAD is GET without its body (RFC 9110, 9.3.2), for every route that has GET."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_bodiless(message: Message) -> None:
            scope["method"] = "HEAD"  # the server asks its scope whether the announced body must follow
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope["method"] = "GET"  # in place: the route that is found is written into the same scope
        await self.app(scope, receive, send_bodiless)


def _who(scope: Scope, status: int) -> str:
    known = scope["state"].get("caller")
    if known is not None:
        return str(known.name)
    unknown = status == HTTPStatus.UNAUTHORIZED or CONNECTION_ERROR in scope["state"]
    return str(scope["client"][0]) if unknown and scope.get("client") else ""


def _request_id(fields: Headers) -> str:
    # Ours need only differ from each other; uuid4 asks the system, a tenth of what the event loop does for a picture.
    sent = fields.get(REQUEST_ID, "")
    return sent if _SANE_ID.fullmatch(sent) else f"{getrandbits(128):032x}"
