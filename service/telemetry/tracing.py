"""Tracing of requests: W3C traceparent, ASGI middleware and the interface of a recorder.

The recorder for OpenTelemetry is `service.telemetry.otel`, imported only if a collector is set. Of a request's data
only the ids in `traceparent` are passed on.
"""

import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import NamedTuple, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.telemetry.item_timing import ItemTiming
from service.telemetry.request_context import RequestIds, current_request

#: https://www.w3.org/TR/trace-context/#traceparent-header; later versions may add to it.
_TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01
#: Health probes and scrapes, which would be most of all traces.
UNTRACED = ("/health/", "/metrics", "/v2/health/")


class TraceParent(NamedTuple):
    """The parent span named by a request's `traceparent` header."""

    trace_id: str
    span_id: str
    sampled: bool


class RequestTrace(Protocol):
    """Trace of one request."""

    @property
    def trace_id(self) -> str: ...

    @property
    def span_id(self) -> str: ...

    def item_timing(self) -> ItemTiming | None:
        """Timestamps for one picture to fill; None if the picture is not traced."""

    def item_done(self, timing: ItemTiming, error: BaseException | None) -> None:
        """Record the spans of a picture that was answered or failed."""

    def end(self, route: str | None, status: int) -> None:
        """End the request's span. `route` is a template, None if no route matched; `status` is 0 if the client
        disconnected."""


class Recorder(Protocol):
    """Destination of spans."""

    def request(self, parent: TraceParent | None, method: str) -> RequestTrace:
        """Start the trace of a request."""

    def close(self) -> None:
        """Send the remaining spans. Blocking: call it in a thread."""


#: Trace of the current task's request; None if it is not recorded.
current_trace: ContextVar[RequestTrace | None] = ContextVar("trace", default=None)


def parse_traceparent(headers: Iterable[tuple[bytes, bytes]]) -> TraceParent | None:
    """The parent span of a request; None without a `traceparent`, with several, or with a malformed one."""
    sent = [value for name, value in headers if name == b"traceparent"]
    found = _TRACEPARENT.fullmatch(sent[0].strip()) if len(sent) == 1 else None
    if found is None or (found[1] == b"00" and found[5] is not None):
        return None
    return TraceParent(found[2].decode(), found[3].decode(), bool(int(found[4], 16) & _SAMPLED))


class TracingMiddleware:
    """Outermost ASGI middleware: sets each request's ids for the log and, with a recorder, its trace."""

    def __init__(self, app: ASGIApp, recorder: Recorder | None) -> None:
        self.app = app
        self._recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        parent = parse_traceparent(scope["headers"])
        trace = None
        if self._recorder is not None and not scope["path"].startswith(UNTRACED):
            trace = self._recorder.request(parent, scope["method"])
        state = scope.setdefault("state", {})
        ids = (trace.trace_id, trace.span_id) if trace else (parent.trace_id if parent else "", "")
        request_token, trace_token = current_request.set(RequestIds(state, *ids)), current_trace.set(trace)
        try:
            await self._call_app(scope, receive, send, trace)
        finally:
            current_trace.reset(trace_token)
            current_request.reset(request_token)

    async def _call_app(self, scope: Scope, receive: Receive, send: Send, trace: RequestTrace | None) -> None:
        status = 0

        async def send_recording_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send if trace is None else send_recording_status)
        finally:
            if trace is not None:
                trace.end(getattr(scope.get("route"), "path", None), status)
