"""The configured receivers: message encoding and transport of each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from service.config.lis import LisSettings
from service.lis.domain.report import Report, ReportStatus
from service.lis.domain.signing import Channel, Examples
from service.lis.exchange.astm import records
from service.lis.exchange.astm.transport import AstmTransport
from service.lis.exchange.code_map import CodeMap
from service.lis.exchange.fhir import bundle
from service.lis.exchange.fhir.client_assertion import ClientKey
from service.lis.exchange.fhir.oauth import ClientCredentials
from service.lis.exchange.fhir.transport import FhirTransport, reloaded_client_tls
from service.lis.exchange.hl7 import results
from service.lis.exchange.mllp.sockets import host_and_port
from service.lis.exchange.mllp.transport import MllpTransport
from service.lis.exchange.observations import CodeOf
from service.lis.exchange.printed_report import print_report
from service.lis.exchange.reference_ranges import NO_RANGES, ReferenceRanges
from service.lis.exchange.transport import Transport
from service.lis.ingest import OVERLAY, PICTURE
from service.lis.metrics import ChannelName
from service.lis.picture_store import PictureStore, media_type

#: A delivery has up to four steps with the time-out each: connect, send, two answers; and a margin.
_STEPS, _MARGIN_S = 4, 5.0
#: An ASTM session can be long: the receiver may request each frame again.
_ASTM_SESSION_S = 120.0


@dataclass(frozen=True, slots=True)
class Receiver:
    """One receiver of reports. A delivery is cancelled after `time_limit_s`."""

    channel: Channel
    transport: Transport
    time_limit_s: float


def receivers(
    lis: LisSettings,
    codes: CodeMap,
    picture_store: PictureStore | None,
    ranges: ReferenceRanges = NO_RANGES,
) -> list[Receiver]:
    """All configured receivers.

    Raises:
        OSError: a TLS file cannot be read.
        ValueError: the private key for the token endpoint cannot be used.
    """
    code_of = {verified: codes.code_of(verified) for verified in (False, True)}
    found = []
    if lis.hl7_to:
        found.append(_receiver(lis, "hl7", _hl7(lis, code_of, ranges), MllpTransport(lis), lis.hl7_timeout_s))
    if lis.fhir_url:
        transport = _fhir_transport(lis, lis.fhir_url)
        encode = _fhir(lis, code_of, ranges, picture_store if lis.fhir_pictures else None)
        found.append(_receiver(lis, "fhir", encode, transport, lis.fhir_timeout_s, sends_pictures=lis.fhir_pictures))
    if lis.astm_to:
        astm_transport = AstmTransport(*host_and_port(lis.astm_to), lis.astm_timeout_s)
        found.append(_receiver(lis, "astm", _astm(lis, code_of, ranges), astm_transport, _ASTM_SESSION_S))
    return found


def _fhir_transport(lis: LisSettings, url: str) -> FhirTransport:
    token = lis.fhir_token.get_secret_value() if lis.fhir_token else None
    return FhirTransport(url, token, lis.fhir_timeout_s, credentials=_credentials(lis), tls=reloaded_client_tls(lis))


def _credentials(lis: LisSettings) -> ClientCredentials | None:
    proof = client_key(lis) or (lis.fhir_oauth_client_secret and lis.fhir_oauth_client_secret.get_secret_value())
    if not (lis.fhir_oauth_token_url and lis.fhir_oauth_client_id and proof):
        return None
    return ClientCredentials(lis.fhir_oauth_token_url, lis.fhir_oauth_client_id, proof, lis.fhir_oauth_scope)


def client_key(lis: LisSettings) -> ClientKey | None:
    """The key that signs assertions for the token endpoint, if one is set. Raises ValueError."""
    return ClientKey(lis.fhir_oauth_private_key, lis.fhir_oauth_key_id) if lis.fhir_oauth_private_key else None


Encode = Callable[[Report, Sequence[Report], Examples, str], str]


def _receiver(
    lis: LisSettings,
    name: ChannelName,
    encode: Encode,
    transport: Transport,
    timeout_s: float,
    *,
    sends_pictures: bool = False,
) -> Receiver:
    channel = Channel(name, encode, timedelta(hours=lis.retry_for_h), sends_pictures)
    return Receiver(channel, transport, _STEPS * timeout_s + _MARGIN_S)


def _verified(report: Report) -> bool:
    """Whether "Manual count" codes are true: signed, and every cell read by a person."""
    found = report.differential
    return report.signed_by is not None and found.read_by_person == found.cells


def _hl7(lis: LisSettings, code_of: dict[bool, CodeOf], ranges: ReferenceRanges) -> Encode:
    def encode(report: Report, earlier: Sequence[Report], _: Examples, control_id: str) -> str:
        return results.encode_report(
            report,
            code_of[_verified(report)],
            lis,
            control_id=control_id,
            sent_at=report.created_at,
            earlier=earlier,
            ranges=ranges,
            pdf=_attached(lis, ranges, report, earlier),
        )

    return encode


def _attached(lis: LisSettings, ranges: ReferenceRanges, report: Report, earlier: Sequence[Report]) -> bytes | None:
    """The report as a PDF, if one is attached; what a corrected one changes is told against what the receiver has."""
    if report.content is None or not report.content.pdf:
        return None
    signed = [each for each in earlier if each.status is not ReportStatus.PRELIMINARY]
    replaced = signed[-1] if signed else None
    return print_report(report, lis, language=lis.pdf_language, ranges=ranges, replaced=replaced)


def _fhir(
    lis: LisSettings, code_of: dict[bool, CodeOf], ranges: ReferenceRanges, picture_store: PictureStore | None
) -> Encode:
    form = bundle.FhirForm(lis.local_system_uri, lis.fhir_patient_systems, lis.zone, ranges)

    def encode(report: Report, earlier: Sequence[Report], examples: Examples, _: str) -> str:
        pictures = _pictures(examples, picture_store) if picture_store else []
        pdf = _attached(lis, ranges, report, earlier)
        return bundle.encode_report(report, code_of[_verified(report)], form, pictures, earlier, pdf)

    return encode


def _astm(lis: LisSettings, code_of: dict[bool, CodeOf], ranges: ReferenceRanges) -> Encode:
    names = lis.hl7_application, lis.hl7_to_application
    form = records.AstmForm(*names, lis.hl7_processing_id, lis.hl7_specimen_type, lis.zone, ranges)

    def encode(report: Report, earlier: Sequence[Report], _: Examples, control_id: str) -> str:
        return records.encode_report(report, code_of[_verified(report)], form, control_id, earlier)

    return encode


def _pictures(examples: Examples, picture_store: PictureStore) -> list[bundle.MediaPicture]:
    """The stored pictures and overlays of the example cells."""
    found = []
    for cell in examples:
        for kind, title in ((PICTURE, "cell"), (OVERLAY, "evidence for the suggested class")):
            if data := picture_store.get(cell.sha256, kind):
                name = f"{cell.code}: {title} {cell.place}"
                found.append(bundle.MediaPicture(f"{cell.sha256}.{kind}", data, media_type(data), name))
    return found
