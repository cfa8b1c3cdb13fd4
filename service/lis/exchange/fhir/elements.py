"""The data types of FHIR R4 that a report is written with: codes, identifiers, quantities, times. Pure, no I/O.

Knows how one element is written. Does not know resources nor how they hang together (`fhir`).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote

from service.lis.domain.report import Order, Patient
from service.lis.exchange.observations import Observation

Json = dict[str, Any]
T = TypeVar("T")

LOINC: Final = "http://loinc.org"
UCUM: Final = "http://unitsofmeasure.org"
#: The system of identifiers that are URIs themselves.
URI: Final = "urn:ietf:rfc:3986"
HL7: Final = "http://terminology.hl7.org/CodeSystem/"
CONFIDENCE_INTERVAL: Final = "http://hl7.org/fhir/StructureDefinition/quantity-confidenceInterval"
#: Code systems by their name in HL7 v2 (table 0396), for what was ordered.
SYSTEMS: Final = {"LN": LOINC, "SCT": "http://snomed.info/sct"}
#: HL7 table 0001 in FHIR's words.
GENDERS: Final = {"F": "female", "M": "male", "O": "other", "A": "other", "N": "other", "U": "unknown"}
#: What no string of FHIR holds (R4, 2.24.0.1), or no document of XML, in which servers answer too: controls but tab and
#: the ends of lines, halves of a surrogate pair, U+FFFE and U+FFFF.
_UNFIT: Final = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")
_OID: Final = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")


def coding(system: str | None, code: str, display: str | None = None) -> Json:
    """A Coding; what is not known is left out."""
    found = {"system": system, "code": code, "display": display}
    return {name: value for name, value in found.items() if value}


def text(value: str) -> str:
    """A string as FHIR takes it: a control character of ASCII is a space, what else cannot be sent is U+FFFD."""
    return value if value.isprintable() else _UNFIT.sub(lambda found: " " if found[0] < "\x80" else "\ufffd", value)


def cleaned(found: T) -> T:
    """A resource, or a part of one, with every string in it as FHIR takes it."""
    if isinstance(found, str):
        return cast(T, text(found))
    if isinstance(found, dict):
        return cast(T, {name: cleaned(part) for name, part in found.items()})
    return cast(T, [cleaned(part) for part in found]) if isinstance(found, list) else found


def moment(value: datetime) -> str:
    """An instant, in UTC and with its seconds."""
    return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def uri_identifier(urn: str) -> Json:
    """An Identifier that is a URI."""
    return {"system": URI, "value": urn}


def found_by(identifier: Json) -> str:
    """The search that finds a resource by this Identifier: `ifNoneExist`, and behind the ? of a conditional update."""
    escaped = (re.sub(r"([\\|,$])", r"\\\1", part) for part in (identifier["system"], identifier["value"]))
    return "identifier=" + quote("|".join(escaped), safe=":/")


def patient_system(patient: Patient, systems: Mapping[str, str], local_system: str) -> str:
    """The URI of who gave the patient's number.

    Numbers of two givers never share one, or one patient would be taken for another: who is neither in `systems` nor a
    URI or OID gets a name below the laboratory's own URI.
    """
    authority = text(patient.authority or "")
    if found := systems.get(authority):
        return found
    if _OID.fullmatch(authority):
        return f"urn:oid:{authority}"
    return authority if _ABSOLUTE.fullmatch(authority) else f"{local_system}#patients-{quote(authority, safe='')}"


def ordered_coding(order: Order) -> Json | None:
    """What was ordered, in the words of who ordered it."""
    if order.service_code is None:
        return None
    system = order.service_system or ""
    known = SYSTEMS.get(system) or (system if _ABSOLUTE.fullmatch(system) else None)
    return coding(known, order.service_code, order.service_name)


def value(result: Observation, *, unsupported: bool) -> Json:
    """The value of a result, or why there is none: `unsupported` says that the model cannot tell."""
    if result.value is None:
        # Otherwise nothing was counted to divide by.
        reason = "unsupported" if unsupported else "not-applicable"
        return {"dataAbsentReason": {"coding": [coding(f"{HL7}data-absent-reason", reason)]}}
    if isinstance(result.value, str):
        return {"valueString": result.value}
    return {"valueQuantity": _interval(result) | quantity(result.value, result.unit or "1")}


def quantity(number: float, unit: str) -> Json:
    """A Quantity in UCUM, where 1 is no unit; the annotation {cells} is shown as cells."""
    return {"value": number, "unit": unit.strip("{}"), "system": UCUM, "code": unit}


def _interval(result: Observation) -> Json:
    """The 95 % interval of sampling, in HL7's extension for it.

    Not a referenceRange: that is what is normal, and a receiver flags a value outside of it as high or low.
    """
    if result.low is None or result.high is None or result.unit is None:
        return {}
    digits = 1 if result.unit == "%" else 2
    low, high = (quantity(round(bound, digits), result.unit) for bound in (result.low, result.high))
    parts = [{"url": "confidence", "valueDecimal": 95}, {"url": "interval", "valueRange": {"low": low, "high": high}}]
    return {"extension": [{"url": CONFIDENCE_INTERVAL, "extension": parts}]}
