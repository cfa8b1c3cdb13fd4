"""Prometheus metrics of the service, from which docs/metrics.md is generated.

Base units; names start with `marrowlens_`. Each Metrics has its own registry, so that several services fit in one
process. Labels never carry what a client sent.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal, cast, get_args

from prometheus_client import ProcessCollector
from prometheus_client.exposition import generate_latest

from model.drift.distance import DriftMeasurement
from model.drift.reference import KINDS
from model.trust.decision import Decision
from service.concurrency.supervisor import TaskName
from service.concurrency.thread_pools import POOLS
from service.concurrency.worker import Worker
from service.telemetry.metric_registry import MetricRegistry
from service.telemetry.process_metrics import WorkerProcessMetrics

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
_ROUTE = "route template, such as `/classify`; `other` for static files and unknown paths"


class Metrics:
    """All metrics of one service. Its methods are thread-safe.

    Args:
        worker: the process among several, after `share_metrics`; None: the only process.
    """

    def __init__(self, worker: Worker | None = None) -> None:
        self.registry = MetricRegistry(worker)
        if worker is None:
            ProcessCollector(registry=self.registry)
        else:
            WorkerProcessMetrics(self.registry)
        self._request_metrics(self.registry)
        self.connections = ConnectionMetrics(self.registry)
        self._picture_metrics(self.registry)
        self._model_metrics(self.registry)
        # Looking up labels takes longer than counting. The values are few and known, so the caches stay small.
        self._requests_of, self._request_s_of = cache(self._requests.labels), cache(self._request_s.labels)
        self._pictures_of, self._decisions_of = cache(self._pictures.labels), cache(self._decisions.labels)
        self._batches_of = cache(self._batches.labels)
        # Series with alerts start at 0: `increase()` does not see the first event of a new series.
        for series, value in ((self._changes, "refused"), (self._pictures, "failed"), (self._refusals, "unauthorised")):
            series.labels(value)
        for decision in get_args(Decision):
            self._decisions.labels(decision)
        self.drift = DriftMetrics(self.registry)
        self.background = BackgroundMetrics(self.registry)

    def _request_metrics(self, registry: MetricRegistry) -> None:
        self._requests = registry.counter(
            "marrowlens_requests_total",
            "HTTP requests answered, with any status.",
            {"route": _ROUTE, "status": "HTTP status; 499 if the client disconnected before the answer"},
        )
        self._request_s = registry.histogram(
            "marrowlens_request_duration_seconds",
            "Time from a request's headers to the end of its answer, transfer of both bodies included. Refused "
            "requests, which are short, count too.",
            SECONDS,
            {"route": _ROUTE},
        )
        self._refusals = registry.counter(
            "marrowlens_refusals_total",
            "Requests answered with a problem document. Unhandled errors are not counted here: they have status 500 in "
            "marrowlens_requests_total.",
            {"reason": "last part of the problem's `type`"},
        )

        self._keys = registry.gauge("marrowlens_keys", "API keys in the keys file; 0 without a file.", across="max")
        self._keys_file_valid = registry.gauge(
            "marrowlens_keys_file_valid",
            "Whether the keys file is valid. While it is not, the keys read last stay in force. 1 without a file.",
            unit="1 or 0",
            across="min",
        )
        self._keys_file_valid.set(1)

    def _picture_metrics(self, registry: MetricRegistry) -> None:
        self._pictures = registry.counter(
            "marrowlens_pictures_total",
            "Pictures by outcome, single or in a batch. `unsupported`: the image format is not supported; unrelated to "
            "unsupported classes.",
            {"outcome": get_args(PictureOutcome)},
        )
        self._decisions = registry.counter(
            "marrowlens_decisions_total",
            "Answers by decision: accepted, for review by a person, or rejected. 0 without a trust reference.",
            {"decision": get_args(Decision)},
            unit="pictures",
        )
        self._decode_s = registry.histogram(
            "marrowlens_decode_duration_seconds", "Time to decode and resize one picture, failures included.", SECONDS
        )
        self._queue_wait_s = registry.histogram(
            "marrowlens_queue_wait_seconds", "Time a decoded picture waited for its batch to start.", SECONDS
        )
        self._queued = registry.gauge(
            "marrowlens_queue_pictures", "Pictures waiting for a batch. Scale on this metric."
        )
        self._in_flight = registry.gauge("marrowlens_in_flight_pictures", "Pictures accepted and not yet answered.")
        self._limit = registry.gauge(
            "marrowlens_in_flight_limit_pictures",
            "Maximum number of pictures in flight, MARROWLENS_MAX_QUEUE_SIZE. A further picture gets 429.",
        )

    def _model_metrics(self, registry: MetricRegistry) -> None:
        self._run_s = registry.histogram(
            "marrowlens_inference_duration_seconds", "Duration of one inference call.", SECONDS
        )
        self._batch_pictures = registry.histogram(
            "marrowlens_batch_pictures", "Pictures in one inference call, padding not counted.", SIZES
        )
        self._padding = registry.counter(
            "marrowlens_padding_pictures_total", "Padding items computed to fill a batch size."
        )
        self._batches = registry.counter(
            "marrowlens_batches_total",
            "Inference calls by the reason to start the batch and by outcome. If a call fails, all its pictures fail.",
            {"reason": "why the batch was started", "outcome": _BATCH_OUTCOMES},
            unit="calls",
        )
        self._ready = registry.gauge(
            "marrowlens_ready",
            "Readiness, as GET /health/ready: 0 while the model warms up or hangs, and while the service stops.",
            unit="1 or 0",
            across="min",
        )
        self._changes = registry.counter(
            "marrowlens_model_changes_total",
            "Model reloads by outcome. After a refused reload the current model stays.",
            {"outcome": get_args(ChangeOutcome)},
        )
        self._model = registry.info(
            "marrowlens_model_info",
            "The model in use, its execution provider, and what that computes in.",
            {
                "name": "model name in the manifest",
                "version": "model version in the manifest",
                "provider": "onnxruntime execution provider, such as `cpu`, `cuda` or `tensorrt`",
                "precision": "`bf16` if the trunk is computed in bf16, else the precision of the weights",
                "sha256": "SHA-256 of the ONNX file",
                "manifest_sha256": "SHA-256 of the manifest",
            },
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered HTTP request. `route` is the route template, never the requested path."""
        self._requests_of(route, status).inc()
        self._request_s_of(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a request answered with a problem; `reason` is its kind, such as `overloaded` or `not-ready`."""
        self._refusals.labels(reason).inc()

    def keys(self, count: int, *, valid: bool) -> None:
        """Set the number of API keys in force and whether the keys file is valid now."""
        self._keys.set(count)
        self._keys_file_valid.set(valid)

    def picture(self, outcome: PictureOutcome) -> None:
        """Count a picture by its final outcome."""
        self._pictures_of(outcome).inc()

    def decided(self, decision: Decision) -> None:
        """Count an answer by its decision."""
        self._decisions_of(decision).inc()

    def decisions(self) -> dict[Decision, int]:
        """Answers by decision since the start, of all workers. Blocks."""
        found: dict[Decision, int] = dict.fromkeys(get_args(Decision), 0)
        for metric in self.registry.collect():
            for sample in metric.samples if metric.name == "marrowlens_decisions" else ():
                found[cast(Decision, sample.labels["decision"])] = int(sample.value)
        return found

    def decoded(self, seconds: float) -> None:
        """Observe the decoding time of one picture, failures included."""
        self._decode_s.observe(seconds)

    def padded(self, items: int) -> None:
        """Count the padding items of one inference call."""
        self._padding.inc(items)

    def batch_done(self, *, queue_wait_s: Sequence[float], run_s: float, reason: str, failed: bool) -> None:
        """Observe a finished inference call (`BatchObserver`)."""
        for wait_s in queue_wait_s:
            self._queue_wait_s.observe(wait_s)
        self._run_s.observe(run_s)
        self._batch_pictures.observe(len(queue_wait_s))
        self._batches_of(reason, "failed" if failed else "done").inc()

    def watch(self, *, queued: Callable[[], int], in_flight: Callable[[], int], ready: Callable[[], bool]) -> None:
        """Set the functions that gauges call at each scrape."""
        self.registry.follow(self._queued, queued)
        self.registry.follow(self._in_flight, in_flight)
        self.registry.follow(self._ready, ready)

    def in_flight_limit(self, limit: int) -> None:
        """Set the maximum number of pictures in flight."""
        self._limit.set(limit)

    def model(
        self, *, name: str, version: str, sha256: str, manifest_sha256: str, provider: str, precision: str
    ) -> None:
        """Set the model in use, its execution provider, and what that computes in."""
        hashes = {"sha256": sha256, "manifest_sha256": manifest_sha256}
        self._model.info({"name": name, "version": version, "provider": provider, "precision": precision, **hashes})

    def model_change(self, outcome: ChangeOutcome) -> None:
        """Count a model reload by outcome."""
        self._changes.labels(outcome).inc()

    def exposition(self) -> tuple[bytes, str]:
        """All metrics in the Prometheus text format, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE


DropReason = Literal["idle", "refused", "files"]


class ConnectionMetrics:
    """Metrics of open and dropped connections."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._registry = registry
        self._open = registry.gauge(
            "marrowlens_connections", "Open connections, TLS handshakes included.", unit="connections"
        )
        self._limit = registry.gauge(
            "marrowlens_connections_limit",
            "Maximum number of open connections: MARROWLENS_MAX_CONNECTIONS, or less if the system limits open files.",
            unit="connections",
        )
        self._dropped = registry.counter(
            "marrowlens_connections_dropped_total",
            "Connections closed or refused at the limit. `idle`: an idle connection was closed for a new one; "
            "`refused`: all connections were busy; `files`: the system had no file descriptor left.",
            {"reason": get_args(DropReason)},
            unit="connections",
        )
        for reason in get_args(DropReason):
            self._dropped.labels(reason)

    def watch(self, count: Callable[[], int], limit: int) -> None:
        """Set the function that counts open connections at each scrape, and their limit."""
        self._registry.follow(self._open, count)
        self._limit.set(limit)

    def dropped(self, reason: DropReason) -> None:
        """Count a connection that was closed or refused at the limit."""
        self._dropped.labels(reason).inc()


class DriftMetrics:
    """Metrics of input drift. A kind that cannot be measured has no series."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._distance = registry.gauge(
            "marrowlens_drift_distance",
            "Distance of the most recent pictures from the reference: shift of the mean in standard deviations of one "
            "picture; for `class_mix`, Jensen-Shannon distance of the class frequencies, 0 to 1.",
            {"kind": KINDS},
            unit="see description",
            across="mostrecent",
        )
        self._threshold = registry.gauge(
            "marrowlens_drift_threshold",
            "Distance that is rarely exceeded without drift, for the current window size.",
            {"kind": KINDS},
            unit="as the distance",
            across="mostrecent",
        )
        self._pictures = registry.gauge(
            "marrowlens_drift_window_pictures",
            "Pictures in the drift window; below 100 drift is not measured.",
            across="mostrecent",
        )

    def show(self, reading: DriftMeasurement | None) -> None:
        """Set the latest measurement; None if drift is not measured."""
        reading = reading or DriftMeasurement(0, {}, {})
        self._pictures.set(reading.pictures)
        for gauge, values in ((self._distance, reading.distances), (self._threshold, reading.thresholds)):
            for kind in KINDS:
                gauge.labels(kind).set(values.get(kind, math.nan))  # NaN is not exposed


