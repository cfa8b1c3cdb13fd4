"""What is counted of connections, whatever they carry."""

from collections.abc import Callable
from typing import Literal, get_args

from service.telemetry.metric_registry import Registry

DropReason = Literal["idle", "refused", "files"]


class ConnectionMetrics:
    """Open connections, their limit, and those that were ended or refused because of it."""

    def __init__(self, registry: Registry) -> None:
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
