"""A report as a FHIR R4 (4.0.1) transaction: one Bundle, as plain documents. Pure: no I/O, no clock.

Knows resources, their identities, and what is created once or written anew. Does not know results (`observations`),
codes (`codes`) nor how a Bundle reaches a server (`fhir_wire`). docs/fhir-bundle.md shows one, decision 0010 says why.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson

from model.contract import RESEARCH_USE
from service.lis.domain.report import Patient, Report, ReportModel
from service.lis.exchange.fhir.elements import (
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
    uri_identifier,
    value,
)
from service.lis.exchange.observations import PANEL, Coded, CodeOf, Observation, observations

PANEL_NAME: Final = "Bone marrow differential"
#: The devices of all laboratories are named in here.
_MODELS: Final = uuid5(NAMESPACE_URL, "urn:marrowlens:model")


@dataclass(frozen=True, slots=True)
class FhirForm:
    """How one laboratory writes its reports.

    `local_system` is the URI of its own codes; `patient_systems` the URI of who gave a patient's number, by the name
    that stands in the order ("" where none does).
    """

    local_system: str
    patient_systems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Picture:
    """One cell's picture: `identity` is its own within the specimen, `title` what stands below it."""

    identity: str
    content: bytes = field(repr=False)
    content_type: str
    title: str


def encode_report(report: Report, code_of: CodeOf, form: FhirForm, pictures: Sequence[Picture] = ()) -> str:
    """The Bundle of one report as JSON. The same arguments give the same text."""
    return orjson.dumps(report_bundle(report, code_of, form, pictures)).decode()


def report_bundle(report: Report, code_of: CodeOf, form: FhirForm, pictures: Sequence[Picture] = ()) -> Json:
    """The Bundle of one report: patient, models, specimen, pictures, results, their panel, and the report.

    Every entry is found by its identifier, so that a Bundle that comes a second time adds nothing. Patient and models
    are created where they are not known and never changed; the rest is the specimen's own and written anew.
    """
    entries = _Writer(report, code_of, form).entries(pictures)
    return {"resourceType": "Bundle", "type": "transaction", "entry": list(entries)}


def resource_urn(specimen_id: str, name: str) -> str:
    """The URN of one resource of a specimen: the same in every version of its report."""
    return uuid5(UUID(specimen_id), name).urn


