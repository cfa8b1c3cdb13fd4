"""Prometheus metrics of the laboratory. Labels never name a specimen, a patient or a person."""

from collections.abc import Iterable
from typing import Literal, get_args

from service.lis.storage.outbox import Depth
from service.telemetry.metric_registry import MetricRegistry

Action = Literal[
    "open",
    "change",
    "add",
    "read",
    "second_reading",
    "preliminary",
    "sign",
    "amend",
    "cancel",
    "remove",
    "erase",
    "retry",
    "drop",
]
OrderOutcome = Literal["taken", "repeated", "refused"]
DeliveryOutcome = Literal["delivered", "rejected", "unanswered"]
ChannelName = Literal["hl7", "fhir", "astm"]

#: How a connection for orders ended; the values are explained at the metric below.
ConnectionEnd = Literal[
    "closed", "lost", "refused", "displaced", "idle", "timeout", "tls", "broken", "error", "stopped"
]


class ConnectionMetrics:
    """Metrics of the connections for orders."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._open = registry.gauge("marrowlens_lis_order_connections", "Open HL7 connections for orders.")
        self._ended = registry.counter(
            "marrowlens_lis_order_connections_ended_total",
            "Ended connections for orders. `closed`: by the sender; `lost`: network failure; `refused`: at the limit "
            "of all senders or of one; `displaced`: silent, and replaced by a new one; `idle`: silent for too long; "
            "`timeout`: a message or an answer took too long; `tls`: no TLS or no certificate; `broken`: no MLLP; "
            "`error`: error of the service; `stopped`: the service stopped.",
            {"how": get_args(ConnectionEnd)},
            unit="connections",
        )

    def open(self, count: int) -> None:
        """Set the number of open connections."""
        self._open.set(count)

    def ended(self, how: ConnectionEnd) -> None:
        """Count a connection that ended or was refused."""
        self._ended.labels(how).inc()


class LisMetrics:
    """All metrics of a laboratory."""

    def __init__(self, registry: MetricRegistry) -> None:
        channel = {"channel": get_args(ChannelName)}
        self._specimens = registry.counter(
            "marrowlens_lis_specimens_total",
            "Actions on specimens over HTTP.",
            {"action": get_args(Action)},
            unit="actions",
        )
        self._orders = registry.counter(
            "marrowlens_lis_order_messages_total",
            "Readable HL7 messages with orders, by answer: taken, repeated (already known) or refused.",
            {"outcome": get_args(OrderOutcome)},
        )
        self.connections = ConnectionMetrics(registry)
        self._attempts = registry.counter(
            "marrowlens_lis_delivery_attempts_total",
            "Delivery attempts by outcome. A `rejected` message becomes a dead letter, an `unanswered` one is retried.",
            {**channel, "outcome": get_args(DeliveryOutcome)},
        )
        self._waiting = registry.gauge(
            "marrowlens_lis_outbox_messages",
            "Messages waiting for delivery or retry, or held.",
            channel,
            across="mostrecent",
        )
        self._oldest_s = registry.gauge(
            "marrowlens_lis_outbox_oldest_age_seconds",
            "Age of the oldest waiting message, since its report was written; 0 if none is waiting.",
            channel,
            across="mostrecent",
        )
        self._dead = registry.gauge(
            "marrowlens_lis_dead_letters",
            "Messages rejected or given up, to be checked by a person with `marrowlens lis show`.",
            channel,
            unit="messages",
            across="mostrecent",
        )

    def count_action(self, action: Action) -> None:
        """Count an action on a specimen."""
        self._specimens.labels(action).inc()

    def count_order_message(self, outcome: OrderOutcome) -> None:
        """Count a message with orders by its answer."""
        self._orders.labels(outcome).inc()

    def count_attempt(self, channel: str, outcome: DeliveryOutcome) -> None:
        """Count a delivery attempt by its outcome."""
        self._attempts.labels(channel, outcome).inc()

    def set_outbox(self, channels: Iterable[str], found: Iterable[Depth], ages_s: Iterable[float]) -> None:
        """Set the state of the outbox; channels without messages are set to 0."""
        by_channel = {depth.channel: (depth, age_s) for depth, age_s in zip(found, ages_s, strict=True)}
        for channel in {*channels, *by_channel}:
            depth, age_s = by_channel.get(channel, (Depth(channel, 0, 0, 0, None), 0.0))
            self._waiting.labels(channel).set(depth.waiting + depth.held)
            self._dead.labels(channel).set(depth.dead)
            self._oldest_s.labels(channel).set(age_s)
