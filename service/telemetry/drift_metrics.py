"""What a scraper is told of input drift, in Prometheus' terms. Knows names; nothing of how a distance is measured."""

from model.drift.distance import Reading
from model.drift.reference import KINDS
from service.telemetry.metric_registry import Registry


class DriftMetrics:
    """The metrics of drift in one registry: of a kind that nothing can be said of there is no series."""

    def __init__(self, registry: Registry) -> None:
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
