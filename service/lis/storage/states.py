"""The states of a specimen and of a message. Importable without SQLAlchemy."""

from enum import StrEnum


class State(StrEnum):
    """State of a specimen. `amending`: it was signed, and is reopened until the next signature."""

    OPEN = "open"
    SIGNED = "signed"
    AMENDING = "amending"
    CANCELLED = "cancelled"


class MessageState(StrEnum):
    """State of a message. `dead`: rejected, or not acknowledged in time; a person decides."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"
    DROPPED = "dropped"
