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

from service.concurrency.supervisor import error_location
from service.config.lis import LisSettings
from service.lis.exchange.hl7.ack_builder import Outcome, Stamp, acknowledgements
from service.lis.exchange.hl7.encoding import CODECS, encode
from service.lis.exchange.hl7.orders import check_header, read_orders
from service.lis.exchange.hl7.reader import Header, MessageRejected, read_header
from service.lis.exchange.mllp.framing import BrokenFrame, Frames, FrameTooLarge, framed
from service.lis.exchange.mllp.sockets import (
    ListenerTls,
    certificate_subject,
    host_and_port,
    keep_alive,
    listening_sockets,
)
from service.lis.exchange.orders import (
    IncomingOrder,
    MessageIdentity,
    OrderRefused,
    Peer,
    TakeOrders,
)
from service.lis.metrics import ConnectionEnd, ConnectionMetrics


class ConnectionSlots:
    """Counts the open connections of each holder: an address, a network, or the subject of a certificate."""

    def __init__(self, per_holder: int) -> None:
        self._per_holder = per_holder
        self._taken: Counter[str] = Counter()

    def take(self, holder: str) -> bool:
        """Take a slot; False when this holder has as many as it may have."""
        if self._taken[holder] >= self._per_holder:
            return False
        self._taken[holder] += 1
        return True

    def release(self, holder: str) -> None:
        """Give a slot back."""
        self._taken[holder] -= 1
        if not self._taken[holder]:
            del self._taken[holder]


def holder_of(address: str) -> str:
    """Whose slots a connection from this address takes: of IPv6 a whole /64 is one site's (RFC 4291, 2.5.4)."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or ip_network((found, 64), strict=False))
    return str(found)


log = logging.getLogger(__name__)

#: Anybody who reaches the port can end connections in any of these ways, as often as it likes.
EVERY_S: Final = 60.0
#: These are how connections end; the others are worth a look.
_USUAL: Final = frozenset({"closed", "stopped"})


class ConnectionLog:
    """Counts connections and says how they ended, for one listener."""

    def __init__(self, watch: ConnectionMetrics) -> None:
        self._watch = watch
        self._open = 0
        self._next_at_s: dict[str, float] = {}
        self._left_out: Counter[str] = Counter()

    def opened(self) -> None:
        """A connection was taken."""
        self._open += 1
        self._watch.open(self._open)

    def ended(self, how: ConnectionEnd, what: str) -> None:
        """A connection has ended, or was refused; `what` is the log's line."""
        if how != "refused":
            self._open -= 1
        self._watch.open(self._open)
        self._watch.ended(how)
        if how not in _USUAL:
            self.trouble(what, how)

    def trouble(self, what: str, kind: str = "error") -> None:
        """Log a line, unless one of its kind was logged within the last minute."""
        now_s = time.monotonic()
        if now_s < self._next_at_s.get(kind, 0.0):
            self._left_out[kind] += 1
            return
        self._next_at_s[kind] = now_s + EVERY_S
        others = self._left_out.pop(kind, 0)
        log.warning("orders: %s%s", what, f" ({others} more like it were not logged)" if others else "")


log = logging.getLogger(__name__)


class OrderMessages:
    """Reads messages, hands their orders on, and writes the answers."""

    def __init__(self, settings: LisSettings, take_orders: TakeOrders) -> None:
        self._settings = settings
        self._take_orders = take_orders

    async def answers(self, raw: bytes, peer: Peer) -> list[bytes]:
        """Take the orders of one message. Whatever is wrong with it, there is an answer."""
        header, outcome = Header(), Outcome()
        try:
            header = read_header(raw)
            outcome = Outcome(await self._taken(raw, header, peer))
        except OrderRefused as refused:
            log.warning("orders: %s is refused, %s %s", _named(header), refused.code, refused.location)
            outcome = Outcome(refused=refused)
        except Exception as error:
            # Not with its text or its trace: either may quote what was being stored.
            log.error("orders: %s could not be taken, %s", _named(header), error_location(error))
            outcome = Outcome(refused=OrderRefused("207", "the order could not be taken; nothing was changed"))
        return self._written(header, outcome)

    def too_large(self, large: FrameTooLarge) -> list[bytes]:
        """The answer to a message of which only the beginning was read."""
        refused = MessageRejected("207", f"{large}; nothing was read of it")
        try:
            header = read_header(large.start)
        except MessageRejected:
            header = Header()
        log.warning("orders: %s is refused, %s", _named(header), large)
        return self._written(header, Outcome(refused=refused))

    async def _taken(self, raw: bytes, header: Header, peer: Peer) -> list[IncomingOrder]:
        check_header(header, self._settings.hl7_processing_id)
        orders = read_orders(raw, header, self._settings.hl7_charset)
        sender = "|".join(["^".join(header.application).rstrip("^"), "^".join(header.facility).rstrip("^")])
        identity = MessageIdentity(peer, sender, header.control_id, hashlib.sha256(raw).hexdigest())
        await self._take_orders(identity, orders)
        log.info("orders: %s is taken, %d of them", _named(header), len(orders))
        return orders

    def _written(self, header: Header, outcome: Outcome) -> list[bytes]:
        now, charset = datetime.now(UTC), header.charset or self._settings.hl7_charset
        stamps = [Stamp(uuid.uuid4().hex[:20], now, self._settings.hl7_specimen_type) for _ in range(2)]
        answers = acknowledgements(header, outcome, stamps)
        return [encode(answer, charset if charset in CODECS else "UNICODE UTF-8") for answer in answers]


