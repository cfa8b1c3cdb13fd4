"""Orders of the laboratory's system, independent of the message format."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from service.lis.domain.report import Order, Patient, PatientNumber


class OrderAction(StrEnum):
    """The order control code (ORC-1, HL7 table 0119). RP with an RO in its message is cancelled, without it changed."""

    NEW = "NW"
    CHANGE = "XO"
    REPLACE = "RP"
    REPLACEMENT = "RO"
    CANCEL = "CA"
    DISCONTINUE = "DC"


#: Errors of orders (HL7 table 0357).
BAD_VALUE, UNKNOWN_KEY, DUPLICATE_KEY, LOCKED = "102", "204", "205", "206"
#: Codes that say something about an order and ask for nothing: acknowledged and ignored.
IGNORED = frozenset("SC SN SR SS NA CN OK UA CR XR DR RQ OC OD UC UX UD RE PR".split())


@dataclass(frozen=True, slots=True)
class IncomingOrder:
    """An order for one specimen.

    `number` is on its label, or, without `has_label`, one of a new order's own numbers; None if the message names only
    a known order. Empty fields are None and leave a stored value as it is; `deleted` names those that are to be deleted
    (HL7's null), as in `patient.family` or `order.service_name`.
    `segments` are the numbers of its segments in the message, such as 2 for the second ORC.
    """

    action: OrderAction
    number: str | None
    patient: Patient
    order: Order
    collected_at: datetime | None = None
    deleted: frozenset[str] = frozenset()
    has_label: bool = True
    segments: Mapping[str, int] = field(default_factory=dict, compare=False)

    def location(self, segment: str, field: int) -> str:
        """The position of a field in the message, as an ERL (ERR-2)."""
        return f"{segment}^{self.segments.get(segment, 1)}^{field}"

    def place(self) -> str:
        """The position of the number that names the order: the specimen's, or the placer's without one."""
        return self.location("SPM", 2) if "SPM" in self.segments else self.location("ORC", 2)


@dataclass(frozen=True, slots=True)
class PatientUpdate:
    """New data of a patient, or a merge: `merged` are the numbers (MRG-1) that are now those of `patient`."""

    patient: Patient
    deleted: frozenset[str] = frozenset()
    merged: tuple[PatientNumber, ...] = ()


Incoming = IncomingOrder | PatientUpdate


@dataclass(frozen=True, slots=True)
class OrderWarning:
    """Something about a message that was taken: reported with severity W. It never quotes the message."""

    code: str  # HL7 table 0357
    reason: str
    location: str


@dataclass(slots=True)
class ReceivedOrders:
    """The orders and patient updates of one message, and warnings."""

    orders: list[IncomingOrder] = field(default_factory=list)
    patients: list[PatientUpdate] = field(default_factory=list)
    warnings: list[OrderWarning] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Peer:
    """The verified peer of a connection. `certificate` is its subject."""

    address: str
    certificate: str | None = None


@dataclass(frozen=True, slots=True)
class MessageIdentity:
    """Identifies a message with orders. The same message again gets the same answer and changes nothing.

    `sender` is MSH-3 and MSH-4: a claim, which nothing verifies.
    """

    peer: Peer
    sender: str
    control_id: str
    sha256: str


class OrderRefused(Exception):
    """An order is refused. The reason is logged: it holds no patient data.

    `code` is of HL7 table 0357 (101 required field missing, 204 unknown key, 205 duplicate key, 207 internal error, …),
    `location` an ERL such as PID^1^3.
    """

    def __init__(self, code: str, reason: str, location: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.location = location


#: Accepts everything in one message, or nothing; raises OrderRefused.
TakeOrders = Callable[[MessageIdentity, Sequence[Incoming]], Awaitable[None]]
