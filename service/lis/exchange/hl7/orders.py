"""Orders from OML^O33, OML^O21 and ORM^O01 messages. Pure, no I/O.

Errors name a position in the message, never a value.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, tzinfo
from typing import Literal, TypeVar, cast

from service.lis.domain.report import Order, Patient, collected
from service.lis.exchange.hl7.encoding import parse_date, parse_timestamp, parse_zone
from service.lis.exchange.hl7.reader import Header, MessageRejected, Segment, read_segments
from service.lis.exchange.orders import IncomingOrder, OrderAction, OrderRefused

#: The fields that are read have the same meaning in all of these. 2.6 and later are untested.
VERSIONS = ("2.3", "2.3.1", "2.4", "2.5", "2.5.1")
#: Message codes and events of orders. In O33 orders follow their specimen; otherwise specimens follow their order.
EVENTS = {"OML": ("O33", "O21"), "ORM": ("O01",)}
SEXES = ("F", "M", "O", "U", "A", "N")
MAX_LINE = 200  # characters of service.lis.domain.report.Line
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Request:
    """The segments of one order. `spm` is absent in ORM^O01, `obr` may be in a cancellation."""

    orc: Segment
    obr: Segment | None = None
    spm: Segment | None = None


def check_header(header: Header, processing_id: str) -> None:
    """Check that the message is an order that can be read.

    Raises:
        MessageRejected: 200, 201, 202 or 203 of table 0357, or 101 without a control id.
    """
    if header.code not in EVENTS:
        raise MessageRejected("200", "not an order; send OML^O33, OML^O21 or ORM^O01", "MSH^1^9^1^1")
    if header.event not in EVENTS[header.code]:
        raise MessageRejected("201", "not an order; send OML^O33, OML^O21 or ORM^O01", "MSH^1^9^1^2")
    if header.processing_id != processing_id:
        raise MessageRejected("202", f"wrong processing id; send {processing_id}", "MSH^1^11")
    if header.version not in VERSIONS:
        raise MessageRejected("203", f"unsupported version; send {', '.join(VERSIONS)}", "MSH^1^12")
    if not _is_line(header.control_id):
        raise MessageRejected("101", f"control id missing or invalid; send 1 to {MAX_LINE} characters", "MSH^1^10")
    if not _is_line("".join([*header.application, *header.facility])):
        raise MessageRejected("101", f"sender missing or invalid; send 1 to {MAX_LINE} characters", "MSH^1^3")


def read_orders(raw: bytes, header: Header, charset: str, zone: tzinfo | None = None) -> list[IncomingOrder]:
    """The orders of a message with a valid header, in message order.

    Args:
        charset: for a message without MSH-18.
        zone: for times without a time zone, if MSH-7 has none either; None is this machine's.

    Raises:
        OrderRefused: 100, 101, 102 or 103 of table 0357, with the position.
        MessageRejected: the message cannot be read.
    """
    msh, *segments = read_segments(raw, header.charset or charset, ("PID", "SPM", "ORC", "OBR"))
    if msh.get(14):
        raise MessageRejected("100", "continued messages (MSH-14) are not supported", msh.location(14))
    try:
        zone = parse_zone(msh.get(7)) or zone
    except ValueError as error:
        raise OrderRefused("102", str(error), msh.location(7)) from None
    patient = _patient(_only_patient(segments))
    rest = [each for each in segments if each.name != "PID"]
    requests = list(_by_specimen(rest) if header.event == "O33" else _by_order(rest))
    if not requests:
        raise OrderRefused("100", "no order in the message", "ORC^1")
    return [_order(request, patient, zone) for request in requests]


def _only_patient(segments: Sequence[Segment]) -> Segment:
    found = [each for each in segments if each.name == "PID"]
    if not found:
        raise OrderRefused("100", "no patient in the message", "PID^1")
    # A second PID is another patient or prior results: the patient of the next order would be ambiguous.
    if len(found) > 1 or segments[0] is not found[0]:
        raise OrderRefused("100", "send exactly one PID, before the orders", found[-1].location())
    return found[0]


def _by_specimen(segments: Sequence[Segment]) -> Iterator[_Request]:
    """OML^O33: { SPM { ORC [OBR] } }."""
    specimen: Segment | None = None
    waiting: _Request | None = None
    for each in segments:
        if each.name == "OBR":
            waiting = _with_request(waiting, each)
            continue
        if waiting:
            yield waiting
        if each.name == "SPM":
            if specimen and not waiting:
                raise OrderRefused("100", "a specimen (SPM) without an order (ORC)", specimen.location())
            specimen, waiting = each, None
        else:
            waiting = _Request(each, spm=specimen)
    if specimen and not waiting:
        raise OrderRefused("100", "a specimen (SPM) without an order (ORC)", specimen.location())
    if waiting:
        yield waiting


def _by_order(segments: Sequence[Segment]) -> Iterator[_Request]:
    """OML^O21 and ORM^O01: { ORC [OBR] { SPM } }. An order for two specimens becomes two orders."""
    waiting: _Request | None = None
    for each in segments:
        if each.name == "OBR":
            waiting = _with_request(waiting, each)
        elif each.name == "ORC":
            if waiting:
                yield waiting
            waiting = _Request(each)
        elif waiting is None:
            raise OrderRefused("100", "a specimen (SPM) before its order (ORC)", each.location())
        else:
            if waiting.spm:
                yield waiting
            waiting = replace(waiting, spm=each)
    if waiting:
        yield waiting


def _with_request(order: _Request | None, obr: Segment) -> _Request:
    if order is None or order.obr:
        raise OrderRefused("100", "each OBR must follow its own ORC", obr.location())
    return replace(order, obr=obr)


def _order(request: _Request, patient: Patient, zone: tzinfo | None) -> IncomingOrder:
    return IncomingOrder(
        action=_action(request.orc),
        number=_number(request),
        patient=patient,
        order=Order(
            placer_number=_first(_line(request.orc, 2), _line(request.obr, 2)),
            filler_number=_first(_line(request.orc, 3), _line(request.obr, 3)),
            service_code=_line(request.obr, 4),
            service_name=_line(request.obr, 4, 2),
            service_system=_line(request.obr, 4, 3),
        ),
        collected_at=_first(_moment(request.spm, 17, zone), _moment(request.obr, 7, zone)),
    )


def _action(orc: Segment) -> OrderAction:
    code = orc.get(1)
    if not code:
        raise OrderRefused("101", "order control (ORC-1) missing; send NW, XO or CA", orc.location(1))
    if code not in list(OrderAction):
        raise OrderRefused("103", "unsupported order control; send NW, XO or CA", orc.location(1))
    return OrderAction(code)


def _number(request: _Request) -> str:
    """The specimen number: SPM-2 (placer, filler), or else the order's filler or placer number."""
    spm, orc, obr = request.spm, request.orc, request.obr
    number = _first(
        _line(spm, 2, 1), _line(spm, 2, 2), _line(obr, 3), _line(orc, 3), _line(obr, 2), _line(orc, 2)
    )  # fmt: skip
    if number is None:
        raise OrderRefused("101", "no specimen number; send SPM-2, or an order number", (spm or obr or orc).location(2))
    return number


