"""A report as a FHIR R4 (4.0.1) transaction Bundle. Pure: no I/O, no clock.

docs/fhir-bundle.md shows one; decision 0010 gives the reasons."""

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from typing import Final
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson

from model.contract import RESEARCH_USE, inert_note
from service.lis.domain.report import Patient, Report, ReportModel, ReportStatus
from service.lis.exchange.fhir.datatypes import (
    GENDERS,
    HL7,
    LOINC,
    Json,
    cleaned,
    coding,
    found_by,
    moment,
    ordered_coding,
    patient_system,
    practitioner,
    reference_range,
    uri_identifier,
    value,
)
from service.lis.exchange.hl7.timestamps import is_date, parse_timestamp, parse_zone
from service.lis.exchange.observations import (
    BY_PERSON,
    PANEL,
    Coded,
    CodeOf,
    Observation,
    ResultStatus,
    observations,
    person_of_result,
    provenance_notes,
    results,
)
from service.lis.exchange.reference_ranges import NO_RANGES, ReferenceRanges

#: A result that was sent before and has no value any more.
WITHDRAWN: Final = "entered-in-error"
_STATUS: Final = {
    ResultStatus.PRELIMINARY: "preliminary",
    ResultStatus.FINAL: "final",
    ResultStatus.CORRECTED: "corrected",
    ResultStatus.WITHDRAWN: WITHDRAWN,
}
PANEL_NAME: Final = "Bone marrow differential"
#: UUID namespace of the models as devices.
_MODELS: Final = uuid5(NAMESPACE_URL, "urn:marrowlens:model")


@dataclass(frozen=True, slots=True)
class FhirForm:
    """Code systems of one laboratory.

    `local_system` is the URI of local codes; `patient_systems` maps the assigning authority in an order ("" for none)
    to the system URI of its patients' numbers.
    """

    local_system: str
    patient_systems: Mapping[str, str] = field(default_factory=dict)
    zone: tzinfo | None = None  # of times without an offset; None: this machine's
    ranges: ReferenceRanges = NO_RANGES


@dataclass(frozen=True, slots=True)
class MediaPicture:
    """A picture to send as Media. `identity` is unique within the specimen, `title` is its caption."""

    identity: str
    content: bytes = field(repr=False)
    content_type: str
    title: str


def encode_report(
    report: Report,
    code_of: CodeOf,
    form: FhirForm,
    pictures: Sequence[MediaPicture] = (),
    earlier: Sequence[Report] = (),
    pdf: bytes | None = None,
) -> str:
    """The Bundle of one report as JSON; deterministic. Arguments as of `report_bundle`."""
    return orjson.dumps(report_bundle(report, code_of, form, pictures, earlier, pdf)).decode()


def report_bundle(
    report: Report,
    code_of: CodeOf,
    form: FhirForm,
    pictures: Sequence[MediaPicture] = (),
    earlier: Sequence[Report] = (),
    pdf: bytes | None = None,
) -> Json:
    """The Bundle of one report: patient, models, specimen, pictures, results, their panel, and the report.

    Every entry has an identifier, so that a repeated Bundle adds nothing. Patient and models are created if unknown
    and never changed; the other resources belong to the specimen and are replaced.

    Args:
        earlier: reports of the specimen that were sent to this receiver, oldest first.
        pdf: the report for people, attached as `presentedForm`.
    """
    entries = _Writer(report, code_of, form, earlier, pdf).entries(pictures)
    return {"resourceType": "Bundle", "type": "transaction", "entry": list(entries)}


def resource_urn(specimen_id: str, name: str) -> str:
    """The URN of one resource of a specimen, the same in every version of its report."""
    return uuid5(UUID(specimen_id), name).urn


