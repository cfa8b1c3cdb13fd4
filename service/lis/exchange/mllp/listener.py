"""The MLLP listener for orders: connections, slots per sender, time-outs, and the answer to each message."""

import asyncio
import hashlib
import logging
import math
import re
import socket
import time
import uuid
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from collections import Counter
from datetime import UTC, datetime
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from model.plural import plural
from service.concurrency.supervisor import error_location
from service.config.lis import LisSettings
from service.lis.exchange.hl7.ack_builder import Outcome, ReplyMetadata, acknowledgements
from service.lis.exchange.hl7.encoding import codec_of, encode
from service.lis.exchange.hl7.orders import OrderReader, check_header
from service.lis.exchange.hl7.reader import Header, MessageRejected, messages_of, read_header
from service.lis.exchange.mllp.framing import BrokenFrame, Frames, FrameTooLarge, framed
from service.lis.exchange.mllp.sockets import (
    certificate_subject,
    enable_keepalive,
    host_and_port,
    listening_sockets,
    reloaded_listener_tls,
)
from service.lis.exchange.orders import (
    Incoming,
    MessageIdentity,
    OrderRefused,
    Peer,
    ReceivedOrders,
    TakeOrders,
)
from service.lis.metrics import ConnectionEnd, ConnectionMetrics

log = logging.getLogger(__name__)

#: Interval between two log lines of one kind: a client can cause any number of failed connections.
EVERY_S: Final = 60.0
#: Ends of connections that are not logged.
_USUAL: Final = frozenset({"closed", "stopped"})
#: Bytes of a too large frame that are discarded, so that its sender reads the answer.
MAX_DISCARDED_BYTES = 64 * 1024 * 1024
#: Pause after a failed accept, for instance if too many files are open.
ACCEPT_PAUSE_S = 1.0


class ConnectionSlots:
    """Limits the open connections of each sender: an address, an IPv6 /64, or a certificate's subject."""

    def __init__(self, per_holder: int) -> None:
        self._per_holder = per_holder
        self._counts: Counter[str] = Counter()

    def take(self, holder: str) -> bool:
        """Take a slot; False if the sender has reached its limit."""
        if self._counts[holder] >= self._per_holder:
            return False
        self._counts[holder] += 1
        return True

    def release(self, holder: str) -> None:
        """Release a slot."""
        self._counts[holder] -= 1
        if not self._counts[holder]:
            del self._counts[holder]


