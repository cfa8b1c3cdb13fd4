"""The states of a specimen and of a message. Importable without SQLAlchemy."""

from enum import StrEnum


class State(StrEnum):
    """State of a specimen. `amending`: it was signed, and is reopened until the next signature.

    `erased`: it was signed or cancelled, and the patient's data were erased since.
    """

    OPEN = "open"
    SIGNED = "signed"
    AMENDING = "amending"
    CANCELLED = "cancelled"
    ERASED = "erased"


class MessageState(StrEnum):
    """State of a message. `dead`: rejected, or not acknowledged in time; a person decides.

    `held`: it waited when the service was started with delivery off, as after the restore of a backup; the receiver
    may have it already, so a person decides.
    """

    WAITING = "waiting"
    HELD = "held"
    DELIVERED = "delivered"
    DEAD = "dead"
    DROPPED = "dropped"
