"""The trace that a request belongs to: whose it is, which of its stages are told of, and who is told.

Knows W3C's traceparent and the ways through ASGI. Knows no OpenTelemetry: that is service.telemetry.otel, loaded only
where a
collector is named. Of what a client sends nothing but the two ids of its trace goes any further.
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
#: What machinery asks every few seconds, and what would be most of all traces.
UNTRACED = ("/health/", "/metrics", "/v2/health/")


class TraceParent(NamedTuple):
    """The span of the caller that a request comes from."""

    trace_id: str
    span_id: str
    sampled: bool


class RequestTrace(Protocol):
    """One request, to whoever records it."""

    @property
    def trace_id(self) -> str: ...

    @property
    def span_id(self) -> str: ...

    def item_timing(self) -> ItemTiming | None:
        """For one picture of the request; None where it is not to be told of."""

    def item_done(self, timing: ItemTiming, error: BaseException | None) -> None:
        """That picture is answered, or has failed."""

    def end(self, route: str | None, status: int) -> None:
        """The request is answered. `route` is a template, None where no route was found; `status` 0: nobody was left
        to answer."""


class Recorder(Protocol):
    """Where spans go."""

    def request(self, caller: TraceParent | None, method: str) -> RequestTrace:
        """A request has come."""

    def close(self) -> None:
        """Send what is left. Blocks: call it in a thread."""


#: Of the request that the task at hand answers; None where nothing is recorded.
current_trace: ContextVar[RequestTrace | None] = ContextVar("trace", default=None)


def parse_traceparent(headers: Iterable[tuple[bytes, bytes]]) -> TraceParent | None:
    """What the one `traceparent` says; None where there is none, several, or one that is malformed."""
    sent = [value for name, value in headers if name == b"traceparent"]
    found = _TRACEPARENT.fullmatch(sent[0].strip()) if len(sent) == 1 else None
    if found is None or (found[1] == b"00" and found[5] is not None):
        return None
    return TraceParent(found[2].decode(), found[3].decode(), bool(int(found[4], 16) & _SAMPLED))


class TracingMiddleware:
    """Pure ASGI, around everything else: each request's ids for the log, and its span where there is a recorder."""

    def __init__(self, app: ASGIApp, recorder: Recorder | None) -> None:
        self.app = app
        self._recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        caller = parse_traceparent(scope["headers"])
        trace = None
        if self._recorder is not None and not scope["path"].startswith(UNTRACED):
            trace = self._recorder.request(caller, scope["method"])
        state = scope.setdefault("state", {})
        ids = (trace.trace_id, trace.span_id) if trace else (caller.trace_id if caller else "", "")
        told, recorded = current_request.set(RequestIds(state, *ids)), current_trace.set(trace)
        try:
            await self._answered(scope, receive, send, trace)
        finally:
            current_trace.reset(recorded)
            current_request.reset(told)

    async def _answered(self, scope: Scope, receive: Receive, send: Send, trace: RequestTrace | None) -> None:
        status = 0

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send if trace is None else send_and_see)
        finally:
            if trace is not None:
                trace.end(getattr(scope.get("route"), "path", None), status)
