"""Orders as they come from a laboratory's system, whatever message they came in. Knows no HL7 and no storage."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from service.lis.domain.report import Order, Patient


class OrderAction(StrEnum):
    """What the order asks for (ORC-1, HL7 table 0119)."""

    NEW = "NW"
    CHANGE = "XO"
    CANCEL = "CA"


@dataclass(frozen=True, slots=True)
class IncomingOrder:
    """One specimen that is asked for, changed or cancelled. `number` is what stands on its label."""

    action: OrderAction
    number: str
    patient: Patient
    order: Order
    collected_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is on the other side of a connection, as far as it is verified. `certificate` is its subject."""

    address: str
    certificate: str | None = None


@dataclass(frozen=True, slots=True)
class MessageIdentity:
    """Which message orders came in. The same one a second time is answered as the first time and changes nothing.

    `sender` is what the message says of itself in MSH-3 and MSH-4: nobody has verified it.
    """

    peer: Peer
    sender: str
    control_id: str
    sha256: str


class OrderRefused(Exception):
    """An order that cannot be taken as it is. The reason is for a log too: it holds nothing of the patient.

    `code` is of HL7 table 0357 (101 required field missing, 204 unknown key, 205 duplicate key, 207 internal error, …),
    `location` an ERL such as PID^1^3.
    """

    def __init__(self, code: str, reason: str, location: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.location = location


#: Takes all orders of one message or none; raises OrderRefused.
TakeOrders = Callable[[MessageIdentity, Sequence[IncomingOrder]], Awaitable[None]]
