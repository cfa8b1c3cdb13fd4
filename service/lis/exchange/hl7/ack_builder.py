"""The answers to a message that came in: which are asked for, and how they are written. Pure: no I/O, no clock.

Knows original and enhanced acknowledgement mode (HL7 v2.5.1, 2.9), MSA, ERR and the ORL and ORR messages. Does not know
what was asked for beyond the orders as they were read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from service.lis.exchange.hl7.encoding import EMPTY, Encoded, components, message, segment, text, written
from service.lis.exchange.hl7.orders import VERSIONS
from service.lis.exchange.hl7.reader import Header, MessageRejected
from service.lis.exchange.hl7.results import VERSION, patient
from service.lis.exchange.orders import IncomingOrder, OrderAction, OrderRefused

#: HL7 table 0357.
CONDITIONS = {
    "0": "Message accepted",
    "100": "Segment sequence error",
    "101": "Required field missing",
    "102": "Data type error",
    "103": "Table value not found",
    "200": "Unsupported message type",
    "201": "Unsupported event code",
    "202": "Unsupported processing id",
    "203": "Unsupported version id",
    "204": "Unknown key identifier",
    "205": "Duplicate key identifier",
    "206": "Application record locked",
    "207": "Application internal error",
}
#: When an acknowledgement is wanted (HL7 table 0155): always, never, on errors, on success.
ASKED_FOR = {"AL", "NE", "ER", "SU"}
#: What an order is answered with, and what says that one order is done (HL7 table 0119).
ANSWERS = {"O33": ("ORL", "O34", "ORL_O34"), "O21": ("ORL", "O22", "ORL_O22"), "O01": ("ORR", "O02", "ORR_O02")}
DONE = {OrderAction.NEW: "OK", OrderAction.CHANGE: "XR", OrderAction.CANCEL: "CR"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message: all orders taken, or why none was."""

    orders: Sequence[IncomingOrder] = ()
    refused: OrderRefused | None = None

    def code(self, mode: str) -> str:
        """MSA-1 (table 0008). `mode` is A for an application acknowledgement, C for an accept one."""
        if self.refused is None:
            return f"{mode}A"
        return f"{mode}R" if isinstance(self.refused, MessageRejected) else f"{mode}E"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What an answer cannot know by itself."""

    control_id: str
    sent_at: datetime
    specimen_type: str = ""


def acknowledgements(header: Header, outcome: Outcome, stamps: Sequence[Stamp]) -> list[str]:
    """The answers to send, in their order: none, one or two, each with a stamp of its own.

    Original mode has one application acknowledgement. In enhanced mode a sender asks for each kind; when an accept
    acknowledgement has said that the message is not taken, no application acknowledgement follows. Who asks for
    nothing that there is means original mode: silence would be the worst answer.
    """
    failed = outcome.refused is not None
    if not {header.accept_ack, header.application_ack} & ASKED_FOR:
        return [application_ack(header, outcome, stamps[0])]
    answers = []
    if _wanted(header.accept_ack, failed):
        answers.append(accept_ack(header, outcome, stamps[0]))
    if _wanted(header.application_ack, failed) and not (failed and answers):
        answers.append(application_ack(header, outcome, stamps[len(answers)]))
    return answers


def _wanted(condition: str, failed: bool) -> bool:
    return condition in ("AL", "ER" if failed else "SU")


def accept_ack(header: Header, outcome: Outcome, stamp: Stamp) -> str:
    """CA, CE or CR: whether the message is in safe keeping."""
    kind = ("ACK", header.event or None, "ACK")
    return message([_answer_header(header, kind, stamp), *_verdict(header, outcome, "C")])


def application_ack(header: Header, outcome: Outcome, stamp: Stamp) -> str:
    """AA, AE or AR, in the message that belongs to the order; in ACK where it is none."""
    kind = ANSWERS.get(header.event, ("ACK", header.event or None, "ACK"))
    answer = [_answer_header(header, kind, stamp), *_verdict(header, outcome, "A")]
    if not outcome.refused and outcome.orders and kind[0] == "ORL":
        answer.extend(_taken(outcome.orders, stamp, by_specimen=kind[1] == "O34"))
    return message(answer)


def _answer_header(header: Header, kind: tuple[str, str | None, str], stamp: Stamp) -> str:
    """MSH of an answer: from whom the message was for, in its own version and character set."""
    fields = {
        3: components(*header.to_application),
        4: components(*header.to_facility),
        5: components(*header.application),
        6: components(*header.facility),
        7: text(written(stamp.sent_at)),
        9: components(*kind),
        10: text(stamp.control_id),
        11: text(header.processing_id),
        12: text(_version(header)),
        18: text(header.charset),
    }
    return segment("MSH", fields)


def _version(header: Header) -> str:
    return header.version if header.version in VERSIONS else VERSION


def _verdict(header: Header, outcome: Outcome, mode: str) -> Iterator[str]:
    refused = outcome.refused
    early = _version(header) < "2.5"  # ERR had one field, and MSA a text
    reason = text(refused.reason) if refused and early else EMPTY
    yield segment("MSA", {1: text(outcome.code(mode)), 2: text(header.control_id), 3: reason})
    if refused:
        yield _early_error(refused) if early else _error(refused)


def _error(refused: OrderRefused) -> str:
    fields = {
        2: components(*refused.location.split("^")),
        3: components(refused.code, CONDITIONS.get(refused.code), "HL70357"),
        4: text("E"),
        8: text(refused.reason),
    }
    return segment("ERR", fields)


def _early_error(refused: OrderRefused) -> str:
    place = [*refused.location.split("^"), "", "", ""][:3]
    code = "&".join(text(part) for part in (refused.code, CONDITIONS.get(refused.code), "HL70357"))
    return segment("ERR", {1: Encoded(f"{components(*place) if place[0] else '^^'}^{code}")})


def _taken(orders: Sequence[IncomingOrder], stamp: Stamp, *, by_specimen: bool) -> Iterator[str]:
    """What was done with each order, under its specimen where the message is ordered so."""
    yield patient(orders[0].patient)
    for number, (specimen, group) in enumerate(groupby(orders, key=lambda order: order.number), 1):
        if by_specimen:
            yield segment("SPM", {1: text(number), 2: text(specimen), 4: text(stamp.specimen_type)})
        for each in group:
            numbers = {2: text(each.order.placer_number), 3: text(each.order.filler_number)}
            yield segment("ORC", {1: text(DONE[each.action]), **numbers})