#: Failures outside background tasks: an exception in a thread or in a callback of the event loop.
ELSEWHERE = ("event_loop", "thread")


class BackgroundMetrics:
    """Metrics of background tasks (`supervisor.TaskObserver`) and thread pools."""

    def __init__(self, registry: MetricRegistry) -> None:
        names = get_args(TaskName)
        self._running = registry.gauge(
            "marrowlens_background_task_running",
            "Whether a background task runs: 0 after a failure, until it has run for 10 s again. No series if the task "
            "is not set up.",
            {"task": names},
            unit="1 or 0",
            across="min",
        )
        self._failures = registry.counter(
            "marrowlens_background_task_failures_total",
            "Background tasks that ended with an exception. They restart after 1 s to 60 s, except the one-off tasks "
            "`reload` and `model_retirement`. `thread`, `event_loop`: exceptions outside any task.",
            {"task": (*names, *ELSEWHERE)},
        )
        for name in (*names, *ELSEWHERE):
            self._failures.labels(name)
        pool = {"pool": tuple(each.name for each in POOLS)}
        busy = registry.gauge("marrowlens_thread_pool_busy_threads", "Threads of a pool that are running a call.", pool)
        limit = registry.gauge("marrowlens_thread_pool_limit_threads", "Maximum number of threads in a pool.", pool)
        waiting = registry.gauge(
            "marrowlens_thread_pool_waiting_calls", "Calls waiting for a thread of the pool.", pool
        )
        for each in POOLS:
            limit.labels(each.name).set(each.threads)
            registry.follow(busy.labels(each.name), each.busy)
            registry.follow(waiting.labels(each.name), each.waiting)

    def running(self, task: str, running: bool) -> None:
        """Set whether a task runs, or has failed and waits for its restart."""
        self._running.labels(task).set(running)

    def failed(self, task: str) -> None:
        """Count a task, thread or event-loop callback that ended with an exception."""
        self._failures.labels(task).inc()
