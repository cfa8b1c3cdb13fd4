"""What the service counts and times, in Prometheus' terms: base units, names under `marrowlens_`.

Knows names, labels and buckets. Knows nothing of where the numbers come from. Each Metrics has a registry of its own,
so that several services can live in one process. No label ever carries what a client sent.
"""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric, ProcessCollector
from prometheus_client.exposition import generate_latest

from service.drift_metrics import DriftMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MILLISECONDS = (1, 2, 5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 10_000, 30_000)
SECONDS = tuple(milliseconds / 1000 for milliseconds in _MILLISECONDS)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _WithoutCreated(CollectorRegistry):
    # The client adds the time of creation to each counter and histogram, which doubles the series and tells nobody
    # anything; it can be switched off only for the whole process.
    def collect(self) -> Iterable[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Metrics:
    """Every metric of one service. The methods are called from the event loop and from worker threads alike."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = _WithoutCreated()
        ProcessCollector(registry=self.registry)
        self._requests = self._counter("requests", "HTTP requests answered.", "route", "status")
        self._request_s = self._histogram("request_duration_seconds", "Time to answer a request.", SECONDS, "route")
        self._refusals = self._counter("refusals", "Requests answered with a problem, by its kind.", "reason")
        self._pictures = self._counter("pictures", "Pictures by what became of them.", "outcome")
        self._decode_s = self._histogram("decode_duration_seconds", "Time to decode and resize a picture.", SECONDS)
        self._queue_wait_s = self._histogram("queue_wait_seconds", "Time a picture waited for its batch.", SECONDS)
        self._run_s = self._histogram("inference_duration_seconds", "Time of one call of the model.", SECONDS)
        self._batch_pictures = self._histogram("batch_pictures", "Pictures in one call of the model.", SIZES)
        self._padding = self._counter("padding_pictures", "Empty places computed to fill a batch size.")
        self._batches = self._counter("batches", "Calls of the model by why they went off.", "reason", "outcome")
        self._queued = self._gauge("queue_pictures", "Pictures waiting for a batch.")
        self._in_flight = self._gauge("in_flight_pictures", "Pictures accepted and not yet answered.")
        self._ready = self._gauge("ready", "Whether the service is ready: 1 or 0.")
        self._keys = self._gauge("keys", "API keys in the file of keys.")
        self._keys_file_valid = self._gauge("keys_file_valid", "Whether the file of keys can be read as it is: 1 or 0.")
        self._keys_file_valid.set(1)
        self._changes = self._counter("model_changes", "Changes of the model while serving.", "outcome")
        # What is alerted on stands at 0 from the start: a counter that begins with its first event never rises.
        for series, value in ((self._changes, "refused"), (self._pictures, "failed"), (self._refusals, "unauthorised")):
            series.labels(value)
        self.drift = DriftMetrics(self.registry)
        self._model = Info("marrowlens_model", "The model that answers.", registry=self.registry)

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

    def picture(self, outcome: str) -> None:
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

    def model(self, *, name: str, version: str, sha256: str, manifest_sha256: str, provider: str) -> None:
        """Which model answers, and on what it computes."""
        hashes = {"sha256": sha256, "manifest_sha256": manifest_sha256}
        self._model.info({"name": name, "version": version, "provider": provider, **hashes})

    def model_change(self, outcome: str) -> None:
        """Another model took over ("done") or was refused."""
        self._changes.labels(outcome).inc()

    def exposition(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its content type."""
        self.drift.refresh()
        return generate_latest(self.registry), CONTENT_TYPE

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"marrowlens_{name}", help, labels, registry=self.registry)

    def _gauge(self, name: str, help: str) -> Gauge:
        return Gauge(f"marrowlens_{name}", help, registry=self.registry)

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"marrowlens_{name}", help, labels, buckets=buckets, registry=self.registry)
