"""Prometheus metrics of the service."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from prometheus_client import ProcessCollector
from prometheus_client.exposition import generate_latest

from model.drift.distance import Reading
from model.drift.reference import KINDS
from service.concurrency.supervisor import TaskName
from service.concurrency.thread_pools import POOLS
from service.telemetry.metric_registry import MetricRegistry, MetricSpec

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MILLISECONDS = (1, 2, 5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 10_000, 30_000)
SECONDS = tuple(milliseconds / 1000 for milliseconds in _MILLISECONDS)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

PictureOutcome = Literal[
    "answered",
    "too_large",
    "unsupported",
    "undecodable",
    "malformed",
    "refused",
    "expired",
    "closed",
    "cancelled",
    "failed",
]
ChangeOutcome = Literal["done", "refused"]
_BATCH_OUTCOMES = ("done", "failed")
_ROUTE = "a route's template, such as `/classify`; `other` for files of the interface and paths that do not exist"

#: What the client's own collector adds on Linux, from `/proc`.
PROCESS = (
    MetricSpec("process_cpu_seconds_total", "counter", "CPU time used, user and system together."),
    MetricSpec("process_resident_memory_bytes", "gauge", "Memory in use, as the system counts it against a limit."),
    MetricSpec("process_virtual_memory_bytes", "gauge", "Address space; says little."),
    MetricSpec("process_open_fds", "gauge", "Open files and connections.", "files"),
    MetricSpec("process_max_fds", "gauge", "The most files and connections that the system allows.", "files"),
    MetricSpec("process_start_time_seconds", "gauge", "When the process was started.", "seconds since 1970"),
)


class Metrics:
    """Every metric of one service. The methods are called from the event loop and from worker threads alike."""

    def __init__(self) -> None:
        self.registry = MetricRegistry()
        ProcessCollector(registry=self.registry)
        self._of_requests(self.registry)
        self.connections = ConnectionMetrics(self.registry)
        self._of_pictures(self.registry)
        self._of_the_model(self.registry)
        # What is alerted on stands at 0 from the start: a counter that begins with its first event never rises.
        for series, value in ((self._changes, "refused"), (self._pictures, "failed"), (self._refusals, "unauthorised")):
            series.labels(value)
        self.drift = DriftMetrics(self.registry)
        self.background = BackgroundMetrics(self.registry)

    def _of_requests(self, registry: MetricRegistry) -> None:
        self._requests = registry.counter(
            "marrowlens_requests_total",
            "HTTP requests answered, whatever the answer was.",
            {"route": _ROUTE, "status": "HTTP's status; 499 where the client left before its answer"},
        )
        self._request_s = registry.histogram(
            "marrowlens_request_duration_seconds",
            "From a request's head to the end of its answer, the way of its body in and out included. What is refused "
            "is in it too, and is quick.",
            SECONDS,
            {"route": _ROUTE},
        )
        self._refusals = registry.counter(
            "marrowlens_refusals_total",
            "Requests answered with a problem, by its kind. An error that nobody foresaw is none: it is status 500 of "
            "marrowlens_requests_total.",
            {"reason": "the end of the problem's `type`"},
        )

        self._keys = registry.gauge("marrowlens_keys", "API keys that stand in the file of keys; 0 without one.")
        self._keys_file_valid = registry.gauge(
            "marrowlens_keys_file_valid",
            "Whether the file of keys can be read as it is; if not, the keys that were read last go on. 1 without one.",
            unit="1 or 0",
        )
        self._keys_file_valid.set(1)

    def _of_pictures(self, registry: MetricRegistry) -> None:
        self._pictures = registry.counter(
            "marrowlens_pictures_total",
            "What became of each picture, alone or in a batch. `unsupported` is a picture type that is not read here; "
            "it has nothing to do with unsupported classes.",
            {"outcome": get_args(PictureOutcome)},
        )
        self._decode_s = registry.histogram(
            "marrowlens_decode_duration_seconds", "Decoding and resizing one picture, well or not.", SECONDS
        )
        self._queue_wait_s = registry.histogram(
            "marrowlens_queue_wait_seconds", "How long one picture, decoded, waited for its batch to go off.", SECONDS
        )
        self._queued = registry.gauge(
            "marrowlens_queue_pictures", "Pictures that wait for a batch now. What to scale on."
        )
        self._in_flight = registry.gauge(
            "marrowlens_in_flight_pictures", "Pictures accepted and not answered yet: they hold a place each."
        )
        self._limit = registry.gauge(
            "marrowlens_in_flight_limit_pictures",
            "How many places there are: MARROWLENS_MAX_QUEUE_SIZE. One picture more is refused with 429.",
        )

    def _of_the_model(self, registry: MetricRegistry) -> None:
        self._run_s = registry.histogram("marrowlens_inference_duration_seconds", "One call of the model.", SECONDS)
        self._batch_pictures = registry.histogram(
            "marrowlens_batch_pictures", "Pictures in one call of the model, without the empty places.", SIZES
        )
        self._padding = registry.counter(
            "marrowlens_padding_pictures_total", "Empty places that were computed to fill a batch size."
        )
        self._batches = registry.counter(
            "marrowlens_batches_total",
            "Calls of the model: why each went off, and how it ended. Of one that fails, all pictures fail.",
            {"reason": "why the batch was formed", "outcome": _BATCH_OUTCOMES},
            unit="calls",
        )
        self._ready = registry.gauge(
            "marrowlens_ready",
            "What GET /health/ready says: 0 while the model warms up or hangs, and while the service stops.",
            unit="1 or 0",
        )
        self._changes = registry.counter(
            "marrowlens_model_changes_total",
            "Changes of the model while serving. One that is refused changes nothing.",
            {"outcome": get_args(ChangeOutcome)},
        )
        self._model = registry.info(
            "marrowlens_model_info",
            "The model that answers, and what computes it.",
            {
                "name": "of the manifest",
                "version": "of the manifest",
                "provider": "of onnxruntime, such as `cpu`, `cuda` or `tensorrt`",
                "sha256": "of the ONNX file",
                "manifest_sha256": "of the manifest",
            },
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """One HTTP request was answered. `route` is the route's template, never the path that was asked for."""
        self._requests.labels(route, str(status)).inc()
        self._request_s.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was answered with a problem, whose kind is the reason: overloaded, not-ready, malformed-body, …"""
        self._refusals.labels(reason).inc()

    def keys(self, count: int, *, valid: bool) -> None:
        """The file of API keys was looked at: how many stand in it, and whether it can be read as it is now."""
        self._keys.set(count)
        self._keys_file_valid.set(valid)

    def picture(self, outcome: PictureOutcome) -> None:
        """One picture is settled: answered, undecodable, expired, …"""
        self._pictures.labels(outcome).inc()

    def decoded(self, seconds: float) -> None:
        """One picture was decoded, well or not."""
        self._decode_s.observe(seconds)

    def padded(self, places: int) -> None:
        """One call of the model was given so many empty places beside its pictures."""
        self._padding.inc(places)

    def batch_done(self, *, queue_wait_s: Sequence[float], run_s: float, reason: str, failed: bool) -> None:
        """One call of the model ended; the batcher's observer."""
        for wait_s in queue_wait_s:
            self._queue_wait_s.observe(wait_s)
        self._run_s.observe(run_s)
        self._batch_pictures.observe(len(queue_wait_s))
        self._batches.labels(reason, "failed" if failed else "done").inc()

    def watch(self, *, queued: Callable[[], int], in_flight: Callable[[], int], ready: Callable[[], bool]) -> None:
        """What is asked at every scrape, so that a gauge cannot be stale."""
        self._queued.set_function(queued)
        self._in_flight.set_function(in_flight)
        self._ready.set_function(ready)

    def places(self, limit: int) -> None:
        """How many pictures may be accepted and not yet answered at a time."""
        self._limit.set(limit)

    def model(self, *, name: str, version: str, sha256: str, manifest_sha256: str, provider: str) -> None:
        """Which model answers, and on what it computes."""
        hashes = {"sha256": sha256, "manifest_sha256": manifest_sha256}
        self._model.info({"name": name, "version": version, "provider": provider, **hashes})

    def model_change(self, outcome: ChangeOutcome) -> None:
        """Another model took over ("done") or was refused."""
        self._changes.labels(outcome).inc()

    def exposition(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE


DropReason = Literal["idle", "refused", "files"]


class ConnectionMetrics:
    """Open connections, their limit, and those that were ended or refused because of it."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._open = registry.gauge(
            "marrowlens_connections", "Open connections, those in their TLS handshake included.", unit="connections"
        )
        self._limit = registry.gauge(
            "marrowlens_connections_limit",
            "How many may be open: MARROWLENS_MAX_CONNECTIONS, or less where the system allows fewer open files.",
            unit="connections",
        )
        self._dropped = registry.counter(
            "marrowlens_connections_dropped_total",
            "Connections that were closed or not taken because too many were open: `idle` made room for another one, "
            "`refused` found every place busy, for `files` the system had no socket left.",
            {"reason": get_args(DropReason)},
            unit="connections",
        )
        for reason in get_args(DropReason):
            self._dropped.labels(reason)

    def watch(self, count: Callable[[], int], limit: int) -> None:
        """How many are open, asked at every scrape, and how many may be."""
        self._open.set_function(count)
        self._limit.set(limit)

    def dropped(self, reason: DropReason) -> None:
        """One was closed or not taken."""
        self._dropped.labels(reason).inc()


class DriftMetrics:
    """The metrics of drift in one registry: of a kind that nothing can be said of there is no series."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._distance = registry.gauge(
            "marrowlens_drift_distance",
            "How far the last pictures lie from the reference: their mean, in standard deviations of one picture; of "
            "`class_mix`, the Jensen-Shannon distance of the classes that were named, 0 to 1.",
            {"kind": KINDS},
            unit="see there",
        )
        self._threshold = registry.gauge(
            "marrowlens_drift_threshold",
            "What the distance hardly ever exceeds among so many pictures while nothing has drifted.",
            {"kind": KINDS},
            unit="the distance's",
        )
        self._pictures = registry.gauge(
            "marrowlens_drift_window_pictures", "Pictures that drift is measured over now; below a hundred it is not."
        )

    def show(self, reading: Reading | None) -> None:
        """What was measured last, for the scrapes to come; None where drift is not measured."""
        reading = reading or Reading(0, {}, {})
        self._pictures.set(reading.pictures)
        for gauge, values in ((self._distance, reading.distances), (self._threshold, reading.thresholds)):
            gauge.clear()
            for kind in KINDS:
                if kind in values:
                    gauge.labels(kind).set(values[kind])


