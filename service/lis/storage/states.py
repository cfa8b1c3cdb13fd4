"""The states that a specimen and a message go through, by name. What may happen in which is decided elsewhere."""

from enum import StrEnum


class State(StrEnum):
    """Where a specimen stands. `amending` was signed, and is open again until it is signed anew."""

    OPEN = "open"
    SIGNED = "signed"
    AMENDING = "amending"
    CANCELLED = "cancelled"


class MessageState(StrEnum):
    """What became of a message. `dead` was refused, or not answered for too long: a person decides."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"
    DROPPED = "dropped"
