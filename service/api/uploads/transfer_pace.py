"""How long a client is waited for while a body is on the way: the pace that it has to keep, and the end of it.

Knows seconds and bytes. Does not know what they are.
"""

import asyncio
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.types import Message, Send

from service.errors import ClientGone, UploadTooSlow

#: The pace that a body must keep, a pause of `Patience.timeout_s` apart: what is sent, and what is answered.
MIN_BYTES_PER_S = 16 * 1024


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a body is waited for.

    `timeout_s` is the longest pause, and what a body may be behind `MIN_BYTES_PER_S` at any time. `whole_s` is
    for all of it, however large it is.
    """

    timeout_s: float
    whole_s: float


@dataclass(slots=True)
class Pace:
    """One body, or one line of it, on its way. Only waiting for the client counts.

    What went quickly buys no more than one pause: a client that takes most of a body at once and then a byte now and
    then would hold memory for hours.
    """

    patience: Patience
    _left_s: float = field(init=False)
    _waited_s: float = 0.0

    def __post_init__(self) -> None:
        self._left_s = self.patience.timeout_s

    def restart(self) -> None:
        """Begin anew, as with the next line."""
        self._left_s, self._waited_s = self.patience.timeout_s, 0.0

    async def message(self, request: Request) -> Message:
        """The next piece of the body that a client sends.

        Raises:
            UploadTooSlow, ClientGone.
        """
        began_s = self._now_s()
        try:
            async with asyncio.timeout(self._longest_s):
                message = await request.receive()
        except TimeoutError as error:
            raise UploadTooSlow(self.patience.timeout_s, MIN_BYTES_PER_S) from error
        if message["type"] == "http.disconnect":
            raise ClientGone
        self._count(len(message.get("body", b"")), self._now_s() - began_s)
        return message

    async def send(self, send: Send, piece: bytes) -> None:
        """The next piece of the body that a client reads.

        Raises:
            ClientGone: it does not read, or too slowly.
        """
        began_s = self._now_s()
        try:
            async with asyncio.timeout(self._longest_s):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError as error:
            raise ClientGone from error
        self._count(len(piece), self._now_s() - began_s)

    @property
    def _longest_s(self) -> float:
        return min(self._left_s, self.patience.whole_s - self._waited_s)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    def _count(self, count: int, took_s: float) -> None:
        self._waited_s += took_s
        self._left_s = min(self._left_s - took_s + count / MIN_BYTES_PER_S, self.patience.timeout_s)
