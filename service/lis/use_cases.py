"""The laboratory's use cases: each is one transaction that returns a document. All calls block.

Every method may raise StorageUnavailable. `actor` is written to the audit trail.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from model.contract import Manifest
from service.api.schemas import Document, TopClass
from service.auth.identity import Actor
from service.errors import CellTaken, Conflict, UnknownSpecimen
from service.lis.agreement import agreement_of
from service.lis.domain import cells, erasure, read_cells, second_reading, signing, specimens
from service.lis.domain.comment_templates import NO_TEMPLATES, CommentTemplates
from service.lis.domain.comparison import Comparison, compare
from service.lis.domain.differential import ClassifiedCell, CountingRules
from service.lis.domain.presence import list_present
from service.lis.domain.previous_report import last_two, signed_before
from service.lis.domain.report import (
    DEFAULT_CONTENT,
    Order,
    Report,
    ReportContent,
    ReportStatus,
    SpecimenDifferential,
    edited_order,
    without_collection_time,
)
from service.lis.domain.signing import Channel, Signature
from service.lis.domain.specimens import CHANGEABLE, Clearable, NewSpecimen, SpecimenChange
from service.lis.exchange import order_service
from service.lis.exchange.orders import Incoming, MessageIdentity
from service.lis.schemas import (
    Agreement,
    AuditEntry,
    AuditTrail,
    Cell,
    CellHistory,
    CellPage,
    ChangeSpecimen,
    CommentTemplatesOf,
    ConfirmCells,
    FilledTemplate,
    OpenSpecimen,
    Present,
    Preview,
    PreviewedMessage,
    ReadAnswer,
    ReadCells,
    Reason,
    ReportSpecimen,
    ReportSummary,
    SecondReading,
    SignSpecimen,
    Specimen,
    SpecimenPage,
    SpecimenRevision,
    SpecimenSummary,
    WithReason,
    Worklist,
    WorklistEntry,
)
from service.lis.storage import audit, outbox
from service.lis.storage.audit import IDENTITY
from service.lis.storage.database import Database
from service.lis.storage.states import MessageState, State
from service.lis.storage.tables import AuditRow, CellRow, MessageRow, SpecimenRow, Table
from service.lis.training_list import ReadCell

#: Fields that a change may set to null.
CLEARABLE: tuple[Clearable, ...] = get_args(Clearable)
D = TypeVar("D", bound=Document)


class Added(NamedTuple):
    """The outcome of adding cells: the new revision and differential, a cell or an error for each picture.

    `elsewhere` has, by the hash of a picture, the ids of the specimens of other patients that have it too.
    """

    revision: int
    added: int
    outcomes: Sequence[Cell | CellTaken]
    differential: SpecimenDifferential
    elsewhere: Mapping[str, Sequence[str]]


class UseCases:
    """The use cases of one laboratory over its database."""

    def __init__(
        self,
        database: Database,
        rules: CountingRules,
        channels: Sequence[Channel],
        content: ReportContent = DEFAULT_CONTENT,
        *,
        templates: CommentTemplates = NO_TEMPLATES,
        needs_second_reader: bool = False,
    ) -> None:
        self.database, self._needs_second_reader = database, needs_second_reader
        self.rules = rules
        self.channels = channels
        self.content = content
        self.templates = templates

    def open(self, request: OpenSpecimen, actor: Actor) -> Specimen:
        """Open a specimen. Raises NumberTaken."""
        target_cells = request.target_cells or self.rules.target_cells
        order = edited_order(Order(), request.order)
        new = NewSpecimen(request.number, request.patient, order, target_cells, request.collected_at)
        with self.database.writing() as session:
            return self._specimen(session, specimens.open_specimen(session, new, actor))

    def take_orders(self, message: MessageIdentity, orders: Sequence[Incoming]) -> bool:
        """Accept everything in a message, or nothing. False for a message accepted before. Raises OrderRefused."""
        with self.database.writing() as session:
            return order_service.accept_orders(session, message, orders, self.rules.target_cells)

    def list(
        self,
        state: State | None,
        number: str | None,
        before: int | None,
        limit: int,
        patient: str | None = None,
        *,
        merged: bool = False,
    ) -> SpecimenPage:
        """A page of specimens, newest first.

        Args:
            patient: any number of a patient.
            merged: only those to amend because their patient was merged.
        """
        with self.database.reading() as session:
            rows = specimens.list_page(
                session,
                states=[state] if state else (),
                number=number,
                patient=patient,
                merged=merged,
                before=before,
                limit=limit + 1,
            )
        page = rows[:limit]
        following = page[-1].row if len(rows) > limit else None
        return SpecimenPage(specimens=[SpecimenSummary.model_validate(row) for row in page], next=following)

    def worklist(self, states: Sequence[State], number: str | None, before: int | None, limit: int) -> Worklist:
        """A page of specimens with patient, progress and delivery, newest first."""
        with self.database.reading() as session:
            rows = specimens.list_page(
                session, states=states, number=number, patient=None, merged=False, before=before, limit=limit + 1
            )
            page = rows[:limit]
            deliveries = outbox.most_urgent(session, [row.row for row in page])
            entries = [self._entry(session, row, deliveries.get(row.row)) for row in page]
        return Worklist(specimens=entries, next=page[-1].row if len(rows) > limit else None)

    def get(self, specimen_id: str) -> Specimen:
        """One specimen. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            return self._specimen(session, specimens.get(session, specimen_id))

    def revision(self, specimen_id: str) -> SpecimenRevision:
        """The specimen's revision and delivery, and who has it open. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            row = specimens.get(session, specimen_id)
            delivery = outbox.most_urgent(session, [row.row]).get(row.row)
            present = [_document(Present, each, name=each.person) for each in list_present(session, row)]
            return SpecimenRevision(revision=row.revision, delivery=delivery, present=present)

    def differential(self, specimen_id: str) -> SpecimenDifferential:
        """The current differential. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            return self._differential(session, specimens.get(session, specimen_id))

    def comment_templates(self, specimen_id: str) -> CommentTemplatesOf:
        """The laboratory's templates, filled with the specimen's numbers. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            row = specimens.get(session, specimen_id)
            filled = self.templates.filled(self._differential(session, row), row.megakaryocytes)
        return CommentTemplatesOf(templates=[FilledTemplate.model_validate(each) for each in filled])

    def comparison(self, specimen_id: str) -> Comparison:
        """The specimen beside its previous report, or its patient's. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            row = specimens.get(session, specimen_id)
            report, before = last_two(session, row)
            now = report or self._specimen(session, row)
        return compare(before, now, same_specimen=before.specimen_id == specimen_id) if before else Comparison()

    def change(self, specimen_id: str, request: ChangeSpecimen, actor: Actor) -> Specimen:
        """Change a specimen's data. Raises UnknownSpecimen, WrongState, StaleRevision, ReportedAlready."""
        with self.database.writing() as session:
            row = specimens.lock(session, specimen_id, revision=request.revision, allowed="amend it first")
            order = request.order and edited_order(Order.model_validate(row.order), request.order)
            if "collected_at" in request.model_fields_set:
                order = without_collection_time(order or Order.model_validate(row.order))
            change = SpecimenChange(
                patient=request.patient,
                order=order,
                collected_at=request.collected_at,
                target_cells=request.target_cells,
                megakaryocytes=request.megakaryocytes,
                megakaryocyte_assessment=request.megakaryocyte_assessment,
                cellularity=request.cellularity,
                comment=request.comment,
                cleared=frozenset(name for name in CLEARABLE if name in request.model_fields_set),
            )
            specimens.change(session, row, change, actor)
            return self._specimen(session, row)

    def cancel(self, specimen_id: str, request: WithReason, actor: Actor) -> Specimen:
        """Cancel an open specimen. Raises UnknownSpecimen, WrongState, StaleRevision, ReportedAlready."""
        with self.database.writing() as session:
            allowed = "only an open specimen can be cancelled"
            row = specimens.lock(session, specimen_id, State.OPEN, revision=request.revision, allowed=allowed)
            specimens.cancel(session, row, actor, request.reason)
            return self._specimen(session, row)

    def preliminary(self, specimen_id: str, request: ReportSpecimen, actor: Actor) -> Report:
        """Write a preliminary report. Raises UnknownSpecimen, WrongState, StaleRevision, NotReviewed."""
        with self.database.writing() as session:
            allowed = "a preliminary report is possible only before the first signature"
            row = specimens.lock(session, specimen_id, State.OPEN, revision=request.revision, allowed=allowed)
            return signing.preliminary(session, row, actor, self.rules, self.channels, self.content)

    def sign(self, specimen_id: str, request: SignSpecimen, actor: Actor) -> Report:
        """Sign a specimen. Raises UnknownSpecimen, WrongState, StaleRevision, NotReviewed."""
        with self.database.writing() as session:
            allowed = "only an open or amended specimen can be signed"
            row = specimens.lock(session, specimen_id, revision=request.revision, allowed=allowed)
            return self._sign(session, row, request, actor)

    def preview(self, specimen_id: str, request: SignSpecimen, actor: Actor) -> Preview:
        """What `sign` would write and send: the same transaction, rolled back. Raises as `sign`."""
        with self.database.writing() as session:
            row = specimens.lock(session, specimen_id, revision=request.revision, allowed="sign only what is open")
            report = self._sign(session, row, request, actor)
            written = outbox.messages_of_report(session, signing.get_report(session, row, report.version))
            messages = [PreviewedMessage(channel=each.channel, message=each.message) for each in written]
            session.rollback()
        return Preview(report=report, messages=messages)

    def confirm(self, specimen_id: str, request: ConfirmCells, actor: Actor) -> Specimen:
        """Confirm the cells as a second reader. Raises UnknownSpecimen, WrongState, StaleRevision, NotReviewed."""
        with self.database.writing() as session:
            allowed = "cells can be confirmed only while it is open or being amended"
            row = specimens.lock(session, specimen_id, revision=request.revision, allowed=allowed)
            second_reading.confirm(session, row, actor)
            return self._specimen(session, row)

    def amend(self, specimen_id: str, request: WithReason, actor: Actor) -> Specimen:
        """Reopen a signed specimen. Raises UnknownSpecimen, WrongState, StaleRevision."""
        with self.database.writing() as session:
            allowed = "only a signed specimen can be amended"
            row = specimens.lock(session, specimen_id, State.SIGNED, revision=request.revision, allowed=allowed)
            specimens.amend(session, row, actor, request.reason)
            return self._specimen(session, row)

    def erase(self, specimen_id: str, request: WithReason, actor: Actor) -> tuple[Specimen, Sequence[str]]:
        """Erase a patient's data; also returns the pictures to delete. Raises UnknownSpecimen, Conflict."""
        with self.database.writing() as session:
            allowed = "sign or cancel it first; only then can its patient's data be erased"
            row = specimens.lock(session, specimen_id, *erasure.ERASABLE, revision=request.revision, allowed=allowed)
            pictures = erasure.erase(session, row, actor, request.reason)
            erased = self._specimen(session, row)
        self.database.empty_log()  # if it is in use, the next run of retention does it
        return erased, pictures

    def retry_message(self, specimen_id: str, control_id: str, actor: Actor) -> Specimen:
        """Send a dead letter or a held message: the same bytes. Raises UnknownSpecimen, Conflict."""
        with self.database.writing() as session:
            row = specimens.get(session, specimen_id)
            message = _message(session, row, control_id)
            if message.state not in (MessageState.DEAD, MessageState.HELD):
                raise Conflict(f"the message is {message.state}; send only a dead or a held one again")
            retry_for = next((each.retry_for for each in self.channels if each.name == message.channel), None)
            if retry_for is None:
                raise Conflict(f"no receiver is configured for {message.channel}; configure it, or drop the message")
            try:
                outbox.requeue(session, message, actor, retry_for)
            except outbox.LaterReportSent:
                raise Conflict("the specimen has a later report; drop this message") from None
            return self._specimen(session, row)

    def drop_message(self, specimen_id: str, control_id: str, request: Reason, actor: Actor) -> Specimen:
        """Give up on an undelivered message; its report stays. Raises UnknownSpecimen, Conflict."""
        with self.database.writing() as session:
            row = specimens.get(session, specimen_id)
            message = _message(session, row, control_id)
            if message.state in (MessageState.DELIVERED, MessageState.DROPPED):
                raise Conflict(f"the message is {message.state}; only an undelivered one can be dropped")
            try:
                outbox.drop(session, message, actor, request.reason)
            except outbox.DeliveryInProgress:
                raise Conflict("the message is being sent; try again in a minute") from None
            return self._specimen(session, row)

    def picture_hashes(self, specimen_id: str) -> set[str]:
        """SHA-256 of every picture of the specimen. Raises UnknownSpecimen, WrongState."""
        with self.database.reading() as session:
            row = specimens.get(session, specimen_id)
            specimens.check_state(row, CHANGEABLE)
            return cells.picture_hashes(session, row)

    def add(self, specimen_id: str, new: Sequence[ClassifiedCell], manifest: Manifest, actor: Actor) -> Added:
        """Add cells.

        Raises:
            UnknownSpecimen, WrongState, Conflict.
        """
        with self.database.writing() as session:
            row = specimens.lock(session, specimen_id)
            before = row.cells
            if new:
                cells.register_model(session, manifest)
            rows = cells.add(session, row, new, manifest, actor)
            counts = cells.count(session, row, self.rules)
            return Added(
                row.revision,
                row.cells - before,
                [each if isinstance(each, CellTaken) else self._cell(each, counts.unsupported) for each in rows],
                signing.differential_of(row, counts, self.rules),
                cells.also_elsewhere(session, row, [cell.sha256 for cell in new]),
            )

    def remove(self, specimen_id: str, place: int, request: WithReason, actor: Actor) -> Specimen:
        """Remove a cell. Raises UnknownSpecimen, WrongState, StaleRevision."""
        with self.database.writing() as session:
            row = specimens.lock(session, specimen_id, revision=request.revision)
            cells.remove(session, row, place, request.reason, actor)
            return self._specimen(session, row)

    def read(self, specimen_id: str, request: ReadCells, actor: Actor) -> ReadAnswer:
        """Store a person's readings. Raises UnknownSpecimen, WrongState, StaleRevision, InvalidReading."""
        with self.database.writing() as session:
            row = specimens.lock(session, specimen_id)
            changed = cells.read(session, row, request.readings, actor)
            _, _, unsupported = cells.models_and_classes(session, row)
            return ReadAnswer(revision=row.revision, cells=[self._cell(cell, unsupported) for cell in changed])

    def cells(self, specimen_id: str, code: str | None, only: str | None, after: int, limit: int) -> CellPage:
        """A page of cells; `only` is `waiting`, `unread` or None. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            row = specimens.get(session, specimen_id)
            _, _, unsupported = cells.models_and_classes(session, row)
            conditions = {"waiting": cells.needs_review(self.rules, unsupported), "unread": CellRow.read_by.is_(None)}
            condition = conditions[only] if only else None
            rows = cells.list_page(session, row, code=code, only=condition, after=after, limit=limit + 1)
        page = [self._cell(cell, unsupported) for cell in rows[:limit]]
        return CellPage(cells=page, next=page[-1].place if len(rows) > limit else None)

    def cell(self, specimen_id: str, place: int) -> CellHistory:
        """One cell with its readings. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            row = specimens.get(session, specimen_id)
            cell = cells.get(session, row, place)
            _, _, unsupported = cells.models_and_classes(session, row)
            readings = cells.list_readings(session, cell)
            return CellHistory.model_validate({**dict(self._cell(cell, unsupported)), "readings": readings})

    def cell_picture(self, specimen_id: str, place: int) -> str:
        """SHA-256 of a cell's picture. Raises UnknownSpecimen, also if the specimen was erased.

        The picture of an erased specimen's cell may still be stored for a cell of another specimen.
        """
        with self.database.reading() as session:
            row = specimens.get(session, specimen_id)
            cell = cells.get(session, row, place)
            if row.state == State.ERASED:
                raise UnknownSpecimen("picture")
            return cell.sha256

    def report(self, specimen_id: str, version: int) -> bytes:
        """One version of the report: the stored JSON, byte for byte. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            return _report_text(session, specimens.get(session, specimen_id), version).encode()

    def report_and_replaced(self, specimen_id: str, version: int) -> tuple[Report, Report | None]:
        """One version of the report, and of a corrected one the report that it replaces. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            row = specimens.get(session, specimen_id)
            report = Report.model_validate_json(_report_text(session, row, version))
            return report, _replaced(session, row, report)

    def preview_and_replaced(
        self, specimen_id: str, request: SignSpecimen, actor: Actor
    ) -> tuple[Report, Report | None]:
        """The report of `preview`, and of a corrected one the report that it would replace. Raises as `sign`."""
        report = self.preview(specimen_id, request, actor).report
        with self.database.reading() as session:
            return report, _replaced(session, specimens.get(session, specimen_id), report)

    def audit_trail(self, specimen_id: str, after: int = 0, limit: int = 1000) -> AuditTrail:
        """A page of the audit trail of a specimen. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            specimens.get(session, specimen_id)
            wanted = select(AuditRow).where(AuditRow.specimen_id == specimen_id, AuditRow.number > after)
            rows = session.scalars(wanted.order_by(AuditRow.number).limit(limit + 1)).all()
        page = [_audit_entry(row) for row in rows[:limit]]
        return AuditTrail(entries=page, next=page[-1].number if len(rows) > limit else None)

    def record_read(self, specimen_id: str | None, what: str, actor: Actor) -> None:
        """Write an audit row for a read of a specimen, or of the list if None. Raises UnknownSpecimen."""
        with self.database.writing() as session:
            if specimen_id is not None:
                specimens.get(session, specimen_id)
            audit.record(session, actor, "look", specimen_id, what=what)

    def export_readings(self, actor: Actor) -> Sequence[ReadCell]:
        """The cells that people have read, for a training list. The audit trail records it."""
        with self.database.writing() as session:
            return read_cells.export_read_cells(session, actor)

    def agreement(self) -> Agreement:
        """Agreement of the model with the readers."""
        with self.database.reading() as session:
            return agreement_of(read_cells.list_read_cells(session))

    def _differential(self, session: Session, row: SpecimenRow) -> SpecimenDifferential:
        return signing.differential_of(row, cells.count(session, row, self.rules), self.rules)

    def _sign(self, session: Session, row: SpecimenRow, request: SignSpecimen, actor: Actor) -> Report:
        second = second_reading.second_reader(session, row, actor) if self._needs_second_reader else None
        comment = request.comment if "comment" in request.model_fields_set else row.comment
        signature = Signature(actor, comment, request.accept_unread, request.accept_below_target, second)
        return signing.sign(session, row, signature, self.rules, self.channels, self.content)

    def _entry(self, session: Session, row: SpecimenRow, delivery: MessageState | None) -> WorklistEntry:
        found = self._differential(session, row)
        return _document(
            WorklistEntry, row, counted=found.counted, waiting_review=found.waiting_review, delivery=delivery
        )

    def _specimen(self, session: Session, row: SpecimenRow) -> Specimen:
        versions = [
            _document(ReportSummary, report, messages=outbox.messages_of_report(session, report))
            for report in signing.list_reports(session, row)
        ]
        return _document(
            Specimen,
            row,
            differential=self._differential(session, row),
            second_reading=self._second_reading(session, row),
            versions=versions,
        )

    def _second_reading(self, session: Session, row: SpecimenRow) -> SecondReading | None:
        confirmations = second_reading.list_confirmations(session, row)
        if not confirmations:
            return SecondReading(required=True, current=False) if self._needs_second_reader else None
        last = confirmations[0]
        current = second_reading.is_current(session, row, last)
        return SecondReading(required=self._needs_second_reader, by=last.by, at=last.at, current=current)

    def _cell(self, row: CellRow, unsupported: Sequence[str]) -> Cell:
        top = [TopClass(code=code, probability=probability) for code, probability in row.top]
        is_read = row.read_by is not None
        waits = self.rules.needs_review(row.code, row.probability, row.decision, unsupported, is_read=is_read)
        decided = {"reasons": row.reasons, "prediction_set": row.prediction_set} if row.decision else {}
        computed = {"reasons": None, "prediction_set": None} | decided
        return _document(Cell, row, top=top, waits=waits, **computed)


def _report_text(session: Session, specimen: SpecimenRow, version: int) -> str:
    stored = signing.get_report(session, specimen, version)
    if not stored.document:
        raise UnknownSpecimen("report: it was erased")
    return stored.document


def _replaced(session: Session, specimen: SpecimenRow, report: Report) -> Report | None:
    is_corrected = report.status is ReportStatus.CORRECTED
    return signed_before(session, specimen, report.version) if is_corrected else None


def _message(session: Session, specimen: SpecimenRow, control_id: str) -> MessageRow:
    message = outbox.lock_message(session, control_id)
    if message is None or message.specimen != specimen.row:
        raise UnknownSpecimen("message")
    return message


def _document(document: type[D], row: Table, **computed: object) -> D:
    """A document from a row's columns and the fields that no column holds."""
    columns = {name: getattr(row, name) for name in document.model_fields.keys() - computed.keys()}
    return document.model_validate(columns | computed)


def _audit_entry(row: AuditRow) -> AuditEntry:
    details = json.loads(row.details)
    return _document(AuditEntry, row, identity=details.pop(IDENTITY, None), details=details)
