"""Acknowledgements of incoming messages: MSA, ERR, ORL and ORR, in original and enhanced mode. Pure: no I/O, no clock.

HL7 v2.5.1, 2.9.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from service.lis.exchange.hl7.encoding import EMPTY, Encoded, components, message, segment, text
from service.lis.exchange.hl7.orders import VERSIONS
from service.lis.exchange.hl7.reader import Header, MessageRejected
from service.lis.exchange.hl7.results import VERSION, ordered, patient
from service.lis.exchange.hl7.timestamps import format_timestamp
from service.lis.exchange.orders import IncomingOrder, OrderAction, OrderRefused, OrderWarning

#: HL7 table 0357.
ERROR_CODES = {
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
#: Conditions for an acknowledgement (HL7 table 0155): always, never, on error, on success.
ACK_CONDITIONS = {"AL", "NE", "ER", "SU"}
#: Answer message by order event, the first version that defines it, and the one that withdrew it.
ANSWERS: dict[str, tuple[tuple[str, str, str], tuple[int, int], tuple[int, int] | None]] = {
    "O33": (("ORL", "O34", "ORL_O34"), (2, 5), None),
    "O21": (("ORL", "O22", "ORL_O22"), (2, 4), None),
    "O01": (("ORR", "O02", "ORR_O02"), (2, 1), (2, 7)),
}
#: Order control code of an accepted order (HL7 table 0119).
ACCEPTED = {
    OrderAction.NEW: "OK",
    OrderAction.CHANGE: "XR",
    OrderAction.REPLACE: "RQ",
    OrderAction.REPLACEMENT: "OK",
    OrderAction.CANCEL: "CR",
    OrderAction.DISCONTINUE: "DR",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a message: all its orders accepted, with warnings, or the error."""

    orders: Sequence[IncomingOrder] = ()
    warnings: Sequence[OrderWarning] = ()
    refused: OrderRefused | None = None

    def code(self, mode: str) -> str:
        """MSA-1 (table 0008). `mode` is A for an application acknowledgement, C for an accept one."""
        if self.refused is None:
            return f"{mode}A"
        return f"{mode}R" if isinstance(self.refused, MessageRejected) else f"{mode}E"


@dataclass(frozen=True, slots=True)
class ReplyMetadata:
    """Control id, time and specimen type of an answer."""

    control_id: str
    sent_at: datetime
    specimen_type: str = ""


def acknowledgements(header: Header, outcome: Outcome, stamps: Sequence[ReplyMetadata]) -> list[str]:
    """The answers to send, in order: none, one or two, each with its own metadata.

    Original mode has one application acknowledgement. In enhanced mode the sender requests each kind; after an accept
    acknowledgement with an error, none follows. A sender that requests nothing valid gets original mode.
    """
    failed = outcome.refused is not None
    if not {header.accept_ack, header.application_ack} & ACK_CONDITIONS:
        return [application_ack(header, outcome, stamps[0])]
    answers = []
    if _wanted(header.accept_ack, failed):
        answers.append(accept_ack(header, outcome, stamps[0]))
    if _wanted(header.application_ack, failed) and not (failed and answers):
        answers.append(application_ack(header, outcome, stamps[len(answers)]))
    return answers


def _wanted(condition: str, failed: bool) -> bool:
    return condition in ("AL", "ER" if failed else "SU")


def accept_ack(header: Header, outcome: Outcome, stamp: ReplyMetadata) -> str:
    """CA, CE or CR: whether the message is stored."""
    return message([_answer_header(header, _plain(header), stamp), *_msa_and_err(header, outcome, "C")])


def _plain(header: Header) -> tuple[str, str | None, str]:
    return "ACK", header.event or None, "ACK"


def _answer_kind(header: Header) -> tuple[str, str | None, str]:
    if header.event not in ANSWERS:
        return _plain(header)
    kind, first, withdrawn = ANSWERS[header.event]
    is_defined = not _is_before(header, *first) and (withdrawn is None or _is_before(header, *withdrawn))
    return kind if is_defined else _plain(header)