def holder_of(address: str) -> str:
    """The sender of an address, for the slots: an IPv6 /64 belongs to one site (RFC 4291, 2.5.4)."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or ip_network((found, 64), strict=False))
    return str(found)


class ConnectionLog:
    """Counts the connections of one listener, and logs how they end: at most one line a minute for each kind of end."""

    def __init__(self, metrics: ConnectionMetrics) -> None:
        self._metrics = metrics
        self._open = 0
        self._next_at_s: dict[str, float] = {}
        self._suppressed: Counter[str] = Counter()

    def opened(self) -> None:
        """Count a new connection."""
        self._open += 1
        self._metrics.open(self._open)

    def ended(self, how: ConnectionEnd, what: str) -> None:
        """Count a connection that ended or was refused, and log `what`."""
        if how != "refused":
            self._open -= 1
        self._metrics.open(self._open)
        self._metrics.ended(how)
        if how not in _USUAL:
            self.warn(what, how)

    def warn(self, what: str, kind: str = "error") -> None:
        """Log a line, unless one of this kind was logged within the last minute."""
        now_s = time.monotonic()
        if now_s < self._next_at_s.get(kind, 0.0):
            self._suppressed[kind] += 1
            return
        self._next_at_s[kind] = now_s + EVERY_S
        suppressed = self._suppressed.pop(kind, 0)
        log.warning("orders: %s%s", what, f" ({suppressed} similar lines suppressed)" if suppressed else "")


class OrderMessages:
    """Reads messages with orders, and writes the acknowledgements. Logs no patient data."""

    def __init__(self, settings: LisSettings, take_orders: TakeOrders) -> None:
        self._settings = settings
        self._take_orders = take_orders
        self._reader = OrderReader(
            settings.hl7_charset,
            frozenset(settings.hl7_services),
            frozenset(settings.hl7_specimen_types),
            settings.hl7_patient_number,
            settings.zone,
        )

    async def answers(self, raw: bytes, peer: Peer) -> list[bytes]:
        """Accept the orders of one message, or of each of a batch; returns the acknowledgements, also on every error.

        An empty frame keeps a connection alive and has no answer.
        """
        if not raw.strip():
            return []
        return [answer for message in messages_of(raw) for answer in await self._answers(message, peer)]

    async def _answers(self, raw: bytes, peer: Peer) -> list[bytes]:
        header, outcome = Header(), Outcome()
        try:
            header = read_header(raw)
            found = await self._accept_orders(raw, header, peer)
            outcome = Outcome(found.orders, found.warnings)
        except OrderRefused as refused:
            log.warning("orders: %s refused: %s %s", _message_label(header), refused.code, refused.location)
            outcome = Outcome(refused=refused)
        except Exception as error:
            # Without the error's text or traceback: both can quote the message.
            log.error("orders: %s failed: %s", _message_label(header), error_location(error))
            outcome = Outcome(refused=OrderRefused("207", "internal error; no order was accepted"))
        return self._written(header, outcome)

    def too_large(self, large: FrameTooLarge) -> list[bytes]:
        """The acknowledgements of a message that is too large."""
        refused = MessageRejected("207", f"{large}; the message was not read")
        try:
            header = read_header(large.start)
        except MessageRejected:
            header = Header()
        log.warning("orders: %s refused: %s", _message_label(header), large)
        return self._written(header, Outcome(refused=refused))

    async def _accept_orders(self, raw: bytes, header: Header, peer: Peer) -> ReceivedOrders:
        check_header(header, self._settings.hl7_processing_id)
        found = self._reader.read(raw, header)
        sender = "|".join(["^".join(header.application).rstrip("^"), "^".join(header.facility).rstrip("^")])
        identity = MessageIdentity(peer, sender, header.control_id, hashlib.sha256(raw).hexdigest())
        content: list[Incoming] = [*found.orders, *found.patients]
        if content:
            await self._take_orders(identity, content)
        parts = (found.orders, "order"), (found.patients, "patient"), (found.warnings, "warning")
        counts = ", ".join(plural(len(each), noun) for each, noun in parts)
        log.info("orders: %s accepted: %s", _message_label(header), counts)
        return found

    def _written(self, header: Header, outcome: Outcome) -> list[bytes]:
        now, charset = datetime.now(UTC), header.charset or self._settings.hl7_charset
        stamps = [ReplyMetadata(uuid.uuid4().hex[:20], now, self._settings.hl7_specimen_type) for _ in range(2)]
        answers = acknowledgements(header, outcome, stamps)
        return [encode(answer, charset if codec_of(charset) else "UNICODE UTF-8") for answer in answers]


def _message_label(header: Header) -> str:
    """Type and control id of a message, for the log. Values with unusual characters are not quoted."""
    kind = f"{header.code}^{header.event}"
    kind = kind if re.fullmatch(r"[A-Z]{3}\^[A-Z][0-9]{2}", kind) else "a message of another type"
    known = re.fullmatch(r"[\w.:-]{1,36}", header.control_id, re.ASCII)
    return f"{kind}, control id {header.control_id if known else f'of {len(header.control_id)} characters'}"


class _ConnectionEnded(Exception):
    """A connection has ended: how, and the text for the log."""

    def __init__(self, how: ConnectionEnd, why: str = "") -> None:
        super().__init__(why)
        self.how = how


class OrderListener:
    """Accepts orders at `hl7_listen`: `bind`, `serve`, `close`."""

    def __init__(self, settings: LisSettings, take_orders: TakeOrders, metrics: ConnectionMetrics) -> None:
        """Does not listen yet.

        Raises:
            ValueError: MARROWLENS_LIS_HL7_LISTEN is not set.
            OSError: a TLS file cannot be read.
        """
        if settings.hl7_listen is None:
            raise ValueError("MARROWLENS_LIS_HL7_LISTEN is not set")
        self._host, self._port = host_and_port(settings.hl7_listen)
        self._tls = reloaded_listener_tls(settings)
        self._settings = settings
        self._messages = OrderMessages(settings, take_orders)
        self._log = ConnectionLog(metrics)
        self._slots = ConnectionSlots(settings.hl7_max_connections_per_sender)
        self._sockets: list[socket.socket] = []
        self._serving: asyncio.Task[None] | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        #: Connections between two messages, longest idle first.
        self._idle: dict[asyncio.Task[None], None] = {}
        self._closing = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the listener; the real port if 0 was configured.

        Raises:
            RuntimeError: not started.
        """
        if not self._sockets:
            raise RuntimeError("the listener is not bound; call bind first")
        host, port = self._sockets[0].getsockname()[:2]
        return host, port

    def try_address(self) -> None:
        """Check that the address is free.

        Raises:
            OSError: the address is in use, or not of this machine.
        """
        for tried in listening_sockets(self._host, self._port):
            tried.close()

    def bind(self) -> None:
        """Listen at the address; connections wait until `serve`.

        Raises:
            OSError: the address is in use, or not of this machine.
        """
        self._sockets = listening_sockets(self._host, self._port)

    async def serve(self) -> None:
        """Accept connections until `close`; binds first if `bind` was not called.

        Raises:
            OSError: as `bind`.
        """
        if not self._sockets:
            self.bind()
        self._serving = asyncio.current_task()
        async with asyncio.TaskGroup() as accepting:
            for each in self._sockets:
                accepting.create_task(self._accept(each))

    async def close(self, timeout_s: float = math.inf) -> None:
        """Accept no more connections. A message in progress is answered within `hl7_timeout_s` or `timeout_s`."""
        self._closing = True
        for task in (*([self._serving] if self._serving else ()), *self._idle):
            task.cancel()
        for each in self._sockets:
            each.close()
        limit_s = min(timeout_s, self._settings.hl7_timeout_s)
        if self._conversations:
            _, late = await asyncio.wait(self._conversations, timeout=limit_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                self._log.warn(f"connections cannot be accepted: {error.strerror}")
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            self._admit(accepted, address[0])
            await asyncio.sleep(0)  # let the task start: a later connection may displace it

    def _admit(self, accepted: socket.socket, address: str) -> None:
        """Give a new connection a slot, if needed that of the longest idle connection; or refuse it."""
        holder = holder_of(address)
        if not self._room() or not self._slots.take(holder):
            accepted.close()
            self._log.ended("refused", f"connection from {address} refused: {len(self._conversations)} are open")
            return
        task = asyncio.create_task(self._hear(accepted, address, holder))
        self._conversations.add(task)
        self._log.opened()

    def _room(self) -> bool:
        if len(self._conversations) < self._settings.hl7_max_connections:
            return True
        idle = next(iter(self._idle), None)
        if idle is None:
            return False
        del self._idle[idle]
        return idle.cancel("displaced")

    async def _hear(self, accepted: socket.socket, address: str, holder: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._idle[task] = None  # only once it runs: a task cancelled before its start would not release its slot
        slots, ending = [holder], _ConnectionEnded("closed")
        writer: StreamWriter | None = None
        try:
            reader, writer = await self._open_streams(accepted)
            enable_keepalive(writer)
            await self._converse(reader, writer, self._verified(writer, address, slots), task)
        except asyncio.CancelledError:
            ending = (
                _ConnectionEnded("stopped")
                if self._closing
                else _ConnectionEnded("displaced", "displaced by a new connection")
            )
        except Exception as error:
            ending = self._ending(error)
        finally:
            self._idle.pop(task, None)
            try:
                if writer is not None:
                    await self._end(writer, at_once=ending.how == "displaced")
            finally:
                self._slots.release(slots[0])
                self._conversations.discard(task)
                self._log.ended(ending.how, f"connection from {address} closed: {ending}")

    async def _open_streams(self, accepted: socket.socket) -> tuple[StreamReader, StreamWriter]:
        """Reader and writer of a connection, with TLS if configured."""
        loop, tls = asyncio.get_running_loop(), self._tls.context()
        reader = StreamReader()
        protocol = StreamReaderProtocol(reader)  # uvloop returns its own transport
        limit_s = self._settings.hl7_timeout_s if tls else None
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=tls, ssl_handshake_timeout=limit_s
            )
        except OSError as error:  # an SSLError too
            accepted.close()
            raise _ConnectionEnded("tls", f"no TLS: {getattr(error, 'reason', None) or type(error).__name__}") from None
        return reader, StreamWriter(transport, protocol, reader, loop)

    def _verified(self, writer: StreamWriter, address: str, slots: list[str]) -> Peer:
        """The verified peer. With a certificate the slot belongs to its subject, not to the address."""
        subject = certificate_subject(writer)
        if subject is not None:
            if not self._slots.take(subject):
                raise _ConnectionEnded("refused", f"{subject} has reached its limit of connections")
            self._slots.release(slots[0])
            slots[0] = subject
        return Peer(address, subject)

    def _ending(self, error: Exception) -> _ConnectionEnded:
        """The end of a connection, from the error that ended it."""
        if isinstance(error, _ConnectionEnded):
            return error
        if isinstance(error, TimeoutError):
            return _ConnectionEnded("timeout", f"time-out after {self._settings.hl7_timeout_s:g} s")
        if isinstance(error, BrokenFrame):
            return _ConnectionEnded("broken", str(error))
        return _ConnectionEnded("lost" if isinstance(error, OSError) else "error", error_location(error))

    async def _end(self, writer: StreamWriter, *, at_once: bool) -> None:
        """Close a connection after its last answer is sent; `at_once` skips the TLS shutdown."""
        if at_once:
            writer.transport.abort()
        writer.close()
        try:
            async with asyncio.timeout(self._settings.hl7_timeout_s):
                await writer.wait_closed()
        except OSError:  # TimeoutError too
            writer.transport.abort()

    async def _converse(self, reader: StreamReader, writer: StreamWriter, peer: Peer, task: asyncio.Task[None]) -> None:
        frames = Frames(reader, self._settings.hl7_max_bytes)
        while not self._closing and await self._wait_for_message(frames, task):
            try:
                async with asyncio.timeout(self._settings.hl7_timeout_s):
                    raw = await frames.rest()
            except FrameTooLarge as large:
                await self._send(writer, self._messages.too_large(large))
                async with asyncio.timeout(self._settings.hl7_timeout_s):
                    await frames.discard(MAX_DISCARDED_BYTES)
                return
            await self._send(writer, await self._messages.answers(raw, peer))

    async def _wait_for_message(self, frames: Frames, task: asyncio.Task[None]) -> bool:
        """Wait for the next message; bytes between messages do not extend the time."""
        self._idle[task] = None
        try:
            async with asyncio.timeout(self._settings.hl7_idle_s):
                return await frames.begun()
        except TimeoutError:
            raise _ConnectionEnded("idle", f"idle for {self._settings.hl7_idle_s:g} s") from None
        finally:
            self._idle.pop(task, None)

    async def _send(self, writer: StreamWriter, answers: list[bytes]) -> None:
        async with asyncio.timeout(self._settings.hl7_timeout_s):
            writer.writelines(framed(answer) for answer in answers)
            await writer.drain()
