"""Spans by OpenTelemetry's SDK, sent by OTLP over HTTP in a thread of its own, which nobody waits for.

Knows spans, samplers and the exporter. No attribute holds what a client sent: no path, no query, no header, no name,
no message of an error; of an exception its class alone.
"""

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.util.re import parse_env_headers

from service.telemetry.item_timing import BatchRun, ItemTiming
from service.telemetry.tracing import RequestTrace, TraceParent

#: Pictures of one request that are told of one by one; a batch of thousands would crowd out all other spans.
PICTURES_A_REQUEST = 32
#: One attempt at sending, retries included.
EXPORT_TIMEOUT_S = 5
#: Spans that wait to be sent; more are dropped.
MAX_QUEUE_SPANS = 4096
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
_SERVER_ERROR = 500


class OtlpRecorder:
    """`tracing.Recorder` by OTLP.

    Args:
        endpoint: base URL of the collector; spans go to `/v1/traces` below it.
        headers: sent with every export, as OTEL_EXPORTER_OTLP_HEADERS is written; None: what that variable says.
        ratio: part of the traces that are recorded, of those whose caller has not decided.
    """

    def __init__(self, endpoint: str, *, headers: str | None, service_name: str, ratio: float) -> None:
        named = None if headers is None else parse_env_headers(headers, liberal=True)
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", headers=named, timeout=EXPORT_TIMEOUT_S)
        self._processor = BatchSpanProcessor(exporter, max_queue_size=MAX_QUEUE_SPANS)
        resource = Resource.create({"service.name": service_name, "service.version": version("marrowlens")})
        provider = TracerProvider(sampler=_Sampler(ratio), resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self.tracer = provider.get_tracer("marrowlens")

    def request(self, caller: TraceParent | None, method: str) -> RequestTrace:
        """The server's span, below the caller's."""
        known = method if method in _METHODS else "_OTHER"
        context = Context() if caller is None else set_span_in_context(NonRecordingSpan(_remote(caller)), Context())
        name = "HTTP" if known == "_OTHER" else known
        span = self.tracer.start_span(name, context, SpanKind.SERVER, {"http.request.method": known})
        return _Request(self, span, name)

    def stage(self, name: str, parent: Span | None, times: tuple[float, float], **more: Any) -> Span:
        """A span that is over already; `times` are on `time.monotonic`."""
        context = Context() if parent is None else set_span_in_context(parent, Context())
        span = self.tracer.start_span(name, context, start_time=_unix_ns(times[0]), **more)
        return span

    def batch(self, run: BatchRun) -> SpanContext:
        """The one span of a call of the model, which belongs to no request, and is linked to those in it."""
        if not isinstance(run.exported, SpanContext):
            owners = [timing.owner for timing in run.timings if isinstance(timing.owner, _Request)]
            links = [Link(owner.span.get_span_context()) for owner in dict.fromkeys(owners)]
            attributes = {"marrowlens.batch.pictures": run.items, "marrowlens.batch.reason": run.reason}
            span = self.stage("batch", None, (run.started, run.ended), links=links, attributes=attributes)
            _end(span, run.ended, "RunFailed" if run.failed else None)
            run.exported, run.timings = span.get_span_context(), ()  # no cycle: each timing holds its run
        assert isinstance(run.exported, SpanContext)
        return run.exported

    def close(self) -> None:
        """Send what is left, and end the thread that sends. Waits for a collector that does not answer."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


class _Request:
    def __init__(self, spans: OtlpRecorder, span: Span, method: str) -> None:
        self.span = span
        self._spans = spans
        self._method = method
        self._pictures = 0
        context = span.get_span_context()
        self.trace_id, self.span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"

    def item_timing(self) -> ItemTiming | None:
        if not self.span.is_recording() or self._pictures >= PICTURES_A_REQUEST:
            return None
        self._pictures += 1
        return ItemTiming(self)

    def item_done(self, timing: ItemTiming, error: BaseException | None) -> None:
        """Its stages; the last that it came to is that of its error."""
        if not timing.queued_at:
            return
        now, run = time.monotonic(), timing.run
        prepared = timing.prepared_at
        stages: list[tuple[str, float, float | None]] = [("queue for decode", timing.queued_at, timing.prepare_began)]
        if timing.prepare_began is not None:
            stages.append(("decode", timing.prepare_began, prepared))
        if prepared is not None:
            stages.append(("queue for batch", prepared, run.started if run else None))
        for at, (name, began, ended) in enumerate(stages):
            failed = error if run is None and at == len(stages) - 1 else None
            span = self._spans.stage(name, self.span, (began, ended or now))
            _end(span, ended or now, _class_of(failed))
        if run is not None:
            links, attributes = [Link(self._spans.batch(run))], {"marrowlens.batch.pictures": run.items}
            times = run.started, run.ended
            span = self._spans.stage("inference", self.span, times, links=links, attributes=attributes)
            _end(span, run.ended, _class_of(error))

    def end(self, route: str | None, status: int) -> None:
        if route is not None:
            self.span.update_name(f"{self._method} {route}")
            self.span.set_attribute("http.route", route)
        if status:
            self.span.set_attribute("http.response.status_code", status)
        if self._pictures:
            self.span.set_attribute("marrowlens.pictures.told", self._pictures)
        if not status or status >= _SERVER_ERROR:
            self.span.set_attribute("error.type", str(status) if status else "client_disconnect")
            self.span.set_status(Status(StatusCode.ERROR) if status else Status(StatusCode.UNSET))
        self.span.end()


class _Sampler(ParentBased):
    """What the caller has decided holds; else a part of the traces. A span with a link is made for what is recorded."""

    def __init__(self, ratio: float) -> None:
        super().__init__(TraceIdRatioBased(ratio))

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        asked = ALWAYS_ON.should_sample if links else super().should_sample
        return asked(parent_context, trace_id, name, kind, attributes, links, trace_state)


def _remote(caller: TraceParent) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if caller.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(caller.trace_id, 16), int(caller.span_id, 16), is_remote=True, trace_flags=flags)


def _unix_ns(monotonic_s: float) -> int:
    return time.time_ns() - round((time.monotonic() - monotonic_s) * 1e9)


def _class_of(error: BaseException | None) -> str | None:
    return None if error is None else type(error).__name__


def _end(span: Span, ended: float, error_class: str | None) -> None:
    if error_class is not None:
        span.set_attribute("error.type", error_class)
        span.set_status(Status(StatusCode.ERROR))
    span.end(_unix_ns(ended))
