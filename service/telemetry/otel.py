"""Traces by the OpenTelemetry SDK, sent by OTLP over HTTP from a background thread.

Attributes hold nothing that a client sent: no path, query, header, file name or error message. Of an exception only
the class is recorded.
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

#: Maximum number of pictures per request with spans of their own; a batch of thousands would fill the queue.
PICTURES_A_REQUEST = 32
#: Timeout of one export, retries included.
EXPORT_TIMEOUT_S = 5
#: Maximum number of spans waiting to be sent; further ones are dropped.
MAX_QUEUE_SPANS = 4096
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
_SERVER_ERROR = 500


class OtlpRecorder:
    """A `tracing.Recorder` that sends spans by OTLP.

    Args:
        endpoint: base URL of the collector, without `/v1/traces`.
        headers: headers of each export, in the format of OTEL_EXPORTER_OTLP_HEADERS; None: from that variable.
        ratio: fraction of traces recorded when the client sends no sampling decision.
    """

    def __init__(self, endpoint: str, *, headers: str | None, service_name: str, ratio: float) -> None:
        named = None if headers is None else parse_env_headers(headers, liberal=True)
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", headers=named, timeout=EXPORT_TIMEOUT_S)
        self._processor = BatchSpanProcessor(exporter, max_queue_size=MAX_QUEUE_SPANS)
        resource = Resource.create({"service.name": service_name, "service.version": version("marrowlens")})
        provider = TracerProvider(sampler=_Sampler(ratio), resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self.tracer = provider.get_tracer("marrowlens")

    def request(self, parent: TraceParent | None, method: str) -> RequestTrace:
        """Start the server span of a request, a child of the client's span."""
        known = method if method in _METHODS else "_OTHER"
        context = Context() if parent is None else set_span_in_context(NonRecordingSpan(_remote(parent)), Context())
        name = "HTTP" if known == "_OTHER" else known
        span = self.tracer.start_span(name, context, SpanKind.SERVER, {"http.request.method": known})
        return _RequestTrace(self, span, name)

    def stage(self, name: str, parent: Span | None, times: tuple[float, float], **more: Any) -> Span:
        """Start the span of a finished stage. `times` are its begin and end on `time.monotonic`."""
        context = Context() if parent is None else set_span_in_context(parent, Context())
        return self.tracer.start_span(name, context, start_time=_unix_ns(times[0]), **more)

    def batch(self, run: BatchRun) -> SpanContext:
        """The span of an inference call, made once. It has no parent and links to the requests in the batch."""
        if not isinstance(run.exported, SpanContext):
            owners = [timing.owner for timing in run.timings if isinstance(timing.owner, _RequestTrace)]
            links = [Link(owner.span.get_span_context()) for owner in dict.fromkeys(owners)]
            attributes = {"marrowlens.batch.pictures": run.items, "marrowlens.batch.reason": run.reason}
            span = self.stage("batch", None, (run.started, run.ended), links=links, attributes=attributes)
            _end(span, run.ended, "RunFailed" if run.failed else None)
            run.exported, run.timings = span.get_span_context(), ()  # no cycle: each timing holds its run
        assert isinstance(run.exported, SpanContext)
        return run.exported

    def close(self) -> None:
        """Send the remaining spans and end the export thread. Blocks while the collector does not answer."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


class _RequestTrace:
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
        """Record a span for each stage of the picture. An error belongs to the last stage reached."""
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
    """Follows the client's sampling decision, else samples by ratio. Spans with links are always recorded."""

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
        sampler = ALWAYS_ON.should_sample if links else super().should_sample
        return sampler(parent_context, trace_id, name, kind, attributes, links, trace_state)


def _remote(parent: TraceParent) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)


def _unix_ns(monotonic_s: float) -> int:
    return time.time_ns() - round((time.monotonic() - monotonic_s) * 1e9)


def _class_of(error: BaseException | None) -> str | None:
    return None if error is None else type(error).__name__


def _end(span: Span, ended: float, error_class: str | None) -> None:
    if error_class is not None:
        span.set_attribute("error.type", error_class)
        span.set_status(Status(StatusCode.ERROR))
    span.end(_unix_ns(ended))
