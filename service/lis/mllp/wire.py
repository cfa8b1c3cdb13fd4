"""Reports over MLLP: one connection, one message in flight, and who is waited for until when.

Knows which acknowledgements end a delivery. Does not know what a message says, nor how often delivery is tried.
"""

import asyncio
import ssl
import uuid
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from datetime import UTC, datetime

from service.lis.hl7.acknowledging import Outcome, Stamp, accept_ack
from service.lis.hl7.charsets import encode
from service.lis.hl7.verdict import Acknowledgement, read_acknowledgement
from service.lis.mllp.framing import BrokenFrame, Frames, FrameTooLarge, framed
from service.lis.mllp.sockets import client_tls, host_and_port, keep_alive
from service.lis.wire import NoAnswer
from service.lis_settings import LisSettings


class _Lost(Exception):
    """The connection ended before anything was heard about the message."""


class MllpWire:
    """A `service.lis.wire.Wire` to one receiver. The connection stays open and is made anew once it is dead."""

    def __init__(self, settings: LisSettings) -> None:
        """Nothing is connected yet.

        Raises:
            ValueError: no receiver is set.
            OSError: a file of TLS cannot be read.
        """
        if settings.hl7_to is None:
            raise ValueError("MARROWLENS_LIS_HL7_TO says to whom")
        self._host, self._port = host_and_port(settings.hl7_to)
        self._tls = client_tls(settings)
        self._settings = settings
        self._turn = asyncio.Lock()
        self._connection: tuple[Frames, StreamReader, StreamWriter] | None = None

    async def deliver(self, message: str, control_id: str) -> str:
        """Send one message; the acknowledgement that `hl7_acks` waits for, as it came.

        Raises:
            Rejected: AE, AR, CE or CR.
            NoAnswer: no connection, no acknowledgement of this message in time, or none that can be read.
        """
        frame = framed(encode(message, self._settings.hl7_charset))
        async with self._turn:
            try:
                reply = await self._delivered(frame, control_id)
            except BaseException as error:
                # Whoever was not heard to the end may still answer: on this connection, but not to the next message.
                await self._drop()
                if isinstance(error, TimeoutError):
                    raise NoAnswer(f"no answer within {self._settings.hl7_timeout_s:g} s") from None
                if isinstance(error, OSError | BrokenFrame | FrameTooLarge | _Lost):
                    raise NoAnswer(_reason(error)) from None
                raise
        reply.judge()
        return reply.reply

    async def close(self) -> None:
        """Let the connection go, after the message that is on its way."""
        async with self._turn:
            await self._drop()

    async def _delivered(self, frame: bytes, control_id: str) -> Acknowledgement:
        connection = await self._still_open()
        if connection:
            try:
                return await self._exchanged(connection, frame, control_id)
            except _Lost:
                # The receiver closed it while it was idle. Should it have the message, it knows the control id again.
                await self._drop()
        return await self._exchanged(await self._connected(), frame, control_id)

    async def _still_open(self) -> tuple[Frames, StreamReader, StreamWriter] | None:
        if self._connection and (self._connection[1].at_eof() or self._connection[2].is_closing()):
            await self._drop()
        return self._connection

    async def _connected(self) -> tuple[Frames, StreamReader, StreamWriter]:
        async with asyncio.timeout(self._settings.hl7_timeout_s):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        keep_alive(writer)
        self._connection = (Frames(reader, self._settings.hl7_max_bytes), reader, writer)
        return self._connection

    async def _exchanged(
        self, connection: tuple[Frames, StreamReader, StreamWriter], frame: bytes, control_id: str
    ) -> Acknowledgement:
        frames, _, writer = connection
        try:
            async with asyncio.timeout(self._settings.hl7_timeout_s):
                writer.write(frame)
                await writer.drain()
                reply = await self._about(frames, writer, control_id)
        except (ConnectionError, BrokenFrame) as error:
            raise _Lost(_reason(error)) from None
        if reply.final or self._settings.hl7_acks in ("original", "accept"):
            return reply
        async with asyncio.timeout(self._settings.hl7_timeout_s):
            while not reply.final:
                reply = await self._about(frames, writer, control_id)
        return reply

    async def _about(self, frames: Frames, writer: StreamWriter, control_id: str) -> Acknowledgement:
        """The next acknowledgement of this message; late ones of earlier messages are passed over."""
        while await frames.begun():
            reply = read_acknowledgement(await frames.rest(), self._settings.hl7_charset)
            if reply.to_be_accepted:
                writer.write(self._accepted(reply))
            if reply.about == control_id:
                return reply
        raise BrokenFrame("the connection ended before an answer")

    def _accepted(self, reply: Acknowledgement) -> bytes:
        stamp = Stamp(uuid.uuid4().hex[:20], datetime.now(UTC))
        return framed(encode(accept_ack(reply.header, Outcome(), stamp), self._settings.hl7_charset))

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            connection[2].transport.abort()  # no farewell of TLS from a peer that may be gone
            with suppress(OSError):
                await connection[2].wait_closed()


def _reason(error: Exception) -> str:
    """What went wrong with a connection; errors of the operating system name an address at most."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the receiver's certificate: {error.verify_message}"
    return f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error)
