"""A Prometheus registry that keeps a description of each metric, for docs/metrics.md."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric

#: The values of a label if they are a closed set, else a description of them.
LabelValues = tuple[str, ...] | str


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """Description of one metric. `name` is the name in queries: counters end in `_total`, infos in `_info`."""

    name: str
    type: str
    help: str
    unit: str = ""
    labels: Mapping[str, LabelValues] = field(default_factory=dict)
    bounds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.unit:
            # By Prometheus' naming rules the name ends in the unit.
            object.__setattr__(self, "unit", self.name.removesuffix("_total").rpartition("_")[2])


class MetricRegistry(CollectorRegistry):
    """Creates metrics and keeps their descriptions in `specs`, in order of creation."""

    def __init__(self) -> None:
        super().__init__()
        self.specs: list[MetricSpec] = []

    def collect(self) -> Iterable[Metric]:
        """The samples to scrape, without the `_created` series of prometheus_client, which double the series count.

        prometheus_client can switch them off for a whole process only.
        """
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric

    def counter(self, name: str, help: str, labels: Mapping[str, LabelValues] | None = None, unit: str = "") -> Counter:
        """Create a counter. Its name ends in `_total`."""
        found = self._remember(MetricSpec(name, "counter", help, unit, labels or {}))
        return Counter(found.name, found.help, tuple(found.labels), registry=self)

    def gauge(self, name: str, help: str, labels: Mapping[str, LabelValues] | None = None, unit: str = "") -> Gauge:
        """Create a gauge."""
        found = self._remember(MetricSpec(name, "gauge", help, unit, labels or {}))
        return Gauge(found.name, found.help, tuple(found.labels), registry=self)

    def histogram(
        self, name: str, help: str, bounds: tuple[float, ...], labels: Mapping[str, LabelValues] | None = None
    ) -> Histogram:
        """Create a histogram. `bounds` are upper bucket bounds, in the unit at the end of the name."""
        found = self._remember(MetricSpec(name, "histogram", help, "", labels or {}, bounds))
        return Histogram(found.name, found.help, tuple(found.labels), buckets=bounds, registry=self)

    def info(self, name: str, help: str, labels: Mapping[str, LabelValues]) -> Info:
        """Create a gauge that is always 1 and informs by its labels. Its name ends in `_info`."""
        found = self._remember(MetricSpec(name, "gauge", help, "always 1", labels))
        return Info(found.name.removesuffix("_info"), found.help, registry=self)

    def _remember(self, spec: MetricSpec) -> MetricSpec:
        self.specs.append(spec)
        return spec
