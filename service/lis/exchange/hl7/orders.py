"""Orders from OML^O33, OML^O21 and ORM^O01 messages. Pure, no I/O.

Errors name a position in the message, never a value.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, tzinfo
from typing import Literal, TypeVar, cast

from service.lis.domain.report import Order, Patient, PatientNumber, collected
from service.lis.exchange.hl7.reader import Header, MessageRejected, Segment, read_segments
from service.lis.exchange.hl7.timestamps import (
    is_date,
    lacks_day,
    parse_date,
    parse_timestamp,
    parse_zone,
    utc_offset,
    with_valid_fraction,
)
from service.lis.exchange.orders import (
    IGNORED,
    IncomingOrder,
    OrderAction,
    OrderRefused,
    OrderWarning,
    PatientUpdate,
    ReceivedOrders,
)

#: Versions of HL7 v2. The fields that are read have the same meaning in all of them.
VERSIONS = re.compile(r"2\.[1-8](\.[0-9])?", re.ASCII)
#: Message codes and events of orders. In O33 orders follow their specimen; otherwise specimens follow their order.
EVENTS = {"OML": ("O33", "O21"), "ORM": ("O01",)}
#: Patient administration: events that update a patient, and those that merge two. Others are acknowledged and ignored.
PATIENTS, UPDATES, MERGES = "ADT", ("A08", "A31"), ("A18", "A40", "A47")
SEXES = ("F", "M", "O", "U", "A", "N")
#: Fields that go back with the result as they were ordered.
VERBATIM = (
    ("ORC", 2),
    ("ORC", 3),
    ("ORC", 4),
    ("OBR", 2),
    ("OBR", 3),
    ("OBR", 4),
    ("OBR", 16),
    ("PID", 18),
    ("SPM", 2),
    ("SPM", 4),
)
MAX_FIELD = 1000  # characters of a field that is returned
MAX_NUMBERS = 50  # of a patient
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
    if header.code != PATIENTS and header.code not in EVENTS:
        raise MessageRejected("200", "not an order; send OML^O33, OML^O21, ORM^O01 or ADT", "MSH^1^9^1^1")
    if header.code != PATIENTS and header.event not in EVENTS[header.code]:
        raise MessageRejected("201", "not an order; send OML^O33, OML^O21 or ORM^O01", "MSH^1^9^1^2")
    if header.processing_id != processing_id:
        raise MessageRejected("202", f"wrong processing id; send {processing_id}", "MSH^1^11")
    if header.version and not VERSIONS.fullmatch(header.version):
        raise MessageRejected("203", "unsupported version; send 2.1 to 2.8", "MSH^1^12")
    if not _is_line(header.control_id):
        raise MessageRejected("101", f"control id missing or invalid; send 1 to {MAX_LINE} characters", "MSH^1^10")
    if not _is_line("".join([*header.application, *header.facility])):
        raise MessageRejected("101", f"sender missing or invalid; send 1 to {MAX_LINE} characters", "MSH^1^3")


@dataclass(frozen=True, slots=True)
class OrderReader:
    """Reads orders for one laboratory.

    Args:
        charset: for a message without MSH-18.
        services: codes of OBR-4 that are orders for this laboratory, as CODE or CODE^SYSTEM; empty: all.
        specimen_types: codes of SPM-4 that are specimens for it; empty: all.
        patient_number: type (PID-3.5) or authority (PID-3.4) of the number that is the patient's.
        zone: for times without a time zone, if MSH-7 has none either; None is this machine's.
    """

    charset: str = "UNICODE UTF-8"
    services: frozenset[str] = frozenset()
    specimen_types: frozenset[str] = frozenset()
    patient_number: str = "MR"
    zone: tzinfo | None = None

    def read(self, raw: bytes, header: Header) -> ReceivedOrders:
        """The orders of a message with a valid header, in message order.

        Orders for other services or specimens, and codes that ask for nothing, are left out.

        Raises:
            OrderRefused: 100, 101, 102 or 103 of table 0357, with the position.
            MessageRejected: the message cannot be read.
        """
        if header.code == PATIENTS:
            return self._read_patients(raw, header)
        msh, *segments = read_segments(raw, header.charset or self.charset, ("PID", "PV1", "SPM", "ORC", "OBR"))
        if msh.get(14):
            raise MessageRejected("100", "continued messages (MSH-14) are not supported", msh.location(14))
        try:
            zone = parse_zone(msh.get(7)) or self.zone
        except ValueError as error:
            raise OrderRefused("102", str(error), msh.location(7)) from None
        found = ReceivedOrders()
        _check_no_prior_results(segments)
        segments = [each for each in segments if each.name != "PV1"]
        pid = _only_patient(segments)
        patient = _patient(pid, self.patient_number, found.warnings)
        rest = [each for each in segments if each.name != "PID"]
        requests = list(_by_specimen(rest) if header.event == "O33" else _by_order(rest))
        if not requests:
            raise OrderRefused("100", "no order in the message", "ORC^1")
        for request in requests:
            if _control(request.orc) in IGNORED:
                continue
            if aside := self._set_aside(request):
                found.warnings.append(aside)
                continue
            found.orders.append(_order(request, pid, patient, zone))
            found.warnings.extend(_times_set_aside(request))
        return found

    def _read_patients(self, raw: bytes, header: Header) -> ReceivedOrders:
        """PID with its new data, and MRG after it with the numbers that are merged into it."""
        found = ReceivedOrders()
        if header.event not in UPDATES + MERGES:
            return found
        _, *segments = read_segments(raw, header.charset or self.charset, ("PID", "MRG"))
        for at, pid in enumerate(segments):
            if pid.name != "PID":
                continue
            mrg = segments[at + 1] if at + 1 < len(segments) else None
            merged = _numbers(mrg, 1) if mrg is not None and mrg.name == "MRG" else ()
            if header.event in MERGES and not merged:
                raise OrderRefused("101", "a merge without the merged number (MRG-1)", pid.location())
            patient = _patient(pid, self.patient_number, found.warnings)
            found.patients.append(PatientUpdate(patient, frozenset(_deleted(pid)), merged))
        if not found.patients:
            raise OrderRefused("100", "no patient in the message", "PID^1")
        return found

    def _set_aside(self, request: _Request) -> OrderWarning | None:
        """Why an order is not for this laboratory; None if it is. An order without a service or type is."""
        obr, spm = request.obr, request.spm
        if self.services and obr and (code := obr.get(4)):
            if not {code, f"{code}^{obr.get(4, 3)}"} & self.services:
                return OrderWarning("103", "set aside: not a service of this laboratory", obr.location(4))
        if self.specimen_types and spm and (kind := spm.get(4)) and kind not in self.specimen_types:
            return OrderWarning("103", "set aside: not a specimen of this laboratory", spm.location(4))
        return None


def _only_patient(segments: Sequence[Segment]) -> Segment:
    found = [each for each in segments if each.name == "PID"]
    if not found:
        raise OrderRefused("100", "no patient in the message", "PID^1")
    # A second PID is another patient or prior results: the patient of the next order would be ambiguous.
    if len(found) > 1 or segments[0] is not found[0]:
        raise OrderRefused("100", "send exactly one PID, before the orders", found[-1].location())
    return found[0]


def _check_no_prior_results(segments: Sequence[Segment]) -> None:
    """Refuse a message with a visit (PV1) after an order.

    Prior results begin with a PV1, and their ORC and OBR segments would be read as new orders.
    """
    names = [each.name for each in segments]
    first = next((at for at, name in enumerate(names) if name not in ("PID", "PV1")), len(names))
    if "PV1" in names[first:]:
        visit = segments[names.index("PV1", first)]
        raise OrderRefused("100", "a visit (PV1) after an order; send no prior results", visit.location())


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


def _order(request: _Request, pid: Segment, patient: Patient, zone: tzinfo | None) -> IncomingOrder:
    orc, obr, spm = request.orc, request.obr, request.spm
    for field in (2, 3):
        if obr and orc.get(field) and obr.get(field) and orc.get(field) != obr.get(field):
            raise OrderRefused("102", f"ORC-{field} and OBR-{field} name different orders", obr.location(field))
    return IncomingOrder(
        action=_action(orc),
        number=_number(request),
        has_label=_label(request) is not None,
        patient=patient,
        order=Order(
            placer_number=_first(_line(orc, 2), _line(obr, 2)),
            filler_number=_first(_line(orc, 3), _line(obr, 3)),
            service_code=_line(obr, 4),
            service_name=_line(obr, 4, 2),
            service_system=_line(obr, 4, 3),
            as_ordered=dict([*_verbatim(pid, orc, obr, spm), *_collection_time(obr, spm, zone)]) or None,
        ),
        collected_at=_first(_moment(spm, 17, zone), _moment(obr, 7, zone)),
        deleted=frozenset(_deleted(pid, orc, obr, spm)),
        segments={each.name: each.number for each in (pid, orc, obr, spm) if each is not None},
    )


def _verbatim(*segments: Segment | None) -> Iterator[tuple[str, str]]:
    """The fields that are returned, by name, if they have a value."""
    by_name = {each.name: each for each in segments if each is not None}
    for name, field in VERBATIM:
        value = by_name[name].verbatim(field) if name in by_name else ""
        if value and not ((name, field) in _NUMBERS and value.startswith("^")):  # an authority without a number
            if len(value) > MAX_FIELD or not _is_line(value[:MAX_LINE]):
                reason = f"invalid text; send one line of at most {MAX_FIELD} characters"
                raise OrderRefused("102", reason, by_name[name].location(field))
            yield f"{name}-{field}", value


def _times_set_aside(request: _Request) -> Iterator[OrderWarning]:
    """Collection times that say only a year or a month: like a birth date of that kind they are not known."""
    for segment, field in ((request.spm, 17), (request.obr, 7), (request.obr, 8)):
        if segment and any(lacks_day(segment.get(field, component)) for component in (1, 2)):
            yield OrderWarning("102", "set aside: a collection time without a day", segment.location(field))


def _time_with_a_day(segment: Segment, field: int, component: int) -> str:
    """A timestamp as it was sent; nothing for one that says only a year or a month."""
    value = segment.get(field, component)
    return "" if lacks_day(value) else value


def _collection_time(obr: Segment | None, spm: Segment | None, zone: tzinfo | None) -> Iterator[tuple[str, str]]:
    """The collection time as it was sent, of a range both ends; a date stays a date, a time without an offset gets that
    of its zone."""
    for name, segment, begins, ends in (("SPM-17", spm, (17, 1), (17, 2)), ("OBR-7", obr, (7, 1), (8, 1))):
        moment, last = (_moment(segment, field, zone, component) for field, component in (begins, ends))
        if segment is None or moment is None:
            continue
        if last is not None and last < moment:
            raise OrderRefused("102", "the collection ends before it begins", segment.location(ends[0]))
        sent = [_time_with_a_day(segment, *place) for place in (begins, ends)]
        yield name, "^".join(_with_offset(each, zone) for each in sent if each)
        return


def _with_offset(sent: str, zone: tzinfo | None) -> str:
    """A timestamp as it was sent, a time with an offset."""
    sent = with_valid_fraction(sent)
    is_complete = is_date(sent) or parse_zone(sent) is not None
    return sent if is_complete else f"{sent}{utc_offset(sent, zone)}"


#: Segment, field, component and name of what HL7's null deletes.
_DELETABLE = (
    ("PID", 5, 1, "patient.family"),
    ("PID", 5, 2, "patient.given"),
    ("PID", 7, 1, "patient.birth_date"),
    ("PID", 8, 1, "patient.sex"),
    ("PID", 8, 1, "patient.sex_as_sent"),
    ("OBR", 4, 1, "order.service_code"),
    ("OBR", 4, 2, "order.service_name"),
    ("OBR", 4, 3, "order.service_system"),
    ("SPM", 17, 1, "collected_at"),
    ("SPM", 17, 2, "as_ordered.SPM-17.2"),
    ("OBR", 7, 1, "collected_at.OBR-7"),
    ("OBR", 8, 1, "as_ordered.OBR-7.2"),
)
#: Fields with an order number, which ORC and OBR both have.
_NUMBERS = {("ORC", 2): "placer_number", ("ORC", 3): "filler_number"} | {
    ("OBR", 2): "placer_number",
    ("OBR", 3): "filler_number",
}
#: Component, subcomponent and name of the parts of a patient number.
_NUMBER_PARTS = ((4, 1, "namespace"), (4, 2, "universal_id"), (4, 3, "universal_id_type"), (5, 1, "type"))


def _deleted(*segments: Segment | None) -> Iterator[str]:
    by_name = {each.name: each for each in segments if each is not None}
    for name, field, component, deleted in _DELETABLE:
        if name in by_name and by_name[name].is_deleted(field, component):
            yield deleted
    for name, field in VERBATIM:
        if name in by_name:
            yield from _deleted_verbatim(by_name[name], field)
    for field in (2, 3):
        yield from _deleted_number([each for each in (by_name.get("ORC"), by_name.get("OBR")) if each], field)
    if "PID" in by_name:
        yield from _deleted_authorities(by_name["PID"])


def _deleted_verbatim(segment: Segment, field: int) -> Iterator[str]:
    """The field, unless it is the number on the label: by that a specimen is known. Or parts of it: SPM-4.2."""
    name = f"as_ordered.{segment.name}-{field}"
    if segment.is_deleted(field) and (segment.name, field) != ("SPM", 2):
        yield name
    for part in segment.deleted_parts(field):
        yield ".".join([name, *map(str, part)])


def _deleted_number(segments: Sequence[Segment], field: int) -> Iterator[str]:
    """An order number, if one of ORC and OBR deletes it and the other one does not name it."""
    is_named = any(each.get(field) for each in segments)
    if any(each.is_deleted(field, 1) for each in segments) and not is_named:
        yield f"order.{_NUMBERS['ORC', field]}"
        yield from (f"as_ordered.{name}-{field}" for name in ("ORC", "OBR"))


def _deleted_authorities(pid: Segment) -> Iterator[str]:
    """Parts of a patient number other than the number itself, as in `numbers.100234.type`."""
    for repetition in pid.repetitions(3):
        number = pid.get(3, repetition=repetition)
        for component, subcomponent, name in _NUMBER_PARTS if number else ():
            if pid.is_deleted(3, component, subcomponent, repetition=repetition):
                yield f"numbers.{number}.{name}"


def _control(orc: Segment) -> str:
    code = orc.get(1)
    if not code:
        raise OrderRefused("101", f"order control (ORC-1) missing; send {', '.join(OrderAction)}", orc.location(1))
    return code


def _action(orc: Segment) -> OrderAction:
    code = _control(orc)
    if code not in list(OrderAction):
        raise OrderRefused("103", f"unsupported order control; send {', '.join(OrderAction)}", orc.location(1))
    return OrderAction(code)


def _label(request: _Request) -> str | None:
    """The number on the label of the specimen: SPM-2, the placer's first."""
    return _first(_line(request.spm, 2, 1), _line(request.spm, 2, 2))