def model_urn(model: ReportModel) -> str:
    """The URN of a model as a device, from the sha256 of its graph."""
    return uuid5(_MODELS, model.sha256).urn


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the resources of one report."""

    report: Report
    code_of: CodeOf
    form: FhirForm
    earlier: Sequence[Report]
    pdf: bytes | None

    def entries(self, pictures: Sequence[MediaPicture]) -> Iterator[Json]:
        yield _created(_patient(self.report.patient, self.form), self._urn("patient"))
        for model in self._models():
            yield _created(_device(model), model_urn(model))
        yield _updated(self._specimen())
        media = [self._media(picture) for picture in pictures]
        yield from map(_updated, media)
        observed = list(self._observations())
        yield from map(_updated, observed)
        yield _updated(self._panel([each for each in observed if each["status"] != WITHDRAWN]))
        yield _updated(self._diagnostic_report(media))

    def _urn(self, name: str) -> str:
        return resource_urn(self.report.specimen_id, name)

    def _models(self) -> list[ReportModel]:
        return list({model.sha256: model for model in self.report.models}.values())

    def _subject(self) -> Json:
        return {"subject": {"reference": self._urn("patient")}}

    def _effective(self) -> Json:
        return self._when("effective")

    def _when(self, name: str) -> Json:
        """The collection time as `<name>DateTime`, or `<name>Period` if it has an end; empty if it is unknown."""
        begin, end = self._time(self.report.collected_as), self._time(self.report.collected_until_as)
        if begin is None and self.report.collected_at is not None:
            begin = moment(self.report.collected_at)
        if end is not None:
            return {f"{name}Period": {"start": begin, "end": end}}
        return {} if begin is None else {f"{name}DateTime": begin}

    def _time(self, sent: str | None) -> str | None:
        """A time of the order with its precision and offset; FHIR has no time without an offset."""
        if sent is None:
            return None
        if is_date(sent):
            return parse_timestamp(sent, UTC).date().isoformat()
        offset = parse_zone(sent) or self.form.zone
        return parse_timestamp(sent, offset).astimezone(offset).isoformat()

    def _specimen(self) -> Json:
        collected = self._when("collected")
        return {
            "resourceType": "Specimen",
            "identifier": [uri_identifier(self._urn("specimen"))],
            "accessionIdentifier": {"value": self.report.number},
            "type": {"text": "Bone marrow aspirate"},
            **self._subject(),
            **({"collection": collected} if collected else {}),
        }

    def _media(self, picture: MediaPicture) -> Json:
        content = {"contentType": picture.content_type, "data": b64encode(picture.content).decode()}
        return {
            "resourceType": "Media",
            "identifier": [uri_identifier(self._urn(f"picture/{picture.identity}"))],
            "status": "completed",
            "type": {"coding": [coding(f"{HL7}media-type", "image", "Image")]},
            **self._subject(),
            "content": content | {"title": picture.title},
        }

    def _observations(self) -> Iterator[Json]:
        """Every result, with its value or why it has none; then those that are withdrawn."""
        sent = {(each.key, each.number): each.status for each in results(self.report, self.earlier)}
        seen: Counter[str] = Counter()
        for result in observations(self.report):
            seen[result.key] += 1
            status = sent.pop((result.key, seen[result.key]), None)
            yield self._observation(result, seen[result.key], status)
        names = {each.key: each.name for report in self.earlier for each in observations(report)}
        for (key, number), status in sent.items():
            yield self._observation(Observation(key, names[key], None), number, status)

    def _observation(self, result: Observation, number: int, status: ResultStatus | None) -> Json:
        """One result. Without a status it has no value and never had one."""
        name = result.key if number == 1 else f"{result.key}/{number}"
        document = self._any_observation(self.code_of(result.key, result.name), result.name, name)
        is_preliminary = self.report.status is ReportStatus.PRELIMINARY
        unmeasured = ResultStatus.PRELIMINARY if is_preliminary else ResultStatus.FINAL
        document["status"] = _STATUS[status or unmeasured]
        document |= value(result, unsupported=result.key in self.report.differential.unsupported)
        document |= self._author(result)
        if found := self.form.ranges.reference(self.report, result):
            document |= reference_range(found, result.unit or "1")
        if result.notes:
            document["note"] = [{"text": note} for note in result.notes]
        return document

    def _author(self, result: Observation) -> Json:
        """The person who counted, or who signed; and the model, if it is known which one suggested the classes."""
        report, models = self.report, self._models()
        is_human = result.key in BY_PERSON
        author = person_of_result(report, result.key)
        person = practitioner(author, self.form.local_system) if author else _signer(report, self.form)
        device = {"device": {"reference": model_urn(models[0])}} if len(models) == 1 and not is_human else {}
        return device | ({"performer": [person]} if person else {})

    def _panel(self, results: Sequence[Json]) -> Json:
        document = self._any_observation(self.code_of(PANEL, PANEL_NAME), PANEL_NAME, PANEL)
        notes = [{"text": note} for note in provenance_notes(self.report)]
        members = [_reference(result) for result in results]
        return document | {"hasMember": members, **({"note": notes} if notes else {})}

    def _any_observation(self, coded: Coded, display: str, name: str) -> Json:
        return {
            "resourceType": "Observation",
            "identifier": [uri_identifier(self._urn(name))],
            "status": self.report.status.value,
            "category": [{"coding": [coding(f"{HL7}observation-category", "laboratory", "Laboratory")]}],
            "code": self._concept(coded, display),
            **self._subject(),
            **self._effective(),
            "issued": moment(self.report.created_at),
            "specimen": {"reference": self._urn("specimen")},
        }

    def _concept(self, coded: Coded, display: str) -> Json:
        system = LOINC if coded.system == "loinc" else self.form.local_system
        return {"coding": [coding(system, coded.code, coded.display)], "text": display}

    def _diagnostic_report(self, media: Sequence[Json]) -> Json:
        report = self.report
        return {
            "resourceType": "DiagnosticReport",
            "identifier": [uri_identifier(self._urn("report")), *_filler_number(report)],
            **_based_on(report),
            "status": report.status.value,
            "category": [{"coding": [coding(f"{HL7}v2-0074", "HM", "Hematology")]}],
            "code": self._report_code(),
            **self._subject(),
            **self._effective(),
            "issued": moment(report.created_at),
            **({"resultsInterpreter": [person]} if (person := _signer(report, self.form)) else {}),
            "specimen": [{"reference": self._urn("specimen")}],
            "result": [{"reference": self._urn(PANEL)}],
            **({"media": [_shown(each) for each in media]} if media else {}),
            **_conclusion(report),
            **({"presentedForm": [_presented(self.pdf)]} if self.pdf else {}),
        }

    def _report_code(self) -> Json:
        """The ordered code, and the panel's code."""
        concept, ordered = self._concept(self.code_of(PANEL, PANEL_NAME), PANEL_NAME), ordered_coding(self.report.order)
        if ordered:
            others = [each for each in concept["coding"] if each["code"] != ordered["code"]]
            concept["coding"] = [ordered, *others]
        return concept


