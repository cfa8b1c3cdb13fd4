"""Metrics as they are declared: a name, what it means, its unit, its labels and their values; made in a registry that
remembers it for docs/metrics.md.

Knows Prometheus' rules for names and units. Knows no metric.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric

#: A label's values where they are a closed set; a sentence of what they are where they are not.
LabelValues = tuple[str, ...] | str


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. `name` is what a query asks for: that of a counter ends in `_total`, that of an info in `_info`."""

    name: str
    type: str
    help: str
    unit: str = ""
    labels: Mapping[str, LabelValues] = field(default_factory=dict)
    bounds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.unit:
            # Prometheus asks for the unit at the end of the name.
            object.__setattr__(self, "unit", self.name.removesuffix("_total").rpartition("_")[2])


class MetricRegistry(CollectorRegistry):
    """Makes metrics and remembers them, in the order in which they were declared."""

    def __init__(self) -> None:
        super().__init__()
        self.specs: list[MetricSpec] = []

    def collect(self) -> Iterable[Metric]:
        """What is scraped. The client adds the time of creation to each counter and histogram, which doubles the series
        and tells nobody anything; it can be switched off only for the whole process."""
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric

    def counter(self, name: str, help: str, labels: Mapping[str, LabelValues] | None = None, unit: str = "") -> Counter:
        """A counter, whose name ends in `_total`."""
        found = self._remember(MetricSpec(name, "counter", help, unit, labels or {}))
        return Counter(found.name, found.help, tuple(found.labels), registry=self)

    def gauge(self, name: str, help: str, labels: Mapping[str, LabelValues] | None = None, unit: str = "") -> Gauge:
        """A gauge."""
        found = self._remember(MetricSpec(name, "gauge", help, unit, labels or {}))
        return Gauge(found.name, found.help, tuple(found.labels), registry=self)

    def histogram(
        self, name: str, help: str, bounds: tuple[float, ...], labels: Mapping[str, LabelValues] | None = None
    ) -> Histogram:
        """A histogram with the upper bounds of its buckets, in the unit that its name ends in."""
        found = self._remember(MetricSpec(name, "histogram", help, "", labels or {}, bounds))
        return Histogram(found.name, found.help, tuple(found.labels), buckets=bounds, registry=self)

    def info(self, name: str, help: str, labels: Mapping[str, LabelValues]) -> Info:
        """A gauge that is always 1, whose labels are what it tells; its name ends in `_info`."""
        found = self._remember(MetricSpec(name, "gauge", help, "always 1", labels))
        return Info(found.name.removesuffix("_info"), found.help, registry=self)

    def _remember(self, declared: MetricSpec) -> MetricSpec:
        self.specs.append(declared)
        return declared
