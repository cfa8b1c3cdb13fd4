"""Which receivers the settings name, and for each: how a report is written for it and by which wire it goes."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from service.config.lis import LisSettings
from service.lis.domain.report import Report
from service.lis.domain.signing import Channel, Examples
from service.lis.exchange.astm import records
from service.lis.exchange.astm.transport import AstmWire
from service.lis.exchange.code_map import CodeMap
from service.lis.exchange.fhir import bundle
from service.lis.exchange.fhir.transport import FhirWire
from service.lis.exchange.hl7 import results
from service.lis.exchange.mllp.sockets import host_and_port
from service.lis.exchange.mllp.transport import MllpWire
from service.lis.exchange.observations import CodeOf
from service.lis.exchange.transport import Wire
from service.lis.ingest import OVERLAY, PICTURE
from service.lis.metrics import ChannelName
from service.lis.picture_store import KeptPictures, media_type

#: A delivery connects, sends and waits twice for an answer, each for the time-out; and a little more.
_STEPS, _MARGIN_S = 4, 5.0
#: A session of ASTM is as long as its receiver makes it: each frame may be asked for again.
_ASTM_SESSION_S = 120.0


@dataclass(frozen=True, slots=True)
class Receiver:
    """One receiver of reports. A delivery that takes longer than `longest_s` is given up."""

    channel: Channel
    wire: Wire
    longest_s: float


def receivers(lis: LisSettings, codes: CodeMap, kept: KeptPictures | None) -> list[Receiver]:
    """All receivers that are set up, none if none is.

    Raises:
        OSError: a file of TLS cannot be read.
    """
    code_of = {verified: codes.code_of(verified) for verified in (False, True)}
    found = []
    if lis.hl7_to:
        found.append(_receiver(lis, "hl7", _hl7(lis, code_of), MllpWire(lis), lis.hl7_timeout_s))
    if lis.fhir_url:
        token = lis.fhir_token.get_secret_value() if lis.fhir_token else None
        wire = FhirWire(lis.fhir_url, token, lis.fhir_timeout_s)
        encode = _fhir(lis, code_of, kept if lis.fhir_pictures else None)
        found.append(_receiver(lis, "fhir", encode, wire, lis.fhir_timeout_s, sends_pictures=lis.fhir_pictures))
    if lis.astm_to:
        astm_wire = AstmWire(*host_and_port(lis.astm_to), lis.astm_timeout_s)
        found.append(_receiver(lis, "astm", _astm(lis, code_of), astm_wire, _ASTM_SESSION_S))
    return found


Encode = Callable[[Report, Examples, str], str]


def _receiver(
    lis: LisSettings, name: ChannelName, encode: Encode, wire: Wire, timeout_s: float, *, sends_pictures: bool = False
) -> Receiver:
    channel = Channel(name, encode, timedelta(hours=lis.retry_for_h), sends_pictures)
    return Receiver(channel, wire, _STEPS * timeout_s + _MARGIN_S)


def _verified(report: Report) -> bool:
    """Whether codes that say "Manual count" are true of it: signed, and a person has read every cell."""
    found = report.differential
    return report.signed_by is not None and found.read_by_person == found.cells


def _hl7(lis: LisSettings, code_of: dict[bool, CodeOf]) -> Encode:
    def encode(report: Report, _: Examples, control_id: str) -> str:
        codes = code_of[_verified(report)]
        return results.encode_report(report, codes, lis, control_id=control_id, sent_at=report.created_at)

    return encode


def _fhir(lis: LisSettings, code_of: dict[bool, CodeOf], kept: KeptPictures | None) -> Encode:
    form = bundle.FhirForm(lis.local_system_uri, lis.fhir_patient_systems)

    def encode(report: Report, examples: Examples, _: str) -> str:
        pictures = _pictures(examples, kept) if kept else []
        return bundle.encode_report(report, code_of[_verified(report)], form, pictures)

    return encode


def _astm(lis: LisSettings, code_of: dict[bool, CodeOf]) -> Encode:
    form = records.AstmForm(lis.hl7_application, lis.hl7_to_application, lis.hl7_processing_id, lis.hl7_specimen_type)

    def encode(report: Report, _: Examples, control_id: str) -> str:
        return records.encode_report(report, code_of[_verified(report)], form, control_id)

    return encode


def _pictures(examples: Examples, kept: KeptPictures) -> list[bundle.Picture]:
    """The picture and the overlay of each example cell that are still there."""
    found = []
    for cell in examples:
        for kind, title in ((PICTURE, "cell"), (OVERLAY, "evidence for the suggested class")):
            if data := kept.get(cell.sha256, kind):
                name = f"{cell.code}: {title} {cell.place}"
                found.append(bundle.Picture(f"{cell.sha256}.{kind}", data, media_type(data), name))
    return found
