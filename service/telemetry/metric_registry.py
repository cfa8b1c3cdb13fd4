"""A Prometheus registry that keeps a description of each metric, for docs/metrics.md.

The registry of a worker writes its values to files that all workers share (prometheus_client's multiprocess mode), and
collects the values of all of them.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector

from service.concurrency.worker import Worker

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


#: How the gauges of several workers become one: their sum, their largest or smallest value, or the one set last.
Across = Literal["sum", "max", "min", "mostrecent"]


def share_metrics(worker: Worker) -> None:
    """Write all metrics of this process to files; call it before the first registry is made.

    A file belongs to the index of a worker, so one that is started again continues the counts of the one before.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(worker.metrics)
    values.ValueClass = values.MultiProcessValue(lambda: worker.index)  # type: ignore[no-untyped-call]


#: Of workers that run: the gauges of one that ended do not count.
_LIVE: dict[Across, Literal["livesum", "livemax", "livemin", "livemostrecent"]] = {
    "sum": "livesum",
    "max": "livemax",
    "min": "livemin",
    "mostrecent": "livemostrecent",
}


class Info:
    """Information as labels of a gauge: 1 for the current labels, NaN for those before."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._shown: Gauge | None = None

    def info(self, labels: Mapping[str, str]) -> None:
        """Show these labels from now on."""
        if self._shown is not None:
            self._shown.set(math.nan)
        self._shown = self._gauge.labels(**labels)
        self._shown.set(1)


class MetricRegistry(CollectorRegistry):
    """Creates metrics and keeps their descriptions in `specs`, in order of creation.

    Args:
        worker: whose metrics are in files, by `share_metrics`; None: a process that serves alone.
    """

    def __init__(self, worker: Worker | None = None) -> None:
        super().__init__()
        self.specs: list[MetricSpec] = []
        self.worker = worker
        self._refreshed: list[Callable[[], None]] = []

    def before_collect(self, refresh: Callable[[], None]) -> None:
        """Call a function at each `refresh`; it sets gauges."""
        self._refreshed.append(refresh)

    def refresh(self) -> None:
        """Set the gauges that are functions, for other workers to read. Needed in workers only."""
        for refresh in self._refreshed:
            refresh()

    def collect(self) -> Iterator[Metric]:
        """The samples to scrape; of a worker those of all workers.

        Left out are NaN, and the `_created` series of prometheus_client, which double the series count:
        prometheus_client can switch them off for a whole process only.
        """
        for metric in super().collect() if self.worker is None else self._of_all_workers(self.worker):
            metric.samples = [
                sample
                for sample in metric.samples
                if not sample.name.endswith("_created") and not math.isnan(sample.value)
            ]
            yield metric

    def _of_all_workers(self, worker: Worker) -> Iterator[Metric]:
        self.refresh()
        yield from MultiProcessCollector(None, path=str(worker.metrics)).collect()  # type: ignore[no-untyped-call]

    def counter(self, name: str, help: str, labels: Mapping[str, LabelValues] | None = None, unit: str = "") -> Counter:
        """Create a counter. Its name ends in `_total`."""
        found = self._remember(MetricSpec(name, "counter", help, unit, labels or {}))
        return Counter(found.name, found.help, tuple(found.labels), registry=self)

    def gauge(
        self,
        name: str,
        help: str,
        labels: Mapping[str, LabelValues] | None = None,
        unit: str = "",
        *,
        across: Across = "sum",
    ) -> Gauge:
        """Create a gauge; `across` says how those of several workers become one."""
        return self._gauge(MetricSpec(name, "gauge", help, unit, labels or {}), across)

    def follow(self, gauge: Gauge, function: Callable[[], float]) -> None:
        """Let a gauge show what a function returns: at each scrape, in a worker also at each `refresh`."""
        if self.worker is None:
            gauge.set_function(function)
        else:
            self.before_collect(lambda: gauge.set(function()))

    def histogram(
        self, name: str, help: str, bounds: tuple[float, ...], labels: Mapping[str, LabelValues] | None = None
    ) -> Histogram:
        """Create a histogram. `bounds` are upper bucket bounds, in the unit at the end of the name."""
        found = self._remember(MetricSpec(name, "histogram", help, "", labels or {}, bounds))
        return Histogram(found.name, found.help, tuple(found.labels), buckets=bounds, registry=self)

    def info(self, name: str, help: str, labels: Mapping[str, LabelValues]) -> "Info":
        """Create a gauge that is always 1 and informs by its labels. Its name ends in `_info`."""
        return Info(self._gauge(MetricSpec(name, "gauge", help, "always 1", labels), "mostrecent"))

    def _gauge(self, spec: MetricSpec, across: Across) -> Gauge:
        found = self._remember(spec)
        return Gauge(
            found.name,
            found.help,
            tuple(found.labels),
            registry=self,
            multiprocess_mode=_LIVE[across],
        )

    def _remember(self, spec: MetricSpec) -> MetricSpec:
        self.specs.append(spec)
        return spec
