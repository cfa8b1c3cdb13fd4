"""A report as ORU^R01 (IHE LAB-3) or OUL^R22 (ordered by specimen). Pure: no I/O, no clock.

Field by field in docs/hl7-messages.md.
"""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import datetime

from service.config.lis import LisSettings
from service.config.urls import split_or_nothing
from service.lis.domain.person import Person
from service.lis.domain.report import Order, Patient, PatientNumber, Report, ReportStatus
from service.lis.exchange.hl7.encoding import (
    EMPTY,
    Encoded,
    components,
    message,
    repetitions,
    segment,
    text,
    unescape,
)
from service.lis.exchange.hl7.timestamps import format_date, format_timestamp
from service.lis.exchange.observations import (
    BY_PERSON,
    MODEL,
    PANEL,
    CodeOf,
    Observation,
    Result,
    ResultStatus,
    not_measured,
    person_of_result,
    provenance_notes,
    results,
)
from service.lis.exchange.reference_ranges import NO_RANGES, ReferenceRanges

VERSION = "2.5.1"
#: hl7_acks to MSH-15 and MSH-16. IHE LAW requires `application`.
ACK_MODES = {"original": ("", ""), "accept": ("AL", "NE"), "application": ("NE", "AL"), "both": ("AL", "AL")}


def header(settings: LisSettings, kind: tuple[str, str, str], control_id: str, sent_at: datetime) -> str:
    """The MSH segment. Sender, receiver and acknowledgement mode come from the settings.

    Raises:
        ValueError: the control id is not 1 to 20 characters (HL7 v2.5.1).
    """
    if not 1 <= len(control_id) <= 20:
        raise ValueError(f"a control id has 1 to 20 characters, not {len(control_id)}")
    accept_ack, application_ack = ACK_MODES[settings.hl7_acks]
    fields = {
        3: text(settings.hl7_application),
        4: text(settings.hl7_facility),
        5: text(settings.hl7_to_application),
        6: text(settings.hl7_to_facility),
        7: text(format_timestamp(sent_at)),
        9: components(*kind),
        10: text(control_id),
        11: text(settings.hl7_processing_id),
        12: text(VERSION),
        15: text(accept_ack),
        16: text(application_ack),
        18: text(settings.hl7_charset),
    }
    return segment("MSH", fields)


#: OBR-25 (table 0123) and OBX-11 (table 0085); a withdrawn result has `hl7_withdrawn`.
STATUS = {ReportStatus.PRELIMINARY: "P", ReportStatus.FINAL: "F", ReportStatus.CORRECTED: "C"}
RESULT_STATUS = {ResultStatus.PRELIMINARY: "P", ResultStatus.FINAL: "F", ResultStatus.CORRECTED: "C"}
#: OBX-17, the method. The number of cells read by a person is a result of its own.
SUGGESTED = ("SUGGESTED", "Suggested by the model, not signed")
SIGNED = ("SIGNED", "Suggested by the model, signed by a person")


def encode_report(
    report: Report,
    code_of: CodeOf,
    settings: LisSettings,
    *,
    control_id: str,
    sent_at: datetime,
    earlier: Sequence[Report] = (),
    ranges: ReferenceRanges = NO_RANGES,
    pdf: bytes | None = None,
) -> str:
    """The report as the message named by `settings.hl7_message`; segments end with a carriage return.

    Args:
        earlier: reports of the specimen that were sent to this receiver, oldest first.
        pdf: the report for people, to be attached.

    Raises:
        ValueError: the control id is not 1 to 20 characters.
    """
    kind = ("OUL", "R22", "OUL_R22") if settings.hl7_message == "OUL_R22" else ("ORU", "R01", "ORU_R01")
    msh, spm = header(settings, kind, control_id, sent_at), _specimen(report, settings)
    pid = patient(report.patient, ordered(report.order, None, "PID-18"))
    orc, obr = _control(report), _request(report, code_of, settings)
    body = [*_remarks(report), *_results(report, earlier, code_of, settings, ranges)]
    body += _pdf(report, earlier, pdf, 1 + sum(each.startswith("OBX|") for each in body), settings)
    if settings.hl7_message == "OUL_R22":
        return message([msh, pid, spm, obr, orc, *body])
    return message([msh, pid, orc, obr, *body, spm])


def patient(person: Patient, account: Encoded = EMPTY) -> str:
    """PID. An unknown name has the type U, because PID-5 is required.

    Args:
        account: PID-18, the patient's account number.
    """
    named = person.family or person.given
    fields = {
        1: text(1),
        3: repetitions(_patient_number(each) for each in person.all_numbers()),
        5: components(person.family, person.given, None, None, None, None, "L" if named else "U"),
        7: EMPTY if person.birth_date is None else text(format_date(person.birth_date)),
        8: text(person.sex),
        18: account,
    }
    return segment("PID", fields)