def application_ack(header: Header, outcome: Outcome, stamp: ReplyMetadata) -> str:
    """AA, AE or AR, in the order's response message; in ACK for other events and versions without one."""
    kind = _answer_kind(header)
    answer = [_answer_header(header, kind, stamp), *_msa_and_err(header, outcome, "A")]
    # The orders come below PID, which requires a name. A change may have none, and the stored one is not "unknown".
    is_named = any(each.patient.family or each.patient.given for each in outcome.orders)
    if not outcome.refused and is_named and kind[0] == "ORL":
        answer.extend(_accepted_orders(outcome.orders, stamp, by_specimen=kind[1] == "O34"))
    return message(answer)


def _answer_header(header: Header, kind: tuple[str, str | None, str], stamp: ReplyMetadata) -> str:
    """MSH of an answer: sender and receiver swapped, in the message's version and character set."""
    fields = {
        3: components(*header.to_application),
        4: components(*header.to_facility),
        5: components(*header.application),
        6: components(*header.facility),
        7: text(format_timestamp(stamp.sent_at)),
        # The structure (MSH-9.3) came with 2.3.1.
        9: components(*kind[: 2 if _is_before(header, 2, 3, 1) else 3]),
        10: text(stamp.control_id),
        11: text(header.processing_id),
        12: text(_version(header)),
        18: text(header.charset),
    }
    return segment("MSH", fields)


def _version(header: Header) -> str:
    return header.version if VERSIONS.fullmatch(header.version) else VERSION


def _is_before(header: Header, *version: int) -> bool:
    """Whether the answer's version is before this one; (2, 3, 1) is 2.3.1."""
    return tuple(map(int, _version(header).split("."))) < version


def _msa_and_err(header: Header, outcome: Outcome, mode: str) -> Iterator[str]:
    refused = outcome.refused
    early = _is_before(header, 2, 5)  # ERR has one field and no severity; MSA-3 has the reason, and warnings
    said = [refused.reason] if refused else [each.reason for each in outcome.warnings]
    reason = text("; ".join(dict.fromkeys(said)) or None) if early else EMPTY
    yield segment("MSA", {1: text(outcome.code(mode)), 2: text(header.control_id), 3: reason})
    if refused:
        yield _early_error(refused) if early else _error(refused, "E")
    elif not early:
        yield from (_error(warning, "W") for warning in outcome.warnings)


def _error(found: OrderRefused | OrderWarning, severity: str) -> str:
    fields = {
        2: components(*found.location.split("^")),
        3: components(found.code, ERROR_CODES.get(found.code), "HL70357"),
        4: text(severity),
        8: text(found.reason),
    }
    return segment("ERR", fields)


def _early_error(refused: OrderRefused) -> str:
    place = [*refused.location.split("^"), "", "", ""][:3]
    code = "&".join(text(part) for part in (refused.code, ERROR_CODES.get(refused.code), "HL70357"))
    return segment("ERR", {1: Encoded(f"{components(*place) if place[0] else '^^'}^{code}")})


def _accepted_orders(orders: Sequence[IncomingOrder], stamp: ReplyMetadata, *, by_specimen: bool) -> Iterator[str]:
    """The accepted orders, grouped by specimen in ORL^O34."""
    yield patient(orders[0].patient)
    for number, (specimen, group) in enumerate(groupby(orders, key=lambda order: order.number), 1):
        several = list(group)
        if by_specimen:
            kind = ordered(several[0].order, None, "SPM-4") or text(stamp.specimen_type)
            label = ordered(several[0].order, None, "SPM-2") or text(specimen)
            yield segment("SPM", {1: text(number), 2: label, 4: kind})
        for each in several:
            yield from _accepted(each)


def _accepted(order: IncomingOrder) -> Iterator[str]:
    """ORC, and OBR if the order has a service: between two specimens ORL^O34 requires it."""
    numbers = {2: ordered(order.order, order.order.placer_number, "ORC-2", "OBR-2")}
    numbers[3] = ordered(order.order, order.order.filler_number, "ORC-3", "OBR-3")
    yield segment("ORC", {1: text(ACCEPTED[order.action]), **numbers})
    if service := ordered(order.order, order.order.service_code, "OBR-4"):
        yield segment("OBR", {1: text(order.segments.get("OBR", 1)), **numbers, 4: service})
