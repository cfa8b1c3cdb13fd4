"""Reports over ASTM's link: CLSI LIS01-A2 over TCP, as the instrument that sends. Implements `wire.Wire`.

Knows the three phases of a session, who waits how long, and how often is tried again. Does not know what a frame says.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from service.lis.exchange.astm.records import ACK, ENQ, EOT, frames
from service.lis.exchange.transport import NoAnswer

#: How often one frame is sent, and how often a session is asked for.
TRIES: Final = 6
#: LIS01-A2: after the receiver was busy, and after both wanted to send; the instrument's turn comes first.
BUSY_WAIT_S: Final = 10.0
CONTENTION_WAIT_S: Final = 1.0


class AstmWire:
    """A host and port that take results. Every message has a connection and a session of its own.

    ASTM knows no refusal: a receiver that does not want a frame says NAK, as it does for one that arrived damaged. So
    nothing is ever `Rejected`, and what a receiver never takes is a dead letter once delivery has tried long enough.
    """

    def __init__(
        self,
        host: str,
        port: int,
        timeout_s: float,
        busy_wait_s: float = BUSY_WAIT_S,
        contention_wait_s: float = CONTENTION_WAIT_S,
    ) -> None:
        self._address = host, port
        self._timeout_s = timeout_s
        self._busy_wait_s = busy_wait_s
        self._contention_wait_s = contention_wait_s

    async def deliver(self, message: str, control_id: str) -> str:  # noqa: ARG002 (it stands in the header record)
        """Send the records of one message, each ended by a carriage return. The receipt says how many frames it took.

        Raises:
            NoAnswer: no connection, no session, or a frame that was not acknowledged.
        """
        try:
            async with self._connection() as link:
                await self._establish(link)
                return await self._transfer(link, message)
        except (OSError, EOFError) as error:
            raise NoAnswer(f"the ASTM connection failed: {type(error).__name__}") from error

    async def close(self) -> None:
        """Nothing is kept open between two messages."""

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator["_Link"]:
        async with asyncio.timeout(self._timeout_s):  # a TimeoutError is an OSError
            reader, writer = await asyncio.open_connection(*self._address)
        try:
            yield _Link(reader, writer, self._timeout_s)
        finally:
            writer.close()
            try:
                async with asyncio.timeout(self._timeout_s):
                    await writer.wait_closed()
            except OSError:  # TimeoutError too: it reads nothing any more
                writer.transport.abort()

    async def _establish(self, link: "_Link") -> None:
        for left in reversed(range(TRIES)):
            reply = await link.ask(ENQ)
            if reply == ACK:
                return
            if reply == b"" or not left:
                break
            await asyncio.sleep(self._contention_wait_s if reply == ENQ else self._busy_wait_s)
        await link.end()
        raise NoAnswer(
            "the ASTM receiver does not answer" if reply == b"" else f"the ASTM receiver was busy {TRIES} times"
        )

    async def _transfer(self, link: "_Link", message: str) -> str:
        sent = 0
        for sent, frame in enumerate(frames(message), 1):
            if not await link.acknowledged(frame):
                await link.end()
                raise NoAnswer(f"the ASTM receiver did not acknowledge frame {sent}")
        # All of it is acknowledged: it is taken, whether the end of the session arrives or not.
        with suppress(OSError):
            await link.end()
        return f"{sent} frames acknowledged"


class _Link:
    """One connection: a question and its one character of an answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout_s = timeout_s

    async def ask(self, asked: bytes) -> bytes:
        """Send, and read one character; none if nothing comes in time.

        Raises:
            EOFError: the receiver has closed the connection.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                self._writer.write(asked)
                await self._writer.drain()
                return await self._reader.readexactly(1)
        return b""

    async def acknowledged(self, frame: bytes) -> bool:
        """Send a frame, again after each NAK, until it is acknowledged; EOT acknowledges too, and asks for a pause."""
        for _ in range(TRIES):
            reply = await self.ask(frame)
            if reply in (ACK, EOT):
                return True
            if reply == b"":
                return False
        return False

    async def end(self) -> None:
        """Say that the session is over."""
        self._writer.write(EOT)
        await self._writer.drain()
