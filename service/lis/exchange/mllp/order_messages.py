"""Bytes of one message with orders, and the acknowledgements that answer it.

Nothing of a patient is logged: a line holds a message's type, its control id and codes.
"""

import hashlib
import logging
import re
import uuid
from datetime import UTC, datetime

from service.concurrency.supervisor import error_location
from service.config.lis import LisSettings
from service.lis.exchange.hl7.ack_builder import Outcome, Stamp, acknowledgements
from service.lis.exchange.hl7.charsets import CODECS, encode
from service.lis.exchange.hl7.orders import check_header, read_orders
from service.lis.exchange.hl7.reader import Header, MessageRejected, read_header
from service.lis.exchange.mllp.framing import FrameTooLarge
from service.lis.exchange.orders import IncomingOrder, MessageIdentity, OrderRefused, Peer, TakeOrders

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
