"""What a scraper is told of input drift, in Prometheus' terms. Knows names; nothing of how a distance is measured."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from model.drift import KINDS
from model.drift_distance import Reading


class DriftMetrics:
    """The metrics of drift in one registry: of a kind that nothing can be said of there is no series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._read: Callable[[], Reading | None] = lambda: None
        self._distance = Gauge(
            "marrowlens_drift_distance",
            "How far the last pictures lie from the drift reference.",
            ["kind"],
            registry=registry,
        )
        self._threshold = Gauge(
            "marrowlens_drift_threshold",
            "What the distance hardly ever exceeds while nothing has drifted.",
            ["kind"],
            registry=registry,
        )
        self._pictures = Gauge(
            "marrowlens_drift_window_pictures", "Pictures that drift is measured over now.", registry=registry
        )

    def watch(self, read: Callable[[], Reading | None]) -> None:
        """What is asked at every scrape; None where drift is not measured."""
        self._read = read

    def refresh(self) -> None:
        """Measure now."""
        reading = self._read() or Reading(0, {}, {})
        self._pictures.set(reading.pictures)
        for gauge, values in ((self._distance, reading.distances), (self._threshold, reading.thresholds)):
            gauge.clear()
            for kind in KINDS:
                if kind in values:
                    gauge.labels(kind).set(values[kind])
