"""What a laboratory counts, in Prometheus' terms, beside the service's own metrics.

No label holds a number or a name of a specimen, a patient or a person.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.lis.outbox import Depth


class LisMetrics:
    """The laboratory's metrics in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"marrowlens_lis_{name}", help, labels, registry=registry)

        def gauge(name: str, help: str, *labels: str) -> Gauge:
            return Gauge(f"marrowlens_lis_{name}", help, labels, registry=registry)

        self._specimens = counter("specimens", "What was done to specimens.", "action")
        self._orders = counter("order_messages", "Messages with orders, by how they were answered.", "outcome")
        self._attempts = counter(
            "delivery_attempts", "Attempts to deliver a message, by how they ended.", "channel", "outcome"
        )
        self._waiting = gauge("outbox_messages", "Messages that wait to be delivered.", "channel")
        self._oldest_s = gauge(
            "outbox_oldest_age_seconds", "Age of the oldest message that waits; 0 if none.", "channel"
        )
        self._dead = gauge("dead_letters", "Messages that a person has to look at.", "channel")

    def done(self, action: str) -> None:
        """Something was done to a specimen: open, add, read, preliminary, sign, amend, cancel, change."""
        self._specimens.labels(action).inc()

    def order(self, outcome: str) -> None:
        """A message with orders was taken, repeated or refused."""
        self._orders.labels(outcome).inc()

    def tried(self, channel: str, outcome: str) -> None:
        """A message was delivered, rejected, or not answered."""
        self._attempts.labels(channel, outcome).inc()

    def depths(self, channels: Iterable[str], found: Iterable[Depth], ages_s: Iterable[float]) -> None:
        """How the outbox stands now; channels in which nothing waits stand at 0."""
        by_channel = {depth.channel: (depth, age_s) for depth, age_s in zip(found, ages_s, strict=True)}
        for channel in {*channels, *by_channel}:
            depth, age_s = by_channel.get(channel, (Depth(channel, 0, 0, None), 0.0))
            self._waiting.labels(channel).set(depth.waiting)
            self._dead.labels(channel).set(depth.dead)
            self._oldest_s.labels(channel).set(age_s)