def _named(header: Header) -> str:
    """A message's type and control id for the log: a stranger wrote them, so only letters that names are made of."""
    kind = f"{header.code}^{header.event}"
    kind = kind if re.fullmatch(r"[A-Z]{3}\^[A-Z][0-9]{2}", kind) else "a message of another type"
    known = re.fullmatch(r"[\w.:-]{1,36}", header.control_id, re.ASCII)
    return f"{kind}, control id {header.control_id if known else f'of {len(header.control_id)} characters'},"


#: How much of a frame that is too large is passed over, so that its sender comes to read the answer.
MAX_PASSED_OVER_BYTES = 64 * 1024 * 1024
#: After a connection could not be taken, as when the process has as many files open as it may have.
ACCEPT_PAUSE_S = 1.0


class _Ended(Exception):
    """A connection is over: how, and what the log says of it."""

    def __init__(self, how: ConnectionEnd, why: str = "") -> None:
        super().__init__(why)
        self.how = how


class OrderListener:
    """Takes orders at `hl7_listen` from `bind` and `serve` to `close`."""

    def __init__(self, settings: LisSettings, take_orders: TakeOrders, watch: ConnectionMetrics) -> None:
        """Nothing listens yet.

        Raises:
            ValueError: no address is set.
            OSError: a file of TLS cannot be read.
        """
        if settings.hl7_listen is None:
            raise ValueError("MARROWLENS_LIS_HL7_LISTEN says where")
        self._host, self._port = host_and_port(settings.hl7_listen)
        self._tls = ListenerTls(settings)
        self._settings = settings
        self._messages = OrderMessages(settings, take_orders)
        self._log = ConnectionLog(watch)
        self._slots = ConnectionSlots(settings.hl7_max_connections_per_sender)
        self._sockets: list[socket.socket] = []
        self._serving: asyncio.Task[None] | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        #: Connections between two messages, the one that has been silent longest first.
        self._idle: dict[asyncio.Task[None], None] = {}
        self._closing = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened at; the port is a real one where 0 was asked for.

        Raises:
            RuntimeError: not started.
        """
        if not self._sockets:
            raise RuntimeError("nothing listens")
        host, port = self._sockets[0].getsockname()[:2]
        return host, port

    def try_address(self) -> None:
        """Return when the address can be listened at, to know it before all else is started.

        Raises:
            OSError: the address is taken or none of this machine's.
        """
        for tried in listening_sockets(self._host, self._port):
            tried.close()

    def bind(self) -> None:
        """Hold the address. Who connects waits until `serve`.

        Raises:
            OSError: the address is taken or none of this machine's.
        """
        self._sockets = listening_sockets(self._host, self._port)

    async def serve(self) -> None:
        """Take connections until `close`."""
        self._serving = asyncio.current_task()
        async with asyncio.TaskGroup() as accepting:
            for each in self._sockets:
                accepting.create_task(self._accept(each))

    async def close(self, timeout_s: float = math.inf) -> None:
        """Take no more connections. A message that is being taken is answered first, within `hl7_timeout_s` or less."""
        self._closing = True
        for task in (*([self._serving] if self._serving else ()), *self._idle):
            task.cancel()
        for each in self._sockets:
            each.close()
        patience_s = min(timeout_s, self._settings.hl7_timeout_s)
        if self._conversations:
            _, late = await asyncio.wait(self._conversations, timeout=patience_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                self._log.trouble(f"no connection can be taken: {error.strerror}")
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            self._admit(accepted, address[0])
            await asyncio.sleep(0)  # it begins: of those that come at once, each may give way to the next

    def _admit(self, accepted: socket.socket, address: str) -> None:
        """Give a new connection a slot, that of the longest silent one where all are taken; or refuse it."""
        holder = holder_of(address)
        if not self._room() or not self._slots.take(holder):
            accepted.close()
            self._log.ended("refused", f"a connection from {address} is refused, {len(self._conversations)} are open")
            return
        task = asyncio.create_task(self._hear(accepted, address, holder))
        self._conversations.add(task)
        self._log.opened()

    def _room(self) -> bool:
        if len(self._conversations) < self._settings.hl7_max_connections:
            return True
        silent = next(iter(self._idle), None)
        if silent is None:
            return False
        del self._idle[silent]
        return silent.cancel("displaced")

    async def _hear(self, accepted: socket.socket, address: str, holder: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._idle[task] = None  # not before it runs: a task that is cancelled before ends without giving its slot back
        slots, ending = [holder], _Ended("closed")
        writer: StreamWriter | None = None
        try:
            reader, writer = await self._opened(accepted)
            keep_alive(writer)
            await self._converse(reader, writer, self._verified(writer, address, slots), task)
        except asyncio.CancelledError:
            ending = _Ended("stopped") if self._closing else _Ended("displaced", "another one needed its slot")
        except Exception as error:
            ending = self._ending(error)
        finally:
            self._idle.pop(task, None)
            try:
                if writer is not None:
                    await self._end(writer, at_once=ending.how == "displaced")
            finally:  # whatever happens, the slot is free again
                self._slots.release(slots[0])
                self._conversations.discard(task)
                self._log.ended(ending.how, f"a connection from {address} is closed, {ending}")

    async def _opened(self, accepted: socket.socket) -> tuple[StreamReader, StreamWriter]:
        """The two directions of a connection, by TLS where it is set up."""
        loop, tls = asyncio.get_running_loop(), self._tls.context()
        reader = StreamReader()
        protocol = StreamReaderProtocol(reader)  # uvloop returns its own in its place
        patience_s = self._settings.hl7_timeout_s if tls else None
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=tls, ssl_handshake_timeout=patience_s
            )
        except OSError as error:  # an SSLError too
            accepted.close()
            raise _Ended("tls", f"no TLS: {getattr(error, 'reason', None) or type(error).__name__}") from None
        return reader, StreamWriter(transport, protocol, reader, loop)

    def _verified(self, writer: StreamWriter, address: str, slots: list[str]) -> Peer:
        """Who is on the other side. With a certificate the slot is its subject's, from whatever address it comes."""
        subject = certificate_subject(writer)
        if subject is not None:
            if not self._slots.take(subject):
                raise _Ended("refused", f"{subject} has as many as it may have")
            self._slots.release(slots[0])
            slots[0] = subject
        return Peer(address, subject)

    def _ending(self, error: Exception) -> _Ended:
        """How a connection ended, by what ended it."""
        if isinstance(error, _Ended):
            return error
        if isinstance(error, TimeoutError):
            return _Ended("timeout", f"nothing more came within {self._settings.hl7_timeout_s:g} s")
        if isinstance(error, BrokenFrame):
            return _Ended("broken", str(error))
        return _Ended("lost" if isinstance(error, OSError) else "error", error_location(error))

    async def _end(self, writer: StreamWriter, *, at_once: bool) -> None:
        """Close a connection; what was answered is still sent, to whom reads it. At once: without a farewell of TLS."""
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
        while not self._closing and await self._begun(frames, task):
            try:
                async with asyncio.timeout(self._settings.hl7_timeout_s):
                    raw = await frames.rest()
            except FrameTooLarge as large:
                await self._send(writer, self._messages.too_large(large))
                async with asyncio.timeout(self._settings.hl7_timeout_s):
                    await frames.pass_over(MAX_PASSED_OVER_BYTES)
                return
            await self._send(writer, await self._messages.answers(raw, peer))

    async def _begun(self, frames: Frames, task: asyncio.Task[None]) -> bool:
        """Wait for the next message; bytes between two messages do not prolong the wait."""
        self._idle[task] = None
        try:
            async with asyncio.timeout(self._settings.hl7_idle_s):
                return await frames.begun()
        except TimeoutError:
            raise _Ended("idle", f"it was silent for {self._settings.hl7_idle_s:g} s") from None
        finally:
            self._idle.pop(task, None)

    async def _send(self, writer: StreamWriter, answers: list[bytes]) -> None:
        async with asyncio.timeout(self._settings.hl7_timeout_s):
            writer.writelines(framed(answer) for answer in answers)
            await writer.drain()
