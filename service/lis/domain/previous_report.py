"""The signed report before the present one: of the specimen, or else of another specimen of its patient."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.lis.domain.report import Patient, Report, ReportStatus
from service.lis.domain.specimens import CHANGEABLE
from service.lis.storage.states import State
from service.lis.storage.tables import PatientNumberRow, ReportRow, SpecimenRow

#: Reports that may be of the same patient, newest first: they share a number, perhaps of another authority.
_CANDIDATES = 50


def last_two(session: Session, specimen: SpecimenRow) -> tuple[Report | None, Report | None]:
    """The result of a specimen and the signed report before it.

    The result is None while cells can be read: then it is what the specimen is now. The report before it is None if
    there is none, or it was erased.
    """
    signed = _signed(session, specimen)
    if specimen.state in CHANGEABLE or not signed:
        return None, _document(signed[-1]) if signed else _of_patient(session, specimen, None)
    before = _document(signed[-2]) if len(signed) > 1 else _of_patient(session, specimen, signed[0])
    return _document(signed[-1]), before


def signed_before(session: Session, specimen: SpecimenRow, version: int) -> Report | None:
    """The last signed report of the specimen before a version."""
    earlier = [row for row in _signed(session, specimen) if row.version < version]
    return _document(earlier[-1]) if earlier else None


def _signed(session: Session, specimen: SpecimenRow) -> Sequence[ReportRow]:
    wanted = select(ReportRow).where(
        ReportRow.specimen == specimen.row, ReportRow.status != ReportStatus.PRELIMINARY, ReportRow.document != ""
    )
    return session.scalars(wanted.order_by(ReportRow.version)).all()


def _of_patient(session: Session, specimen: SpecimenRow, first: ReportRow | None) -> Report | None:
    """The last signed report of another specimen of the patient, before this one's first."""
    patient = Patient.model_validate(specimen.patient)
    numbers = [each.number for each in patient.all_numbers()]
    alike = select(PatientNumberRow.specimen).where(PatientNumberRow.number.in_(numbers))
    wanted = (
        select(ReportRow, SpecimenRow.patient)
        .join(SpecimenRow, SpecimenRow.row == ReportRow.specimen)
        .where(
            ReportRow.specimen.in_(alike),
            ReportRow.specimen != specimen.row,
            ReportRow.status != ReportStatus.PRELIMINARY,
            SpecimenRow.state.in_((State.SIGNED, State.AMENDING)),
        )
        .order_by(ReportRow.created_at.desc(), ReportRow.row.desc())
        .limit(_CANDIDATES)
    )
    if first is not None:
        wanted = wanted.where(ReportRow.created_at < first.created_at)
    rows = session.execute(wanted).all()
    same = (row for row, other in rows if Patient.model_validate(other).is_same(patient))
    return next((_document(row) for row in same), None)


def _document(row: ReportRow) -> Report:
    return Report.model_validate_json(row.document)
