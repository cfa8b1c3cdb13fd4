"""The interface of a transport to one receiver, and the two ways in which a delivery fails."""

from typing import Protocol


class Rejected(Exception):
    """The receiver has refused the message; sending it again would change nothing.

    `reply` is the receiver's answer, stored with the dead letter. `reason` never quotes the message.
    """

    def __init__(self, reason: str, reply: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.reply = reply


class NoAnswer(Exception):
    """The message was not acknowledged: no connection, a time-out, an incomplete answer. It is sent again."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Transport(Protocol):
    """Sends messages to one receiver, one at a time."""

    async def deliver(self, message: str, control_id: str) -> str:
        """Send one message; returns the receiver's answer once it has accepted the message.

        Raises:
            Rejected: the receiver has refused it.
            NoAnswer: the receiver may or may not have it.
        """
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...