def model_urn(model: ReportModel) -> str:
    """The URN of a model as a device: the same everywhere, as the sha256 of its graph is."""
    return uuid5(_MODELS, model.sha256).urn


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the resources of one report, which all point at the same patient, specimen and models."""

    report: Report
    code_of: CodeOf
    form: FhirForm

    def entries(self, pictures: Sequence[Picture]) -> Iterator[Json]:
        yield _created(_patient(self.report.patient, self.form), self._urn("patient"))
        for model in self._models():
            yield _created(_device(model), model_urn(model))
        yield _updated(self._specimen())
        media = [self._media(picture) for picture in pictures]
        yield from map(_updated, media)
        results = list(self._observations())
        yield from map(_updated, results)
        yield _updated(self._panel(results))
        yield _updated(self._diagnostic_report(media))

    def _urn(self, name: str) -> str:
        return resource_urn(self.report.specimen_id, name)

    def _models(self) -> list[ReportModel]:
        return list({model.sha256: model for model in self.report.models}.values())

    def _subject(self) -> Json:
        return {"subject": {"reference": self._urn("patient")}}

    def _effective(self) -> Json:
        collected = self.report.collected_at
        return {} if collected is None else {"effectiveDateTime": moment(collected)}

    def _specimen(self) -> Json:
        collected = self.report.collected_at
        return {
            "resourceType": "Specimen",
            "identifier": [uri_identifier(self._urn("specimen"))],
            "accessionIdentifier": {"value": self.report.number},
            "type": {"text": "Bone marrow aspirate"},
            **self._subject(),
            **({} if collected is None else {"collection": {"collectedDateTime": moment(collected)}}),
        }

    def _media(self, picture: Picture) -> Json:
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
        seen: Counter[str] = Counter()
        for result in observations(self.report):
            seen[result.key] += 1
            name = result.key if seen[result.key] == 1 else f"{result.key}/{seen[result.key]}"
            yield self._observation(result, name)

    def _observation(self, result: Observation, name: str) -> Json:
        document = self._any_observation(self.code_of(result.key, result.name), result.name, name)
        document |= value(result, unsupported=result.key in self.report.differential.unsupported)
        models = self._models()
        if len(models) == 1:  # of several, nobody can say which one suggested what
            document["device"] = {"reference": model_urn(models[0])}
        if result.notes:
            document["note"] = [{"text": note} for note in result.notes]
        return document

    def _panel(self, results: Sequence[Json]) -> Json:
        document = self._any_observation(self.code_of(PANEL, PANEL_NAME), PANEL_NAME, PANEL)
        return document | {"hasMember": [_reference(result) for result in results]}

    def _any_observation(self, coded: Coded, shown: str, name: str) -> Json:
        return {
            "resourceType": "Observation",
            "identifier": [uri_identifier(self._urn(name))],
            "status": self.report.status.value,
            "category": [{"coding": [coding(f"{HL7}observation-category", "laboratory", "Laboratory")]}],
            "code": self._concept(coded, shown),
            **self._subject(),
            **self._effective(),
            "issued": moment(self.report.created_at),
            "specimen": {"reference": self._urn("specimen")},
        }

    def _concept(self, coded: Coded, shown: str) -> Json:
        system = LOINC if coded.system == "loinc" else self.form.local_system
        return {"coding": [coding(system, coded.code, coded.display)], "text": shown}

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
            **_interpreter(report),
            "specimen": [{"reference": self._urn("specimen")}],
            "result": [{"reference": self._urn(PANEL)}],
            **({"media": [_shown(each) for each in media]} if media else {}),
            **_conclusion(report),
        }

    def _report_code(self) -> Json:
        """What was ordered, in the words of who ordered it, and the panel that answers it."""
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
        "note": [{"text": RESEARCH_USE}],
    }


def _filler_number(report: Report) -> list[Json]:
    number = report.order.filler_number
    return [] if number is None else [{"type": {"coding": [coding(f"{HL7}v2-0203", "FILL")]}, "value": number}]


def _based_on(report: Report) -> Json:
    """The order by its number alone: the request itself is the receiver's, under an id that nobody here knows."""
    if report.order.placer_number is None:
        return {}
    identifier = {"type": {"coding": [coding(f"{HL7}v2-0203", "PLAC")]}, "value": report.order.placer_number}
    return {"basedOn": [{"type": "ServiceRequest", "identifier": identifier}]}


def _interpreter(report: Report) -> Json:
    return {"resultsInterpreter": [{"type": "Practitioner", "display": report.signed_by}]} if report.signed_by else {}


def _conclusion(report: Report) -> Json:
    """What the person who signed has to say; why the report was corrected comes first."""
    correction = f"Corrected: {report.correction}" if report.correction else None
    said = "\n".join(each for each in (correction, report.comment) if each)
    return {"conclusion": said} if said else {}


def _shown(media: Json) -> Json:
    return {"comment": media["content"]["title"], "link": _reference(media)}


def _reference(resource: Json) -> Json:
    return {"reference": resource["identifier"][0]["value"]}


def _created(resource: Json, urn: str) -> Json:
    """Created unless the receiver has one with this identifier; then that one stays as it is."""
    resource = cleaned(resource)
    kind, query = resource["resourceType"], found_by(resource["identifier"][0])
    return {"fullUrl": urn, "resource": resource, "request": {"method": "POST", "url": kind, "ifNoneExist": query}}


def _updated(resource: Json) -> Json:
    """Written in place of the one with this identifier, or created."""
    resource = cleaned(resource)
    identifier = resource["identifier"][0]
    url = f"{resource['resourceType']}?{found_by(identifier)}"
    return {"fullUrl": identifier["value"], "resource": resource, "request": {"method": "PUT", "url": url}}
