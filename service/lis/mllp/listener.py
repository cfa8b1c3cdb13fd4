"""Orders over MLLP: whoever connects is heard, one message after another, and answered.

Knows connections, their number and their time. Does not know what an order becomes (`TakeOrders`). Nothing of a
patient is logged: a line holds a message's type, its control id and codes.
"""

import asyncio
import hashlib
import logging
import math
import re
import socket
import traceback
import uuid
from asyncio import StreamReader, StreamWriter
from datetime import UTC, datetime
from pathlib import Path

from service.lis.hl7.acknowledging import Outcome, Stamp, acknowledgements
from service.lis.hl7.charsets import CODECS, encode
from service.lis.hl7.orders import check_header, read_orders
from service.lis.hl7.reading import Header, MessageRejected, read_header
from service.lis.mllp.framing import BrokenFrame, Frames, FrameTooLarge, framed
from service.lis.mllp.sockets import host_and_port, keep_alive, listener_tls
from service.lis.orders import IncomingOrder, MessageIdentity, OrderRefused, TakeOrders
from service.lis_settings import LisSettings

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 32
#: How much of a frame that is too large is passed over, so that its sender comes to read the answer.
MAX_PASSED_OVER_BYTES = 64 * 1024 * 1024


class OrderListener:
    """Takes orders at `hl7_listen` from `start` to `close`."""

    def __init__(self, settings: LisSettings, take_orders: TakeOrders) -> None:
        """Nothing listens yet.

        Raises:
            ValueError: no address is set.
            OSError: a file of TLS cannot be read.
        """
        if settings.hl7_listen is None:
            raise ValueError("MARROWLENS_LIS_HL7_LISTEN says where")
        self._host, self._port = host_and_port(settings.hl7_listen)
        self._tls = listener_tls(settings)
        self._settings = settings
        self._take_orders = take_orders
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened at; the port is a real one where 0 was asked for.

        Raises:
            RuntimeError: not started.
        """
        if self._server is None or not self._server.sockets:
            raise RuntimeError("nothing listens")
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    def try_address(self) -> None:
        """Return when the address can be listened at, to know it before all else is started.

        Raises:
            OSError: the address is taken or none of this machine's.
        """
        family, kind, protocol, _, address = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is taken or none of this machine's.
        """
        patience = self._settings.hl7_timeout_s if self._tls else None
        self._server = await asyncio.start_server(
            self._connected, self._host, self._port, ssl=self._tls, ssl_handshake_timeout=patience
        )

    async def close(self, timeout_s: float = math.inf) -> None:
        """Hear nobody any more. A message that is being taken is answered first, within `hl7_timeout_s` or less."""
        self._closing = True
        if self._server:
            self._server.close()
        for task in self._idle:
            task.cancel()
        patience_s = min(timeout_s, self._settings.hl7_timeout_s)
        if self._conversations:
            _, late = await asyncio.wait(self._conversations, timeout=patience_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._closing or len(self._conversations) >= MAX_CONNECTIONS:
            log.warning("orders: a connection is refused, %d are open", len(self._conversations))
            writer.transport.abort()
            return
        self._conversations.add(task)
        try:
            keep_alive(writer)
            await self._converse(reader, writer, task)
        except asyncio.CancelledError:
            if not self._closing:
                raise
        except TimeoutError:
            log.warning("orders: a connection is closed, nothing more came within %g s", self._settings.hl7_timeout_s)
        except BrokenFrame as broken:
            log.warning("orders: a connection is closed, %s", broken)
        except OSError as error:
            log.info("orders: a connection ended, %s", type(error).__name__)
        except Exception as error:
            log.error("orders: a connection is closed, %s", _place(error))
        finally:
            self._idle.discard(task)
            await self._ended(writer)
            self._conversations.discard(task)

    async def _ended(self, writer: StreamWriter) -> None:
        """Close a connection; what was answered is still sent, to whom reads it."""
        writer.close()
        try:
            async with asyncio.timeout(self._settings.hl7_timeout_s):
                await writer.wait_closed()
        except OSError:  # TimeoutError too
            writer.transport.abort()

    async def _converse(self, reader: StreamReader, writer: StreamWriter, task: asyncio.Task[None]) -> None:
        frames = Frames(reader, self._settings.hl7_max_bytes)
        while not self._closing:
            self._idle.add(task)
            begun = await frames.begun()
            self._idle.discard(task)
            if not begun:
                return
            try:
                async with asyncio.timeout(self._settings.hl7_timeout_s):
                    raw = await frames.rest()
            except FrameTooLarge as large:
                await self._send(writer, self._too_large(large))
                async with asyncio.timeout(self._settings.hl7_timeout_s):
                    await frames.pass_over(MAX_PASSED_OVER_BYTES)
                return
            await self._send(writer, await self._answers(raw))

    async def _send(self, writer: StreamWriter, answers: list[bytes]) -> None:
        async with asyncio.timeout(self._settings.hl7_timeout_s):
            writer.writelines(framed(answer) for answer in answers)
            await writer.drain()

    async def _answers(self, raw: bytes) -> list[bytes]:
        header, outcome = Header(), Outcome()
        try:
            header = read_header(raw)
            outcome = Outcome(await self._taken(raw, header))
        except OrderRefused as refused:
            log.warning("orders: %s is refused, %s %s", _named(header), refused.code, refused.location)
            outcome = Outcome(refused=refused)
        except Exception as error:
            # Not with its text or its trace: either may quote what was being stored.
            log.error("orders: %s could not be taken, %s", _named(header), _place(error))
            outcome = Outcome(refused=OrderRefused("207", "the order could not be taken; nothing was changed"))
        return self._written(header, outcome)

    async def _taken(self, raw: bytes, header: Header) -> list[IncomingOrder]:
        check_header(header, self._settings.hl7_processing_id)
        orders = read_orders(raw, header, self._settings.hl7_charset)
        sender = "|".join(["^".join(header.application).rstrip("^"), "^".join(header.facility).rstrip("^")])
        await self._take_orders(MessageIdentity(sender, header.control_id, hashlib.sha256(raw).hexdigest()), orders)
        log.info("orders: %s is taken, %d of them", _named(header), len(orders))
        return orders

    def _too_large(self, large: FrameTooLarge) -> list[bytes]:
        refused = MessageRejected("207", f"{large}; nothing was read of it")
        try:
            header = read_header(large.start)
        except MessageRejected:
            header = Header()
        log.warning("orders: %s is refused, %s", _named(header), large)
        return self._written(header, Outcome(refused=refused))

    def _written(self, header: Header, outcome: Outcome) -> list[bytes]:
        now, charset = datetime.now(UTC), header.charset or self._settings.hl7_charset
        stamps = [Stamp(uuid.uuid4().hex[:20], now, self._settings.hl7_specimen_type) for _ in range(2)]
        answers = acknowledgements(header, outcome, stamps)
        return [encode(answer, charset if charset in CODECS else "UNICODE UTF-8") for answer in answers]


def _place(error: Exception) -> str:
    """An error's type and the line that raised it."""
    raised = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(raised.filename).name}:{raised.lineno}"


def _named(header: Header) -> str:
    """A message's type and control id for the log: a stranger wrote them, so only letters that names are made of."""
    kind = f"{header.code}^{header.event}"
    kind = kind if re.fullmatch(r"[A-Z]{3}\^[A-Z][0-9]{2}", kind) else "a message of another type"
    known = re.fullmatch(r"[\w.:-]{1,36}", header.control_id, re.ASCII)
    return f"{kind}, control id {header.control_id if known else f'of {len(header.control_id)} characters'},"
