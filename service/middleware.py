"""What wraps every request: its id, its count in the metrics, HEAD, and the last resort for an unexpected error.

Pure ASGI, so that streams stay streams and a disconnect stays visible. Knows no route.
"""

import logging
import re
import time
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ClientGone
from service.metrics import Metrics
from service.problems import MEDIA_TYPE, problem

REQUEST_ID = "X-Request-ID"
#: What a client's own id may be; anything else is replaced, because it goes into logs and headers.
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
#: Counted, never sent: the client closed the connection before its answer (nginx's number for it).
CLIENT_CLOSED = 499

log = logging.getLogger(__name__)
access_log = logging.getLogger("service.access")


class RequestContext:
    """Gives each request an id, counts it, and answers an unexpected error with a problem that tells nothing inside.

    The access log holds route, status and duration: no address, no query, no file name.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        identifier = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = identifier
        started_s, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = identifier
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except (ClientGone, ClientDisconnect):
            status = CLIENT_CLOSED
        except Exception as error:
            log.exception("request %s failed", identifier)
            if status:
                raise
            await _send_problem(error, identifier, send_with_id)
        finally:
            self._count(scope, status or CLIENT_CLOSED, time.perf_counter() - started_s, identifier)

    def _count(self, scope: Scope, status: int, duration_s: float, identifier: str) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        self.metrics.request(route, status, duration_s)
        access_log.info("%s %s %d %.1f ms %s", scope["method"], route, status, 1000 * duration_s, identifier)


class HeadAsGet:
    """HEAD is GET without its body (RFC 9110, 9.3.2), for every route that has GET."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_bodiless(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self.app({**scope, "method": "GET"}, receive, send_bodiless)


def _request_id(headers: Headers) -> str:
    sent = headers.get(REQUEST_ID, "")
    return sent if _SANE_ID.fullmatch(sent) else uuid4().hex


async def _send_problem(error: Exception, identifier: str, send: Send) -> None:
    document = problem(error, identifier)
    headers = [(b"content-type", MEDIA_TYPE.encode())]
    await send({"type": "http.response.start", "status": document.status, "headers": headers})
    await send({"type": "http.response.body", "body": document.json_bytes()})
