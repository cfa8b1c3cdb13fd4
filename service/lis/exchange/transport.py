"""What delivery asks of every wire, and the two ways in which a message is not taken. Knows no protocol."""

from typing import Protocol


class Rejected(Exception):
    """The receiver has read the message and does not take it: sending it again would change nothing.

    `reply` is its answer as it came, for the dead letter; the reason never holds what the message said.
    """

    def __init__(self, reason: str, reply: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.reply = reply


class NoAnswer(Exception):
    """Nobody says that the message was taken: no connection, a time-out, half an answer. It is sent again as it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Wire(Protocol):
    """One way to a receiver. One message at a time: the caller waits for the answer before the next."""

    async def deliver(self, message: str, control_id: str) -> str:
        """Send one message and return the receiver's answer once it has taken it.

        Raises:
            Rejected: it will not take it.
            NoAnswer: it may or may not have it.
        """
        ...

    async def close(self) -> None:
        """Let the connection go."""
        ...
