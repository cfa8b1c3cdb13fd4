"""Reports as the laboratory freezes them, counted by the laboratory's own arithmetic from drawn cells."""

from datetime import UTC, date, datetime
from typing import Any

from hypothesis import strategies as st

from model.contract import CLASSES
from service.lis.domain.differential import CountingRules, Tally, specimen_differential
from service.lis.domain.report import Order, Patient, Report, ReportModel, ReportStatus, SpecimenDifferential

UNSUPPORTED = ("ABE", "FGC", "HAC", "LYI")
COUNTS = {"BLA": 12, "PMO": 20, "MYB": 61, "MMZ": 44, "NGB": 70, "NGS": 90, "EOS": 14, "BAS": 1, "MON": 9, "ART": 31}
COUNTS |= {"EBO": 98, "PEB": 7, "LYT": 62, "PLM": 9, "OTH": 4, "HAC": 2, "NIF": 6}
MODEL = ReportModel(name="drawn", version="1.0", sha256="ab" * 32)
PATIENT = Patient(
    identifier="100234", authority="HOSPITAL", family="Muster", given="Erika", birth_date=date(1964, 8, 12), sex="F"
)
ORDER = Order(placer_number="P-77", filler_number="F-12", service_code="BMDIFF", service_name="Marrow differential")


def differential(counts: dict[str, int] | None = None, read: int = 0, waiting: int = 0) -> SpecimenDifferential:
    codes = COUNTS if counts is None else counts
    return specimen_differential(Tally(codes, read, waiting), CLASSES, UNSUPPORTED, CountingRules())


def report(status: ReportStatus = ReportStatus.FINAL, **fields: Any) -> Report:
    """A report with everything in it; `fields` replace some."""
    signed = {"signed_by": "Dr. A. Beispiel", "comment": "Normal marrow.\nNo blasts in excess."}
    whole: dict[str, Any] = {
        "id": "1f" * 16,
        "specimen_id": "2e" * 16,
        "version": 1,
        "status": status,
        "number": "S-2026-0042",
        "patient": PATIENT,
        "order": ORDER,
        "collected_at": datetime(2026, 5, 4, 6, 30, tzinfo=UTC),
        "differential": differential(),
        "megakaryocytes": 14,
        "models": [MODEL],
        "created_at": datetime(2026, 5, 4, 9, 15, 2, tzinfo=UTC),
        **(signed if status is not ReportStatus.PRELIMINARY else {}),
        **({"correction": "Blasts were read again."} if status is ReportStatus.CORRECTED else {}),
    }
    return Report.model_validate(whole | fields)


def reports() -> st.SearchStrategy[Report]:
    """Reports of any shape: any counts, any text a person may type, with and without what may be absent."""
    codes = [each.code for each in CLASSES]
    counts = st.dictionaries(st.sampled_from(codes), st.integers(0, 400))
    line = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(lambda t: t.strip())
    typed = st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n\r")
    words = st.text(typed, min_size=1, max_size=80).filter(lambda t: t.strip())
    maybe = st.none() | line
    patient = st.builds(
        Patient,
        identifier=line,
        authority=maybe,
        family=maybe,
        given=maybe,
        birth_date=st.none() | st.dates(date(1900, 1, 1)),
        sex=st.sampled_from([None, "F", "M", "O", "U", "A", "N"]),
    )
    order = st.builds(
        Order, placer_number=maybe, filler_number=maybe, service_code=maybe, service_name=maybe, service_system=maybe
    )
    models = st.lists(st.integers(0, 3).map(lambda n: MODEL.model_copy(update={"sha256": f"{n:064x}"})), max_size=3)
    moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
    return st.builds(
        report,
        st.sampled_from(ReportStatus),
        patient=patient,
        order=order,
        models=models,
        number=line,
        collected_at=st.none() | moments,
        created_at=moments,
        megakaryocytes=st.none() | st.integers(0, 100),
        comment=st.none() | words,
        differential=counts.map(differential),
    )
