"""Reports: preliminary, signed, or corrected after an amendment.

The only place that writes a report. Report, messages and audit row are written in one transaction.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import uuid4

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from service.auth.identity import Actor
from service.errors import NotReviewed, UnknownSpecimen
from service.lis.domain import cells, specimens
from service.lis.domain.cells import CellCounts
from service.lis.domain.differential import CountingRules, specimen_differential
from service.lis.domain.person import Person, person_of
from service.lis.domain.report import (
    Order,
    Patient,
    Report,
    ReportContent,
    ReportModel,
    ReportStatus,
    SpecimenDifferential,
)
from service.lis.storage import audit, outbox
from service.lis.storage.digests import digest
from service.lis.storage.states import MessageState, State
from service.lis.storage.tables import CellRow, MessageRow, ReportRow, SpecimenRow


class ExampleCell(NamedTuple):
    """The example cell of one class, for receivers that take pictures."""

    code: str
    place: int
    sha256: str


Examples = Sequence[ExampleCell]


@dataclass(frozen=True, slots=True)
class Channel:
    """One receiver of reports.

    `encode` takes the report, the earlier ones that this receiver was sent, example cells and the control id, and
    returns the message.
    """

    name: str
    encode: Callable[[Report, Sequence[Report], Examples, str], str]
    retry_for: timedelta
    sends_pictures: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """The signer, a comment, what the signer accepts, and the name of the second reader if one is needed.

    `accept_unread`: cells wait for review. `accept_below_target`: fewer cells are counted than the target.
    """

    signer: Actor
    comment: str | None = None
    accept_unread: bool = False
    accept_below_target: bool = False
    second_reader: str | None = None


def differential_of(specimen: SpecimenRow, found: CellCounts, rules: CountingRules) -> SpecimenDifferential:
    """The current differential. Before the first cell it has no classes."""
    own = replace(rules, target_cells=specimen.target_cells)
    if not found.classes:
        own = replace(own, myeloid=(), erythroid=())
    return specimen_differential(found.tally, found.classes, found.unsupported, own)


def preliminary(
    session: Session,
    specimen: SpecimenRow,
    actor: Actor,
    rules: CountingRules,
    channels: Sequence[Channel],
    content: ReportContent,
) -> Report:
    """Write an unsigned report of a locked, open specimen.

    Raises:
        NotReviewed: no cell is counted.
    """
    return _written(session, specimen, ReportStatus.PRELIMINARY, Signature(actor), rules, channels, content)


def sign(
    session: Session,
    specimen: SpecimenRow,
    signature: Signature,
    rules: CountingRules,
    channels: Sequence[Channel],
    content: ReportContent,
) -> Report:
    """Sign a locked specimen that is open or amended.

    Raises:
        NotReviewed: no cell is counted, or cells wait for review, or fewer are counted than the target, and the
            signature does not accept it.
    """
    status = ReportStatus.CORRECTED if specimen.state == State.AMENDING else ReportStatus.FINAL
    return _written(session, specimen, status, signature, rules, channels, content)


def _written(
    session: Session,
    specimen: SpecimenRow,
    status: ReportStatus,
    signature: Signature,
    rules: CountingRules,
    channels: Sequence[Channel],
    content: ReportContent,
) -> Report:
    found = cells.count(session, specimen, rules)
    differential = differential_of(specimen, found, rules)
    signed = status is not ReportStatus.PRELIMINARY
    part = _part(session, specimen)
    _check(differential, signature if signed else None)
    if signed:
        specimen.state, specimen.merged_at = State.SIGNED, None
    specimen.reports += 1
    specimen.revision += 1
    now = datetime.now(UTC)
    report = Report(
        id=uuid4().hex,
        specimen_id=specimen.id,
        version=specimen.reports,
        status=status,
        number=specimen.number,
        filed_under=specimen.key if specimen.key != specimen.number else None,
        part=part,
        patient=Patient.model_validate(specimen.patient),
        order=Order.model_validate(specimen.order),
        collected_at=specimen.collected_at,
        differential=differential,
        megakaryocytes=specimen.megakaryocytes,
        megakaryocytes_by=_counted_by(specimen),
        megakaryocyte_assessment=specimen.megakaryocyte_assessment,
        megakaryocyte_assessment_by=_assessed_by(specimen, "megakaryocyte_assessment"),
        cellularity=specimen.cellularity,
        cellularity_by=_assessed_by(specimen, "cellularity"),
        models=[
            ReportModel(name=each.name, version=each.version, sha256=each.sha256, inert=each.inert or None)
            for each in found.models
        ],
        created_at=now,
        signed_by=signature.signer.name if signed else None,
        signer=person_of(signature.signer) if signed else None,
        signed_below_target=True if signed and differential.to_go else None,
        second_reader=signature.second_reader,
        comment=signature.comment,
        correction=specimen.correction if status is ReportStatus.CORRECTED else None,
        content=content,
    )
    _store(session, specimen, report, signature.signer, channels)
    return report


def _counted_by(specimen: SpecimenRow) -> Person | None:
    has_author = specimen.megakaryocytes is not None and specimen.counted_by is not None
    return Person.model_validate(specimen.counted_by) if has_author else None


def _assessed_by(specimen: SpecimenRow, assessment: str) -> Person | None:
    author = (specimen.assessed_by or {}).get(assessment)
    has_author = getattr(specimen, assessment) is not None and author is not None
    return Person.model_validate(author) if has_author else None


def _part(session: Session, specimen: SpecimenRow) -> int | None:
    """Which specimen of its order this is, by the first reports: they share OBR-3, and receivers must not mix them."""
    if specimen.reports:
        return _last_report(session, specimen).part
    same_order = specimens.find_by_order(session, None, specimen.filler_number)
    if len(same_order) > 1:
        audit.lock(session)  # the first report of another specimen of the order may be under way
    reported = [row for row in specimens.find_by_order(session, None, specimen.filler_number) if row.reports]
    # Not their number: one that was erased since keeps its part at the receivers.
    last = max((_last_report(session, row).part or 1 for row in reported), default=0)
    return last + 1 if last else None


def _last_report(session: Session, specimen: SpecimenRow) -> Report:
    return Report.model_validate_json(get_report(session, specimen, specimen.reports).document)


def _store(session: Session, specimen: SpecimenRow, report: Report, actor: Actor, channels: Sequence[Channel]) -> None:
    document = report.json_bytes().decode()
    row = ReportRow(
        id=report.id,
        specimen=specimen.row,
        version=report.version,
        status=report.status,
        document=document,
        created_at=report.created_at,
    )
    session.add(row)
    session.flush()
    examples = _examples(session, specimen) if any(channel.sends_pictures for channel in channels) else ()
    messages: dict[str, str] = {}
    for channel in channels:
        control_id = secrets.token_hex(10)  # MSH-10 has at most 20 characters
        message = channel.encode(report, _sent(session, specimen, channel.name), examples, control_id)
        outbox.enqueue(session, row, channel.name, control_id, message, channel.retry_for)
        messages[control_id] = digest(message)
    audit.record_change(
        session,
        actor,
        "report" if report.signed_by is None else "sign",
        specimen,
        report=report.id,
        report_sha256=digest(document),
        status=report.status,
        version=report.version,
        models=[model.sha256 for model in report.models],
        messages=messages,
    )


def _sent(session: Session, specimen: SpecimenRow, channel: str) -> list[Report]:
    """Earlier reports that a receiver may have, oldest first.

    Not those that it has refused (dead, with its reply), nor those that were dropped before any attempt.
    """
    wanted = (
        select(ReportRow.document)
        .join(MessageRow, MessageRow.report == ReportRow.row)
        .where(
            MessageRow.specimen == specimen.row,
            MessageRow.channel == channel,
            or_(MessageRow.state != MessageState.DROPPED, MessageRow.attempts > 0),
            ~and_(MessageRow.state.in_((MessageState.DEAD, MessageState.DROPPED)), MessageRow.reply.is_not(None)),
        )
        .order_by(ReportRow.version)
    )
    return [Report.model_validate_json(document) for document in session.scalars(wanted)]


def _check(differential: SpecimenDifferential, signature: Signature | None) -> None:
    """Check that a report can be written; `signature` is None for a preliminary one."""
    if not differential.counted:
        raise NotReviewed("no cell is counted; add cells of countable classes first")
    if signature is None:
        return
    if differential.waiting_review and not signature.accept_unread:
        raise NotReviewed(
            f"{differential.waiting_review} cells wait for review; read them, or sign with accept_unread=true: the "
            "report then states their number"
        )
    if differential.to_go and not signature.accept_below_target:
        raise NotReviewed(
            f"{differential.counted} of {differential.target_cells} cells are counted; add cells, lower target_cells, "
            "or sign with accept_below_target=true: the report then says so"
        )


def _examples(session: Session, specimen: SpecimenRow) -> Examples:
    """One example cell per class: read by a person if there is one, else accepted; with the highest probability."""
    ranked = (
        select(CellRow.code, CellRow.place, CellRow.sha256)
        .where(cells.counted_in(specimen))
        .order_by(
            CellRow.code,
            CellRow.read_by.is_(None),
            func.coalesce(CellRow.decision, "accept") != "accept",
            CellRow.probability.desc(),
            CellRow.place,
        )
    )
    best: dict[str, ExampleCell] = {}
    for row in session.execute(ranked):
        best.setdefault(row.code, ExampleCell(*row))
    return list(best.values())


def get_report(session: Session, specimen: SpecimenRow, version: int) -> ReportRow:
    """One version of a specimen's report.

    Raises:
        UnknownSpecimen: there is no such version.
    """
    wanted = select(ReportRow).where(ReportRow.specimen == specimen.row, ReportRow.version == version)
    row = session.scalars(wanted).one_or_none()
    if row is None:
        raise UnknownSpecimen("report")
    return row


def list_reports(session: Session, specimen: SpecimenRow) -> Sequence[ReportRow]:
    """All versions of a specimen's report, oldest first."""
    return session.scalars(
        select(ReportRow).where(ReportRow.specimen == specimen.row).order_by(ReportRow.version)
    ).all()
