"""How long a client is waited for while its body is on the way: the pace that it has to keep, and the end of it.

Knows seconds and bytes that came. Does not know what they are.
"""

import asyncio
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.types import Message

from service.errors import ClientGone, UploadTooSlow

#: The pace that a body must keep, a pause of `Patience.timeout_s` apart.
MIN_UPLOAD_BYTES_PER_S = 16 * 1024


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a body is waited for.

    `timeout_s` is the longest pause, and what a body may be behind `MIN_UPLOAD_BYTES_PER_S` at any time. `whole_s` is
    for all of it, however large it is.
    """

    timeout_s: float
    whole_s: float


@dataclass(slots=True)
class UploadPace:
    """One body, or one line of it, on its way in. Only waiting for the client counts.

    What came quickly buys no more than one pause: a client that sends most of its body at once and then a byte now and
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
        """The next piece of the body.

        Raises:
            UploadTooSlow, ClientGone.
        """
        clock = asyncio.get_running_loop().time
        began_s, left_s = clock(), min(self._left_s, self.patience.whole_s - self._waited_s)
        try:
            async with asyncio.timeout(left_s):
                message = await request.receive()
        except TimeoutError as error:
            raise UploadTooSlow(self.patience.timeout_s, MIN_UPLOAD_BYTES_PER_S) from error
        if message["type"] == "http.disconnect":
            raise ClientGone
        self._count(len(message.get("body", b"")), clock() - began_s)
        return message

    def _count(self, received_bytes: int, took_s: float) -> None:
        self._waited_s += took_s
        gained_s = received_bytes / MIN_UPLOAD_BYTES_PER_S
        self._left_s = min(self._left_s - took_s + gained_s, self.patience.timeout_s)
