"""A laboratory as the tests of HL7 meet it: reports, orders, codes, and the messages of docs/hl7-messages.md."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from model.contract import CLASSES, CellClass
from service.config.lis import LisSettings
from service.lis.domain.differential import CountingRules, Tally, specimen_differential
from service.lis.domain.person import Person
from service.lis.domain.report import Order, Patient, Report, ReportContent, ReportModel, ReportStatus
from service.lis.exchange.hl7.ack_builder import Outcome, ReplyMetadata, acknowledgements
from service.lis.exchange.hl7.orders import OrderReader, check_header
from service.lis.exchange.hl7.reader import Header, read_header
from service.lis.exchange.hl7.results import encode_report
from service.lis.exchange.observations import PANEL, Coded
from service.lis.exchange.orders import OrderRefused

#: A few classes, so that a message fits on a page; ART is not counted, the model does not know ABE.
FEW = tuple(each for each in CLASSES if each.code in ("ABE", "ART", "BLA", "EBO", "NGS"))
COUNTS = {"ART": 4, "BLA": 6, "EBO": 160, "NGS": 334}
LOINC = {"BLA": "11150-0", "NGS": "11128-6", "ME_RATIO": "11138-5", PANEL: "47286-0"}
COLLECTED = datetime(2026, 5, 4, 6, 30, tzinfo=UTC)
SIGNED = datetime(2026, 5, 4, 9, 15, 2, tzinfo=UTC)
SENT = datetime(2026, 5, 4, 9, 15, 3, tzinfo=UTC)
PATIENT = Patient(
    identifier="100234", authority="HOSPITAL", family="Muster", given="Erika", birth_date=date(1964, 8, 12), sex="F"
)
SIGNER = Person(name="Dr. A. Beispiel", identifier="a.beispiel", authority="https://login.example.org/realms/lab")
COUNTER = Person(name="m.muster", identifier="m.muster", authority="portal")
CONTENT = ReportContent()
#: Patient data that must never appear in a log.
SECRETS = ("100234", "Muster", "Erika", "19640812", "1964-08-12")


def code_of(key: str, name: str) -> Coded:
    """A code map: a few LOINC codes, the rest local."""
    return Coded("loinc", LOINC[key], name) if key in LOINC else Coded("local", key, name)


def report(
    status: ReportStatus = ReportStatus.FINAL,
    *,
    classes: tuple[CellClass, ...] = FEW,
    counts: dict[str, int] | None = None,
    read: int = 0,
    **fields: Any,
) -> Report:
    """A complete report; `fields` replace some without validation."""
    rules = CountingRules(myeloid=("granulocytic",))
    unsupported = [each.code for each in classes if each.code == "ABE"]
    signed = {} if status is ReportStatus.PRELIMINARY else {"signed_by": "Dr. A. Beispiel"}
    amended = {"correction": "Two blasts were read again."} if status is ReportStatus.CORRECTED else {}
    whole = Report(
        id="1f" * 16,
        specimen_id="2e" * 16,
        version=1,
        status=status,
        number="M26-0042",
        patient=PATIENT,
        order=Order(placer_number="P-77", filler_number="F-12"),
        collected_at=COLLECTED,
        differential=specimen_differential(Tally(counts or COUNTS, read, 3), classes, unsupported, rules),
        megakaryocytes=14,
        models=[ReportModel(name="marrowlens-lite", version="1.0", sha256="ab" * 32)],
        created_at=SIGNED,
        comment="No blasts in excess.\nPlease compare with the smear of 2025." if signed else None,
        **signed,
        **amended,
    )
    return whole.model_copy(update=fields)


def report_of_words(words: dict[str, str], model_name: str, **fields: Any) -> Report:
    """A corrected report with these words wherever a person or another system fills a field."""
    patient = PATIENT.model_copy(update={name: words[name] for name in ("identifier", "authority", "family", "given")})
    order = Order.model_construct(
        placer_number=words["placer"],
        filler_number=words["filler"],
        service_code=words["code"],
        service_name=words["name"],
        service_system=words["system"],
    )
    model = ReportModel(name=model_name, version=words["version"], sha256="ab" * 32)
    typed = {name: words[name] for name in ("number", "signed_by", "comment", "correction")}
    return report(ReportStatus.CORRECTED, patient=patient, order=order, models=[model], **typed, **fields)


def order(*segments: str, kind: str = "OML^O33^OML_O33", **msh: str) -> str:
    """A message as a laboratory's system sends it. `msh` replaces fields of MSH: `f12="2.3"`."""
    fields = {3: "LIS", 4: "LAB", 5: "MARROWLENS", 6: "LAB", 7: "20260504083000+0200", 9: kind, 10: "ORD-1", 11: "P"}
    fields |= {12: "2.5.1", 18: "UNICODE UTF-8"} | {int(name[1:]): value for name, value in msh.items()}
    header = "|".join(["MSH|^~\\&", *(fields.get(number, "") for number in range(3, 19))])
    return "".join(f"{segment}\r" for segment in [header, *segments])


PID = "PID|1||100234^^^HOSPITAL^MR||Muster^Erika^^^^^L||19640812|F"
SPM = "SPM|1|M26-0042||MAR^Marrow^HL70487|||||||||||||20260504083000+0200"
ORC = "ORC|NW|P-77|F-12||||||20260504083000+0200"
OBR = "OBR|1|P-77|F-12|BMDIFF^Marrow differential^99LAB"


def answer(message: str | bytes) -> str:
    """The listener's answer to a message, from a laboratory that accepts every valid order."""
    raw = message.encode() if isinstance(message, str) else message
    header = Header()
    try:
        header = read_header(raw)
        check_header(header, "P")
        found = OrderReader(zone=UTC).read(raw, header)
        outcome = Outcome(found.orders, found.warnings)
    except OrderRefused as refused:
        outcome = Outcome(refused=refused)
    return "".join(acknowledgements(header, outcome, [ReplyMetadata(f"ACK-{n}", SENT, "MAR") for n in (1, 2)]))


def golden() -> dict[str, str]:
    """The messages of docs/hl7-messages.md, by the names that its blocks have."""

    def sent(status: ReportStatus, control_id: str, earlier: Sequence[Report] = (), **settings: Any) -> str:
        signer = None if status is ReportStatus.PRELIMINARY else SIGNER
        counted = {} if earlier else {"megakaryocytes_by": COUNTER}
        of = report(status, read=120, version=1 + len(earlier), megakaryocytes=None if earlier else 14, content=CONTENT)
        of = of.model_copy(update={"signer": signer, **counted})
        lis = LisSettings(**settings)
        return encode_report(of, code_of, lis, control_id=control_id, sent_at=SENT, earlier=earlier)

    signed = report(read=120, counts=COUNTS | {"BLA": 4, "NGS": 336}, content=CONTENT)

    taken, refused = order(PID, SPM, ORC, OBR), order(PID.replace("100234", ""), SPM, ORC, OBR)
    return {
        "oru-final": sent(ReportStatus.FINAL, "1"),
        "oru-preliminary": sent(ReportStatus.PRELIMINARY, "2"),
        "oru-corrected": sent(ReportStatus.CORRECTED, "3", [signed]),
        "oul-final": sent(ReportStatus.FINAL, "4", hl7_message="OUL_R22", hl7_acks="application"),
        "oml": taken,
        "orl": answer(taken),
        "oml-refused": refused,
        "orl-refused": answer(refused),
    }