#: What fails outside of any task: a thread that ends by an exception, a callback of the event loop.
ELSEWHERE = ("event_loop", "thread")


class BackgroundMetrics:
    """`supervisor.Observer`, and gauges of the thread pools, in one registry."""

    def __init__(self, registry: MetricRegistry) -> None:
        names = get_args(TaskName)
        self._running = registry.gauge(
            "marrowlens_background_task_running",
            "Whether a background task runs: 0 from its failure until it has run for 10 s again. No series: it is "
            "not set up.",
            {"task": names},
            unit="1 or 0",
        )
        self._failures = registry.counter(
            "marrowlens_background_task_failures_total",
            "Background tasks that ended by an exception. They are started again, after 1 s to 60 s; `reload` and "
            "`model_retirement` are done once. `thread` and `event_loop`: outside of any task.",
            {"task": (*names, *ELSEWHERE)},
        )
        for name in (*names, *ELSEWHERE):
            self._failures.labels(name)
        pool = {"pool": tuple(each.name for each in POOLS)}
        busy = registry.gauge(
            "marrowlens_thread_pool_busy_threads", "Threads of a pool that are in a call which may block.", pool
        )
        limit = registry.gauge("marrowlens_thread_pool_limit_threads", "The most threads that a pool has.", pool)
        waiting = registry.gauge(
            "marrowlens_thread_pool_waiting_calls", "Calls that wait for a thread of the pool.", pool
        )
        for each in POOLS:
            limit.labels(each.name).set(each.threads)
            busy.labels(each.name).set_function(each.busy)
            waiting.labels(each.name).set_function(each.waiting)

    def running(self, task: str, running: bool) -> None:
        """A task runs, or has failed and waits to be started again."""
        self._running.labels(task).set(running)

    def failed(self, task: str) -> None:
        """A task, a thread or a callback of the event loop ended by an exception."""
        self._failures.labels(task).inc()
