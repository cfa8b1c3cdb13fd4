"""The `process_` metrics of a worker. prometheus_client's own collector shows one process only."""

import time
from collections.abc import Mapping

from prometheus_client import ProcessCollector

from service.telemetry.metric_registry import Across, MetricRegistry, MetricSpec

#: Metrics that prometheus_client adds on Linux, from `/proc`.
PROCESS = (
    MetricSpec("process_cpu_seconds_total", "counter", "CPU time used, user plus system."),
    MetricSpec("process_resident_memory_bytes", "gauge", "Resident memory, which counts against a memory limit."),
    MetricSpec("process_virtual_memory_bytes", "gauge", "Reserved address space, larger than the memory in use."),
    MetricSpec("process_open_fds", "gauge", "Open file descriptors, connections included.", "files"),
    MetricSpec("process_max_fds", "gauge", "Maximum number of open file descriptors.", "files"),
    MetricSpec("process_start_time_seconds", "gauge", "Start time of the process.", "seconds since 1970"),
)
#: File descriptors are limited by process, so the fullest process counts. The newest start shows each restart.
_ACROSS: Mapping[str, Across] = {
    "process_open_fds": "max",
    "process_max_fds": "min",
    "process_start_time_seconds": "max",
}


class WorkerProcessMetrics:
    """Writes the process metrics of this worker at each refresh of its registry."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._collector = ProcessCollector(registry=None)
        self._gauges = {
            spec.name: registry.gauge(spec.name, spec.help, unit=spec.unit, across=_ACROSS.get(spec.name, "sum"))
            for spec in PROCESS
            if spec.type == "gauge"
        }
        cpu = PROCESS[0]
        self._cpu_s = registry.counter(cpu.name, cpu.help)
        self._counted_s = 0.0
        registry.before_collect(self._refresh)

    def _refresh(self) -> None:
        used_s = time.process_time()
        self._cpu_s.inc(used_s - self._counted_s)
        self._counted_s = used_s
        for metric in self._collector.collect():
            if (gauge := self._gauges.get(metric.name)) is not None:
                gauge.set(metric.samples[0].value)
