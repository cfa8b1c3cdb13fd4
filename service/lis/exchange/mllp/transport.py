"""Reports over MLLP: one connection, one message in flight, and who is waited for until when.

Knows which acknowledgements end a delivery. Of a message it reads MSH alone, for a message may have waited longer than
the settings stayed as they were. Does not know what it says, nor how often delivery is tried.
"""

import asyncio
import ssl
import uuid
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from service.config.lis import LisSettings
from service.lis.exchange.hl7.ack_builder import Outcome, Stamp, accept_ack
from service.lis.exchange.hl7.ack_parser import Acknowledgement, read_acknowledgement
from service.lis.exchange.hl7.encoding import CODECS, encode
from service.lis.exchange.hl7.reader import read_header
from service.lis.exchange.mllp.framing import BrokenFrame, Frames, FrameTooLarge, framed
from service.lis.exchange.mllp.sockets import client_tls, host_and_port, keep_alive
from service.lis.exchange.transport import NoAnswer

#: Acknowledgements of other messages that are passed over before one of this message.
MAX_OTHERS = 100


@dataclass(frozen=True, slots=True)
class _Connection:
    frames: Frames
    reader: StreamReader
    writer: StreamWriter


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message as it goes out: its frame, and which acknowledgement is the last one."""

    frame: bytes
    control_id: str
    charset: str
    to_application: bool


class _Lost(Exception):
    """The connection ended before anything was heard about the message."""


class MllpWire:
    """A `service.lis.exchange.transport.Wire` to one receiver. The connection stays open and is made anew once it
    is dead."""

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
        self._connection: _Connection | None = None

    async def deliver(self, message: str, control_id: str) -> str:
        """Send one message; the last acknowledgement that it asks for in MSH-15 and MSH-16, as it came.

        Raises:
            Rejected: AE, AR, CE or CR.
            NoAnswer: no connection, no acknowledgement of this message in time, or none that can be read.
        """
        header = read_header(message.encode(errors="replace"))
        frame = framed(encode(message, header.charset))
        sent = _Sent(frame, control_id, header.charset, to_application=header.application_ack == "AL")
        async with self._turn:
            try:
                reply = await self._delivered(sent)
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

    async def _delivered(self, sent: _Sent) -> Acknowledgement:
        connection = await self._still_open()
        if connection:
            try:
                return await self._exchanged(connection, sent)
            except _Lost:
                # The receiver closed it while it was idle. Should it have the message, it knows the control id again.
                await self._drop()
        return await self._exchanged(await self._connected(), sent)

    async def _still_open(self) -> _Connection | None:
        if self._connection and (self._connection.reader.at_eof() or self._connection.writer.is_closing()):
            await self._drop()
        return self._connection

    async def _connected(self) -> _Connection:
        async with asyncio.timeout(self._settings.hl7_timeout_s):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        keep_alive(writer)
        self._connection = _Connection(Frames(reader, self._settings.hl7_max_bytes), reader, writer)
        return self._connection

    async def _exchanged(self, connection: _Connection, sent: _Sent) -> Acknowledgement:
        try:
            async with asyncio.timeout(self._settings.hl7_timeout_s):
                connection.writer.write(sent.frame)
                await connection.writer.drain()
                reply = await self._about(connection, sent)
        except (ConnectionError, BrokenFrame) as error:
            raise _Lost(_reason(error)) from None
        async with asyncio.timeout(self._settings.hl7_timeout_s):
            while sent.to_application and not reply.final:
                reply = await self._about(connection, sent)
        return reply

    async def _about(self, connection: _Connection, sent: _Sent) -> Acknowledgement:
        """The next acknowledgement of this message; late ones of earlier messages are passed over, up to a bound."""
        for _ in range(MAX_OTHERS):
            if not await connection.frames.begun():
                raise BrokenFrame("the connection ended before an answer")
            reply = read_acknowledgement(await connection.frames.rest(), sent.charset)
            if reply.to_be_accepted:
                connection.writer.write(_accepted(reply))
                await connection.writer.drain()
            if reply.about == sent.control_id:
                return reply
        raise BrokenFrame(f"{MAX_OTHERS} acknowledgements, and none of this message")

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            connection.writer.transport.abort()  # no farewell of TLS from a peer that may be gone
            with suppress(OSError):
                await connection.writer.wait_closed()


def _accepted(reply: Acknowledgement) -> bytes:
    stamp = Stamp(uuid.uuid4().hex[:20], datetime.now(UTC))
    charset = reply.header.charset if reply.header.charset in CODECS else ""
    return framed(encode(accept_ack(reply.header, Outcome(), stamp), charset))


def _reason(error: Exception) -> str:
    """What went wrong with a connection; errors of the operating system name an address at most."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the receiver's certificate: {error.verify_message}"
    return f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error)