def _number(request: _Request) -> str | None:
    """The specimen number: SPM-2 (placer, filler). Without one, a new order's filler or placer number; a message about
    a known order finds its specimen by these numbers."""
    spm, orc, obr = request.spm, request.orc, request.obr
    own = _label(request)
    of_order = _first(_line(obr, 3), _line(orc, 3), _line(obr, 2), _line(orc, 2))
    if own is None and of_order is None:
        raise OrderRefused("101", "no specimen number; send SPM-2, or an order number", (spm or obr or orc).location(2))
    return own or (of_order if _action(orc) in (OrderAction.NEW, OrderAction.REPLACEMENT) else None)


def _patient(pid: Segment, preferred: str, warnings: list[OrderWarning]) -> Patient:
    """The patient. Adds a warning for an unknown sex code.

    The number is the first of the preferred type or authority, otherwise the first.
    """
    if len(pid.repetitions(3)) > MAX_NUMBERS:
        raise OrderRefused("102", f"more than {MAX_NUMBERS} patient numbers", pid.location(3))
    numbers = _numbers(pid, 3)
    if not numbers:
        raise OrderRefused("101", "the patient has no number", pid.location(3))
    chosen = next((each for each in numbers if preferred in (each.type, each.namespace, each.universal_id)), numbers[0])
    sex, sex_as_sent = pid.get(8).upper(), None
    if sex and sex not in SEXES:
        sex_as_sent = _line(pid, 8)
        warnings.append(OrderWarning("103", "unknown sex, stored as U", pid.location(8)))
        sex = "U"
    return Patient(
        identifier=chosen.number,
        authority=chosen.namespace or chosen.universal_id,
        family=_line(pid, 5),
        given=_line(pid, 5, 2),
        birth_date=_day(pid, 7),
        sex=cast(Literal["F", "M", "O", "U", "A", "N"], sex) if sex else None,
        sex_as_sent=sex_as_sent,
        numbers=numbers,
    )


def _numbers(segment: Segment, field: int) -> tuple[PatientNumber, ...]:
    return tuple(
        _patient_number(segment, field, each)
        for each in segment.repetitions(field)
        if segment.get(field, repetition=each)
    )


def _patient_number(segment: Segment, field: int, repetition: int) -> PatientNumber:
    def part(component: int, subcomponent: int = 1) -> str | None:
        value = segment.get(field, component, subcomponent, repetition)
        if value and not _is_line(value):
            reason = f"invalid text; send one line of at most {MAX_LINE} characters"
            raise OrderRefused("102", reason, segment.location(field, repetition, component))
        return value or None

    return PatientNumber(
        number=cast(str, part(1)),
        namespace=part(4),
        universal_id=part(4, 2),
        universal_id_type=part(4, 3),
        type=part(5),
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


def _moment(segment: Segment | None, field: int, zone: tzinfo | None, component: int = 1) -> datetime | None:
    value = _time_with_a_day(segment, field, component) if segment else ""
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
