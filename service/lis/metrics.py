"""What a laboratory counts, in Prometheus' terms, beside the service's own metrics.

No label holds a number or a name of a specimen, a patient or a person.
"""

from collections.abc import Iterable
from typing import Literal, get_args

from service.lis.storage.outbox import Depth
from service.telemetry.metric_registry import MetricRegistry

Action = Literal["open", "change", "add", "read", "preliminary", "sign", "amend", "cancel"]
OrderOutcome = Literal["taken", "repeated", "refused"]
DeliveryOutcome = Literal["delivered", "rejected", "unanswered"]
ChannelName = Literal["hl7", "fhir", "astm"]

#: How a connection with orders ended: by the sender; lost; refused for want of a slot; to make room for another; silent
#: for too long; a message or an answer that took too long; no TLS; no MLLP; a fault of ours; because we stop.
ConnectionEnd = Literal[
    "closed", "lost", "refused", "displaced", "idle", "timeout", "tls", "broken", "error", "stopped"
]


class ConnectionMetrics:
    """Counts connections over which orders come."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._open = registry.gauge(
            "marrowlens_lis_order_connections", "Connections over which HL7 messages with orders may come."
        )
        self._ended = registry.counter(
            "marrowlens_lis_order_connections_ended_total",
            "Such connections that ended, by how: closed by the sender, lost, refused because every slot or every slot "
            "of the sender was taken, displaced by another one while silent, silent for too long (idle), a message or "
            "an answer that took too long (timeout), no TLS or no certificate (tls), no MLLP (broken), an error of the "
            "service, or because it stopped.",
            {"how": get_args(ConnectionEnd)},
            unit="connections",
        )

    def open(self, count: int) -> None:
        """So many are open now."""
        self._open.set(count)

    def ended(self, how: ConnectionEnd) -> None:
        """One has ended, or was refused."""
        self._ended.labels(how).inc()


class LisMetrics:
    """The laboratory's metrics in one registry."""

    def __init__(self, registry: MetricRegistry) -> None:
        channel = {"channel": get_args(ChannelName)}
        self._specimens = registry.counter(
            "marrowlens_lis_specimens_total",
            "What was done to specimens over HTTP.",
            {"action": get_args(Action)},
            unit="actions",
        )
        self._orders = registry.counter(
            "marrowlens_lis_order_messages_total",
            "HL7 messages with orders that could be read, by how they were answered.",
            {"outcome": get_args(OrderOutcome)},
        )
        self.connections = ConnectionMetrics(registry)
        self._attempts = registry.counter(
            "marrowlens_lis_delivery_attempts_total",
            "Attempts at delivering one message to its receiver, by how they ended: one `rejected` is a dead letter, "
            "one `unanswered` is tried again.",
            {**channel, "outcome": get_args(DeliveryOutcome)},
        )
        self._waiting = registry.gauge(
            "marrowlens_lis_outbox_messages", "Messages that wait to be delivered, or to be tried again.", channel
        )
        self._oldest_s = registry.gauge(
            "marrowlens_lis_outbox_oldest_age_seconds",
            "Age of the oldest message that waits, since its report was written; 0 if none waits.",
            channel,
        )
        self._dead = registry.gauge(
            "marrowlens_lis_dead_letters",
            "Messages that were refused or given up, and that a person has to look at: `marrowlens lis show`.",
            channel,
            unit="messages",
        )

    def done(self, action: Action) -> None:
        """Something was done to a specimen."""
        self._specimens.labels(action).inc()

    def order(self, outcome: OrderOutcome) -> None:
        """A message with orders was answered."""
        self._orders.labels(outcome).inc()

    def tried(self, channel: str, outcome: DeliveryOutcome) -> None:
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