def _patient_number(number: PatientNumber) -> Encoded:
    """A CX: number, assigning authority (HD), type."""
    parts = (number.namespace, number.universal_id, number.universal_id_type)
    authority = Encoded("&".join(text(part) for part in parts).rstrip("&"))
    fields = (text(number.number), EMPTY, EMPTY, authority, text(number.type))
    return Encoded("^".join(fields).rstrip("^"))


def ordered(order: Order, value: str | None, *fields: str) -> Encoded:
    """The first of these fields that the order had, as it was sent; the value if a person has changed it since."""
    for field in fields:
        sent = (order.as_ordered or {}).get(field, "")
        first = unescape(sent.split("~")[0].split("^")[0].split("&")[0]).strip()
        if sent and (value is None or first == value):
            return Encoded(sent)
    return text(value)


def _placer_number(order: Order) -> Encoded:
    number = order.placer_number
    return EMPTY if number is None else ordered(order, number, "ORC-2", "OBR-2")


def _filler_number(report: Report) -> Encoded:
    """The filler order number, or without one the specimen's number, which another order on its tube does not have."""
    number = report.order.filler_number
    return (
        text(report.filed_under or report.number) if number is None else ordered(report.order, number, "ORC-3", "OBR-3")
    )


def _control(report: Report) -> str:
    status = "IP" if report.status is ReportStatus.PRELIMINARY else "CM"
    order = report.order
    fields = {1: text("RE"), 2: _placer_number(order), 3: _filler_number(report)}
    fields |= {4: ordered(order, None, "ORC-4"), 5: text(status)}
    return segment("ORC", fields)


def _request(report: Report, code_of: CodeOf, settings: LisSettings) -> str:
    order = report.order
    panel = _coded(PANEL, "Differential panel - Bone marrow", code_of, settings)
    asked = components(order.service_code, order.service_name, order.service_system)
    service = ordered(order, order.service_code, "OBR-4") if "OBR-4" in (order.as_ordered or {}) else asked
    fields = {
        1: text(1),
        2: _placer_number(order),
        3: _filler_number(report),
        4: service if order.service_code or order.service_name else panel,
        7: _collected(report),
        8: text(report.collected_until_as),
        16: ordered(order, None, "OBR-16"),
        22: text(format_timestamp(report.created_at)),
        24: text("HM"),
        25: text(STATUS[report.status]),
        32: _interpreter(signer, settings) if (signer := report.signing_person) else EMPTY,
    }
    return segment("OBR", fields)


def _interpreter(person: Person, settings: LisSettings) -> Encoded:
    """An NDL of one name, a CNN: id, family name and, as the last parts, the authority of the id."""
    parts = (text(person.identifier), text(person.name), *[EMPTY] * 6, *_authority(person, settings))
    return Encoded("&".join(parts).rstrip("&"))


def _observer(person: Person, settings: LisSettings) -> Encoded:
    """An XCN: id, family name and, as its ninth component, the authority of the id."""
    authority = Encoded("&".join(_authority(person, settings)).rstrip("&"))
    fields = (text(person.identifier), text(person.name), *[EMPTY] * 6, authority)
    return Encoded("^".join(fields).rstrip("^"))


def _authority(person: Person, settings: LisSettings) -> tuple[Encoded, ...]:
    """The authority of a person's id as an HD: the issuer's host, another system, or this application."""
    if person.identifier is None:
        return ()
    if host := split_or_nothing(person.authority or "").hostname:
        return EMPTY, text(host), text("DNS")
    return (text(person.authority or settings.hl7_application),)


def _collected(report: Report) -> Encoded:
    """The collection time with the precision and offset of the order, else in UTC."""
    if report.collected_as is not None:
        return text(report.collected_as)
    return EMPTY if report.collected_at is None else text(format_timestamp(report.collected_at))


def _specimen(report: Report, settings: LisSettings) -> str:
    system = "HL70487" if settings.hl7_specimen_type == "MAR" else settings.local_system
    fields = {
        1: text(1),
        2: ordered(report.order, None, "SPM-2") or text(report.number),
        4: ordered(report.order, None, "SPM-4")
        or components(settings.hl7_specimen_type, "Bone marrow aspirate", system),
        17: Encoded("^".join(filter(None, (_collected(report), text(report.collected_until_as))))),
    }
    return segment("SPM", fields)


def _remarks(report: Report) -> Iterator[str]:
    unmeasured = [(words, ("RE", "Remark")) for words in not_measured(report)]
    unmeasured += [(words, ("RE", "Remark")) for words in provenance_notes(report)]
    comments = [(report.correction, ("GR", "General Reason")), (report.comment, ("RE", "Remark")), *unmeasured]
    present = [(words, kind) for words, kind in comments if words]
    for number, (words, kind) in enumerate(present, 1):
        yield _note(number, words, components(*kind, "HL70364"))


