"""The interface of a transport to one receiver, and the two ways in which a delivery fails."""

from typing import Protocol


class Rejected(Exception):
    """The receiver has refused the message; sending it again would change nothing.

    `reply` is the receiver's answer, stored with the dead letter. `reason` never quotes the message, and is logged;
    `text` is what the receiver says about it, may quote a patient, and is only stored.
    """

    def __init__(self, reason: str, reply: str = "", text: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.reply = reply
        self.text = text

    def stored_reason(self) -> str:
        """The reason with the receiver's text, for the database only."""
        return f"{self.reason}: {self.text}" if self.text else self.reason


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