def _patient(pid: Segment) -> Patient:
    numbered = next((each for each in pid.repetitions(3) if pid.get(3, repetition=each)), None)
    if numbered is None:
        raise OrderRefused("101", "the patient has no number", pid.location(3))
    sex = pid.get(8)
    if sex and sex not in SEXES:
        raise OrderRefused("103", f"unknown sex; send one of {', '.join(SEXES)}", pid.location(8))
    return Patient(
        identifier=cast(str, _line(pid, 3, repetition=numbered)),
        authority=_line(pid, 3, 4, repetition=numbered),
        family=_line(pid, 5),
        given=_line(pid, 5, 2),
        birth_date=_day(pid, 7),
        sex=cast(Literal["F", "M", "O", "U", "A", "N"], sex) if sex else None,
    )


def _first(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)


def _is_line(value: str) -> bool:
    return 0 < len(value) <= MAX_LINE and not any(ord(char) < 0x20 or char == "\x7f" for char in value)


def _line(segment: Segment | None, field: int, component: int = 1, *, repetition: int = 1) -> str | None:
    """One line of text, None when it is not there."""
    value = segment.get(field, component, repetition=repetition) if segment else ""
    if segment and value and not _is_line(value):
        reason = f"invalid text; send one line of at most {MAX_LINE} characters"
        raise OrderRefused("102", reason, segment.location(field, repetition, component))
    return value or None


def _moment(segment: Segment | None, field: int, zone: tzinfo | None) -> datetime | None:
    value = segment.get(field) if segment else ""
    if segment is None or not value:
        return None
    try:
        return collected(parse_timestamp(value, zone))
    except ValueError as error:
        raise OrderRefused("102", str(error), segment.location(field)) from None


def _day(segment: Segment, field: int) -> date | None:
    value = segment.get(field)
    try:
        return parse_date(value) if value else None
    except ValueError as error:
        raise OrderRefused("102", str(error), segment.location(field)) from None
