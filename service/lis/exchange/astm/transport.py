"""Sends reports over the ASTM link (CLSI LIS01-A2 over TCP), in the role of the instrument."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from service.lis.exchange.astm.records import ACK, ENQ, EOT, frames
from service.lis.exchange.transport import NoAnswer

#: Attempts for one frame, and for a session.
TRIES: Final = 6
#: LIS01-A2: pause after a busy receiver, and after both sides wanted to send (the instrument has priority).
BUSY_WAIT_S: Final = 10.0
CONTENTION_WAIT_S: Final = 1.0


class AstmTransport:
    """A `Transport` to one ASTM receiver. Every message has its own connection and session.

    ASTM has no rejection: a receiver answers NAK to unwanted and to damaged frames. So nothing is `Rejected`; an
    undelivered message becomes a dead letter after MARROWLENS_LIS_RETRY_FOR_H.
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

    async def deliver(self, message: str, control_id: str) -> str:  # noqa: ARG002 (it is in the header record)
        """Send the records of one message; returns the number of acknowledged frames, as text.

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
        """Nothing to close: there is no connection between two messages."""

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
            except OSError:  # TimeoutError too: the receiver does not read
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
        # All frames are acknowledged: the end of the session need not arrive.
        with suppress(OSError):
            await link.end()
        return f"{sent} frames acknowledged"


class _Link:
    """One connection: each transmission is answered by one character."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float) -> None:
        self._reader = reader
        self._writer = writer
        self._timeout_s = timeout_s

    async def ask(self, asked: bytes) -> bytes:
        """Send, and read one character; empty after the time-out.

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
        """Send a frame, again after each NAK; True once acknowledged. EOT acknowledges too, and requests a pause."""
        for _ in range(TRIES):
            reply = await self.ask(frame)
            if reply in (ACK, EOT):
                return True
            if reply == b"":
                return False
        return False

    async def end(self) -> None:
        """End the session."""
        self._writer.write(EOT)
        await self._writer.drain()
