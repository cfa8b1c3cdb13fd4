"""Data types of FHIR R4 as JSON: identifiers, codings, quantities, instants. Pure: no I/O, no clock."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote

from service.lis.domain.person import Person
from service.lis.domain.report import Order, Patient
from service.lis.exchange.observations import NOT_ASSESSED, Observation
from service.lis.exchange.reference_ranges import Reference

Json = dict[str, Any]
T = TypeVar("T")

LOINC: Final = "http://loinc.org"
UCUM: Final = "http://unitsofmeasure.org"
#: System of identifiers that are URIs.
URI: Final = "urn:ietf:rfc:3986"
HL7: Final = "http://terminology.hl7.org/CodeSystem/"
CONFIDENCE_INTERVAL: Final = "http://hl7.org/fhir/StructureDefinition/quantity-confidenceInterval"
#: Code systems of orders by their name in HL7 v2 (table 0396).
SYSTEMS: Final = {"LN": LOINC, "SCT": "http://snomed.info/sct"}
#: HL7 table 0001 to FHIR's administrative gender.
GENDERS: Final = {"F": "female", "M": "male", "O": "other", "A": "other", "N": "other", "U": "unknown"}
_FLAGS: Final = {"L": "Low", "N": "Normal", "H": "High"}
#: Characters not allowed in FHIR strings (R4, 2.24.0.1) or XML: controls but tab and line ends, surrogates, U+FFFE,
#: U+FFFF.
_UNFIT: Final = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")
_OID: Final = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")


def coding(system: str | None, code: str, display: str | None = None) -> Json:
    """A Coding, without absent parts."""
    found = {"system": system, "code": code, "display": display}
    return {name: value for name, value in found.items() if value}


def text(value: str) -> str:
    """A valid FHIR string: ASCII controls become spaces, other invalid characters U+FFFD."""
    return value if value.isprintable() else _UNFIT.sub(lambda found: " " if found[0] < "\x80" else "\ufffd", value)


def cleaned(found: T) -> T:
    """A resource or part of one, with every string made valid."""
    if isinstance(found, str):
        return cast(T, text(found))
    if isinstance(found, dict):
        return cast(T, {name: cleaned(part) for name, part in found.items()})
    return cast(T, [cleaned(part) for part in found]) if isinstance(found, list) else found


def moment(value: datetime) -> str:
    """An instant in UTC, to the second or better."""
    return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def uri_identifier(urn: str) -> Json:
    """An Identifier that is a URI."""
    return {"system": URI, "value": urn}


def found_by(identifier: Json) -> str:
    """The search by an Identifier, for `ifNoneExist` and conditional updates."""
    escaped = (re.sub(r"([\\|,$])", r"\\\1", part) for part in (identifier["system"], identifier["value"]))
    return "identifier=" + quote("|".join(escaped), safe=":/")


def patient_system(patient: Patient, systems: Mapping[str, str], local_system: str) -> str:
    """The system URI of the patient's number.

    Two assigning authorities never share one, or two patients could be confused: an authority that is neither in
    `systems` nor a URI or OID gets a name below the laboratory's own URI.
    """
    authority = text(patient.authority or "")
    if found := systems.get(authority):
        return found
    own = (each for each in patient.numbers or () if each.number == patient.identifier and each.universal_id)
    universal = next((each.universal_id for each in own if authority in (each.namespace, each.universal_id)), None)
    authority = text(universal or authority)  # two hospitals may have one namespace
    if found := systems.get(authority):
        return found
    if _OID.fullmatch(authority):
        return f"urn:oid:{authority}"
    return authority if _ABSOLUTE.fullmatch(authority) else f"{local_system}#patients-{quote(authority, safe='')}"


def practitioner(person: Person, local_system: str) -> Json:
    """A Reference to a person by the id of the credential: the resource's id at the receiver is unknown."""
    found = {"type": "Practitioner", "display": person.name}
    if person.identifier is None:
        return found
    issuer = text(person.authority or "")
    system = issuer if _ABSOLUTE.fullmatch(issuer) else f"{local_system}#people-{quote(issuer, safe='')}".rstrip("-")
    return {**found, "identifier": {"system": system, "value": person.identifier}}


def ordered_coding(order: Order) -> Json | None:
    """The Coding of the ordered service; None without a code."""
    if order.service_code is None:
        return None
    system = order.service_system or ""
    known = SYSTEMS.get(system) or (system if _ABSOLUTE.fullmatch(system) else None)
    return coding(known, order.service_code, order.service_name)


def value(result: Observation, *, unsupported: bool) -> Json:
    """The value of a result, or the dataAbsentReason: `unsupported` if the model does not support it."""
    if result.value is None:
        # not-applicable: no cell was counted to divide by.
        otherwise = "not-performed" if result.notes[:1] == (NOT_ASSESSED,) else "not-applicable"
        reason = "unsupported" if unsupported else otherwise
        return {"dataAbsentReason": {"coding": [coding(f"{HL7}data-absent-reason", reason)]}}
    if isinstance(result.value, str):
        return {"valueString": result.value}
    return {"valueQuantity": _interval(result) | quantity(result.value, result.unit or "1")}


def quantity(number: float, unit: str) -> Json:
    """A UCUM Quantity; 1 means no unit, the annotation {cells} is displayed as cells."""
    return {"value": number, "unit": unit.strip("{}"), "system": UCUM, "code": unit}


def reference_range(found: Reference, unit: str) -> Json:
    """The reference range of a result, and whether its value is below, within or above it."""
    code = coding(f"{HL7}v3-ObservationInterpretation", found.flag, _FLAGS[found.flag])
    ends = {"low": quantity(found.low, unit), "high": quantity(found.high, unit)}
    return {"interpretation": [{"coding": [code]}], "referenceRange": [ends]}


def _interval(result: Observation) -> Json:
    """The 95 % sampling interval as an HL7 extension.

    It is no referenceRange: receivers flag values outside of that as high or low.
    """
    if result.low is None or result.high is None or result.unit is None:
        return {}
    digits = 1 if result.unit == "%" else 2
    low, high = (quantity(round(bound, digits), result.unit) for bound in (result.low, result.high))
    parts = [{"url": "confidence", "valueDecimal": 95}, {"url": "interval", "valueRange": {"low": low, "high": high}}]
    return {"extension": [{"url": CONFIDENCE_INTERVAL, "extension": parts}]}
