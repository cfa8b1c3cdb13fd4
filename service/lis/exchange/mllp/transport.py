"""Sends reports over MLLP: one connection, one message at a time.

Acknowledgement modes are read from each message's MSH: a message can be older than the current settings.
"""

import asyncio
import ssl
import uuid
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from service.config.lis import LisSettings
from service.lis.exchange.hl7.ack_builder import Outcome, ReplyMetadata, accept_ack
from service.lis.exchange.hl7.ack_parser import Acknowledgement, parse_acknowledgement
from service.lis.exchange.hl7.encoding import codec_of, encode
from service.lis.exchange.hl7.reader import Header, read_header
from service.lis.exchange.mllp.framing import BrokenFrame, Frames, FrameTooLarge, framed
from service.lis.exchange.mllp.sockets import enable_keepalive, host_and_port, reloaded_client_tls
from service.lis.exchange.transport import NoAnswer

#: Acknowledgements of other messages that are ignored while waiting for this one's.
MAX_OTHERS = 100


@dataclass(frozen=True, slots=True)
class _Connection:
    frames: Frames
    reader: StreamReader
    writer: StreamWriter


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message to send: its frame, and whether it waits for an application acknowledgement."""

    frame: bytes
    control_id: str
    charset: str
    waits_for_application: bool


class _Lost(Exception):
    """The connection ended before any acknowledgement of the message."""


class MllpTransport:
    """A `Transport` to one MLLP receiver. The connection stays open, and is replaced when it is lost."""

    def __init__(self, settings: LisSettings) -> None:
        """Connects at the first message.

        Raises:
            ValueError: MARROWLENS_LIS_HL7_TO is not set.
            OSError: a TLS file cannot be read.
        """
        if settings.hl7_to is None:
            raise ValueError("MARROWLENS_LIS_HL7_TO is not set")
        self._host, self._port = host_and_port(settings.hl7_to)
        self._tls = reloaded_client_tls(settings)
        self._settings = settings
        self._turn = asyncio.Lock()
        self._connection: _Connection | None = None

    async def deliver(self, message: str, control_id: str) -> str:
        """Send one message; returns the last acknowledgement that its MSH-15 and MSH-16 request.

        Raises:
            Rejected: AE, AR, CE or CR.
            NoAnswer: no connection, or no valid acknowledgement in time.
        """
        header = read_header(message.encode(errors="replace"))
        frame = framed(encode(message, header.charset))
        sent = _Sent(frame, control_id, header.charset, waits_for_application=_waits_for_application(header))
        async with self._turn:
            try:
                reply = await self._delivered(sent)
            except BaseException as error:
                # A late answer must not be taken for the next message's: close the connection.
                await self._drop()
                if isinstance(error, TimeoutError):
                    raise NoAnswer(f"no answer within {self._settings.hl7_timeout_s:g} s") from None
                if isinstance(error, OSError | BrokenFrame | FrameTooLarge | _Lost):
                    raise NoAnswer(_reason(error)) from None
                raise
        reply.raise_for_rejection()
        return reply.reply

    async def close(self) -> None:
        """Close the connection, after the message in progress."""
        async with self._turn:
            await self._drop()

    async def _delivered(self, sent: _Sent) -> Acknowledgement:
        connection = await self._still_open()
        if connection:
            try:
                return await self._exchanged(connection, sent)
            except _Lost:
                # The receiver closed the idle connection. It recognises a repeated message by its control id.
                await self._drop()
        return await self._exchanged(await self._connected(), sent)

    async def _still_open(self) -> _Connection | None:
        if self._connection and (self._connection.reader.at_eof() or self._connection.writer.is_closing()):
            await self._drop()
        return self._connection

    async def _connected(self) -> _Connection:
        async with asyncio.timeout(self._settings.hl7_timeout_s):
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls.context())
        enable_keepalive(writer)
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
            while sent.waits_for_application and not reply.final:
                reply = await self._about(connection, sent)
        return reply

    async def _about(self, connection: _Connection, sent: _Sent) -> Acknowledgement:
        """The next acknowledgement of this message, ignoring late ones of others up to MAX_OTHERS."""
        for _ in range(MAX_OTHERS):
            if not await connection.frames.begun():
                raise BrokenFrame("the receiver closed the connection before it answered")
            reply = parse_acknowledgement(await connection.frames.rest(), sent.charset)
            if reply.wants_accept_ack:
                connection.writer.write(_accepted(reply))
                await connection.writer.drain()
            if reply.about == sent.control_id:
                return reply
        raise BrokenFrame(f"{MAX_OTHERS} acknowledgements of other messages, none of this one")

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            connection.writer.transport.abort()  # without a TLS shutdown: the peer may be gone
            with suppress(OSError):
                await connection.writer.wait_closed()


def _waits_for_application(header: Header) -> bool:
    """Whether an application acknowledgement decides: in original mode, and in enhanced mode if it is requested."""
    return header.application_ack == "AL" or not (header.accept_ack or header.application_ack)


def _accepted(reply: Acknowledgement) -> bytes:
    stamp = ReplyMetadata(uuid.uuid4().hex[:20], datetime.now(UTC))
    charset = reply.header.charset if codec_of(reply.header.charset) else ""
    return framed(encode(accept_ack(reply.header, Outcome(), stamp), charset))


def _reason(error: Exception) -> str:
    """The reason of a connection error, for the log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the receiver's certificate is invalid: {error.verify_message}"
    return f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error)