def _note(number: int, words: str, kind: Encoded = EMPTY) -> str:
    return segment("NTE", {1: text(number), 2: text("L"), 3: text(words), 4: kind})


def _results(
    report: Report, earlier: Sequence[Report], code_of: CodeOf, settings: LisSettings, ranges: ReferenceRanges
) -> Iterator[str]:
    shared = _shared(report, settings)
    for number, result in enumerate(results(report, earlier), 1):
        code = _coded(result.key, result.observation.name, code_of, settings)
        status = RESULT_STATUS.get(result.status, settings.hl7_withdrawn)
        fields = {**shared, **_reference(report, result, ranges), 3: code, 11: text(status)}
        if result.key in BY_PERSON:
            person = person_of_result(report, result.key)
            by = {16: _observer(person, settings)} if person else {}
            fields |= {17: EMPTY, 18: EMPTY, **by}
        yield _result(number, result, report.part, fields)
        for line, words in enumerate(_notes(result.observation), 1):
            yield _note(line, words)


def _shared(report: Report, settings: LisSettings) -> dict[int, Encoded]:
    """The fields that are equal in every OBX of a report."""
    method = SUGGESTED if report.status is ReportStatus.PRELIMINARY else SIGNED
    devices = [components(f"{model.name} {model.version}", None, model.sha256, "L") for model in report.models]
    return {
        14: _collected(report),
        16: _observer(signer, settings) if (signer := report.signing_person) else EMPTY,
        17: components(*method, settings.local_system),
        18: repetitions(devices),
        19: text(format_timestamp(report.created_at)),
        23: text(settings.hl7_performing_laboratory),
        24: text(settings.hl7_performing_address),
    }


def _result(number: int, result: Result, part: int | None, shared: dict[int, Encoded]) -> str:
    observation = result.observation
    fields = {
        **shared,
        1: text(number),
        2: text(_type(observation)),
        4: text(_sub_id(result, part)),
        5: text(observation.value),
        6: components(observation.unit, None, "UCUM") if observation.unit else EMPTY,
    }
    return segment("OBX", fields)


def _pdf(
    report: Report, earlier: Sequence[Report], pdf: bytes | None, number: int, settings: LisSettings
) -> Iterator[str]:
    """The attached PDF as ED, the last OBX; withdrawn if an earlier report had one and this one has none."""
    if pdf is None and not any(each.content and each.content.pdf for each in earlier):
        return
    attached = () if pdf is None else ("", "application", "pdf", "Base64", b64encode(pdf).decode())
    yield segment(
        "OBX",
        {
            1: text(number),
            2: text("ED"),
            3: components("REPORT_PDF", "Report as PDF", settings.local_system),
            4: text(report.part),
            5: components(*attached),
            11: text(settings.hl7_withdrawn if pdf is None else STATUS[report.status]),
            14: _collected(report),
            16: _observer(signer, settings) if (signer := report.signing_person) else EMPTY,
            19: text(format_timestamp(report.created_at)),
        },
    )


def _reference(report: Report, result: Result, ranges: ReferenceRanges) -> dict[int, Encoded]:
    """OBX-7 and OBX-8, if the laboratory has a range for the patient."""
    found = ranges.reference(report, result.observation)
    return {7: text(f"{found.low:g}-{found.high:g}"), 8: text(found.flag)} if found else {}


def _sub_id(result: Result, part: int | None) -> str | None:
    """OBX-4: distinguishes results of one code and one OBR-3, of an order's specimens and of a report's models."""
    model = result.number if result.key == MODEL else None
    return ".".join(str(each) for each in (part, model) if each is not None) or None


def _type(result: Observation) -> str:
    """OBX-2: a result with a unit is a number. ST holds at most 199 characters."""
    if result.unit is not None:
        return "NM"
    return "ST" if len(str(result.value or "")) < 200 else "TX"


def _notes(result: Observation) -> Iterator[str]:
    """The notes of a result, and its interval if no note states it."""
    yield from result.notes
    is_stated = any("interval" in note for note in result.notes)
    if result.low is not None and result.high is not None and not is_stated:
        places, unit = (1, " %") if result.unit == "%" else (2, "")
        yield f"95 % interval {result.low:.{places}f} to {result.high:.{places}f}{unit}"


def _coded(key: str, name: str, code_of: CodeOf, settings: LisSettings) -> Encoded:
    """The local code, by which receivers file a result for good, and the LOINC code that is claimed at the moment."""
    code = code_of(key, name)
    loinc = (code.code, code.display, "LN") if code.system == "loinc" else ()
    return components(key, name, settings.local_system, *loinc)