def _patient(patient: Patient, form: FhirForm) -> Json:
    identifier: Json = {
        "system": patient_system(patient, form.patient_systems, form.local_system),
        "value": patient.identifier,
        **({"assigner": {"display": patient.authority}} if patient.authority else {}),
    }
    family = {"family": patient.family} if patient.family else {}
    name = family | ({"given": [patient.given]} if patient.given else {})
    return {
        "resourceType": "Patient",
        "identifier": [identifier],
        **({"name": [name]} if name else {}),
        **({"gender": GENDERS[patient.sex]} if patient.sex else {}),
        **({"birthDate": patient.birth_date.isoformat()} if patient.birth_date else {}),
    }


def _device(model: ReportModel) -> Json:
    return {
        "resourceType": "Device",
        "identifier": [uri_identifier(model_urn(model))],
        "status": "active",
        "deviceName": [{"name": model.name, "type": "model-name"}],
        "type": {"text": "Software that suggests classes of bone marrow cells"},
        "version": [
            {"type": {"text": "version"}, "value": model.version},
            {"type": {"text": "sha256 of the ONNX graph"}, "value": model.sha256},
        ],
        "note": [{"text": RESEARCH_USE}, *([{"text": inert_note(model.inert)}] if model.inert else [])],
    }


def _filler_number(report: Report) -> list[Json]:
    number = report.order.filler_number
    return [] if number is None else [{"type": {"coding": [coding(f"{HL7}v2-0203", "FILL")]}, "value": number}]


def _based_on(report: Report) -> Json:
    """The order by its placer number: the id of the receiver's ServiceRequest is unknown."""
    if report.order.placer_number is None:
        return {}
    identifier = {"type": {"coding": [coding(f"{HL7}v2-0203", "PLAC")]}, "value": report.order.placer_number}
    return {"basedOn": [{"type": "ServiceRequest", "identifier": identifier}]}


def _signer(report: Report, form: FhirForm) -> Json | None:
    person = report.signing_person
    return practitioner(person, form.local_system) if person else None


def _conclusion(report: Report) -> Json:
    """The reason of a correction, then the signer's comment."""
    correction = f"Corrected: {report.correction}" if report.correction else None
    lines = "\n".join(each for each in (correction, report.comment) if each)
    return {"conclusion": lines} if lines else {}


def _presented(pdf: bytes) -> Json:
    return {"contentType": "application/pdf", "data": b64encode(pdf).decode(), "title": "Report as PDF"}


def _shown(media: Json) -> Json:
    return {"comment": media["content"]["title"], "link": _reference(media)}


def _reference(resource: Json) -> Json:
    return {"reference": resource["identifier"][0]["value"]}


def _created(resource: Json, urn: str) -> Json:
    """An entry that is created unless the receiver has the identifier."""
    resource = cleaned(resource)
    kind, query = resource["resourceType"], found_by(resource["identifier"][0])
    return {"fullUrl": urn, "resource": resource, "request": {"method": "POST", "url": kind, "ifNoneExist": query}}


def _updated(resource: Json) -> Json:
    """An entry that replaces the resource with this identifier, or is created."""
    resource = cleaned(resource)
    identifier = resource["identifier"][0]
    url = f"{resource['resourceType']}?{found_by(identifier)}"
    return {"fullUrl": identifier["value"], "resource": resource, "request": {"method": "PUT", "url": url}}
