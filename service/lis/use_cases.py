"""The laboratory's desk: each thing that can be done or looked at, as one transaction that answers with a document.

Knows which steps belong together. Does not know HTTP. Everything here blocks; `by` is who does it.
"""

import json
from collections.abc import Sequence
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from model.contract import Manifest
from service.api.schemas import TopClass
from service.auth.identity import Actor
from service.errors import CellTaken
from service.lis.domain import cells, signing, specimens
from service.lis.domain.cells import Reading
from service.lis.domain.differential import CountedCell, CountingRules, SentCell
from service.lis.domain.report import Report, SpecimenDifferential
from service.lis.domain.signing import Channel, Signature
from service.lis.domain.specimens import CHANGEABLE, Change, NewSpecimen
from service.lis.exchange import order_service
from service.lis.exchange.orders import IncomingOrder, MessageIdentity
from service.lis.schemas import (
    AuditEntry,
    AuditTrail,
    Cell,
    CellHistory,
    CellPage,
    ChangeSpecimen,
    MessageSummary,
    OpenSpecimen,
    PastReading,
    ReadAnswer,
    ReadCells,
    ReportSpecimen,
    ReportSummary,
    SignSpecimen,
    Specimen,
    SpecimenPage,
    SpecimenSummary,
    WithReason,
)
from service.lis.storage import audit, outbox
from service.lis.storage.audit import IDENTITY
from service.lis.storage.database import Database
from service.lis.storage.states import State
from service.lis.storage.tables import AuditRow, CellRow, SpecimenRow

#: What a change may empty, by null.
CLEARABLE: tuple[Literal["collected_at", "megakaryocytes"], ...] = ("collected_at", "megakaryocytes")


class Desk:
    """One laboratory's desk, over its database. Every method may raise StorageUnavailable."""

    def __init__(self, database: Database, rules: CountingRules, channels: Sequence[Channel]) -> None:
        self.database = database
        self.rules = rules
        self.channels = channels

    def open(self, wish: OpenSpecimen, by: Actor) -> Specimen:
        """Open a specimen. Raises NumberTaken."""
        target_cells = wish.target_cells or self.rules.target_cells
        new = NewSpecimen(wish.number, wish.patient, wish.order, target_cells, wish.collected_at)
        with self.database.writing() as session:
            return self._specimen(session, specimens.open_specimen(session, new, by))

    def take_orders(self, message: MessageIdentity, orders: Sequence[IncomingOrder]) -> bool:
        """Take a message's orders, all or none; False when it was taken before. Raises OrderRefused."""
        with self.database.writing() as session:
            return order_service.take(session, message, orders, self.rules.target_cells)

    def list(self, state: State | None, number: str | None, before: int | None, limit: int) -> SpecimenPage:
        """A page of specimens, the newest first."""
        with self.database.reading() as session:
            rows = specimens.listed(session, state=state, number=number, before=before, limit=limit + 1)
        page = rows[:limit]
        following = page[-1].row if len(rows) > limit else None
        return SpecimenPage(specimens=[SpecimenSummary(**_summary(row)) for row in page], next=following)

    def look(self, specimen_id: str) -> Specimen:
        """One specimen. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            return self._specimen(session, specimens.found(session, specimen_id))

    def differential(self, specimen_id: str) -> SpecimenDifferential:
        """How the differential stands. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            return self._differential(session, specimens.found(session, specimen_id))

    def change(self, specimen_id: str, wish: ChangeSpecimen, by: Actor) -> Specimen:
        """Change what is known of it. Raises UnknownSpecimen, WrongState, StaleRevision, ReportedAlready."""
        with self.database.writing() as session:
            row = specimens.locked(session, specimen_id, revision=wish.revision, allowed="amend it first")
            cleared = frozenset(name for name in CLEARABLE if name in wish.model_fields_set)
            named = Change(wish.patient, wish.order, wish.collected_at, wish.target_cells, wish.megakaryocytes, cleared)
            specimens.change(session, row, named, by)
            return self._specimen(session, row)

    def cancel(self, specimen_id: str, wish: WithReason, by: Actor) -> Specimen:
        """Give it up. Raises UnknownSpecimen, WrongState, StaleRevision, ReportedAlready."""
        with self.database.writing() as session:
            allowed = "only an open one is cancelled"
            row = specimens.locked(session, specimen_id, State.OPEN, revision=wish.revision, allowed=allowed)
            specimens.cancel(session, row, by, wish.reason)
            return self._specimen(session, row)

    def preliminary(self, specimen_id: str, wish: ReportSpecimen, by: Actor) -> Report:
        """Report it as it stands. Raises UnknownSpecimen, WrongState, StaleRevision, NotReviewed."""
        with self.database.writing() as session:
            allowed = "a preliminary report comes before the first signature"
            row = specimens.locked(session, specimen_id, State.OPEN, revision=wish.revision, allowed=allowed)
            return signing.preliminary(session, row, by, self.rules, self.channels)

    def sign(self, specimen_id: str, wish: SignSpecimen, by: Actor) -> Report:
        """Sign it. Raises UnknownSpecimen, WrongState, StaleRevision, NotReviewed."""
        with self.database.writing() as session:
            allowed = "an open or amended one is signed"
            row = specimens.locked(session, specimen_id, revision=wish.revision, allowed=allowed)
            signature = Signature(by, wish.comment, wish.accept_unread)
            return signing.sign(session, row, signature, self.rules, self.channels)

    def amend(self, specimen_id: str, wish: WithReason, by: Actor) -> Specimen:
        """Open it again after it was signed. Raises UnknownSpecimen, WrongState, StaleRevision."""
        with self.database.writing() as session:
            allowed = "only a signed one is amended"
            row = specimens.locked(session, specimen_id, State.SIGNED, revision=wish.revision, allowed=allowed)
            specimens.amend(session, row, by, wish.reason)
            return self._specimen(session, row)

    def pictures(self, specimen_id: str) -> set[str]:
        """The hashes of the pictures that are there. Raises UnknownSpecimen, WrongState."""
        with self.database.reading() as session:
            row = specimens.found(session, specimen_id)
            specimens.check_state(row, CHANGEABLE)
            return cells.pictures(session, row)

    def add(
        self, specimen_id: str, sent: Sequence[SentCell], manifest: Manifest, by: Actor
    ) -> tuple[int, int, Sequence[Cell | CellTaken], SpecimenDifferential]:
        """Add cells: the specimen's revision, how many are new, what stands for each, and the differential.

        Raises:
            UnknownSpecimen, WrongState, Conflict.
        """
        with self.database.writing() as session:
            row = specimens.locked(session, specimen_id)
            before = row.cells
            if sent:
                cells.know_model(session, manifest)
            rows = cells.add(session, row, sent, manifest, by)
            found = cells.counted(session, row, self.rules)
            stand = [each if isinstance(each, CellTaken) else self._cell(each, found.unsupported) for each in rows]
            differential = signing.differential_of(row, found, self.rules)
            return row.revision, row.cells - before, stand, differential

    def read(self, specimen_id: str, wish: ReadCells, by: Actor) -> ReadAnswer:
        """Write down readings. Raises UnknownSpecimen, WrongState, StaleRevision, InvalidReading."""
        readings = [Reading(each.place, each.version, each.code, each.why) for each in wish.readings]
        with self.database.writing() as session:
            row = specimens.locked(session, specimen_id)
            changed = cells.read(session, row, readings, by)
            _, _, unsupported = cells.counted_under(session, row)
            return ReadAnswer(revision=row.revision, cells=[self._cell(cell, unsupported) for cell in changed])

    def cells(self, specimen_id: str, code: str | None, only: str | None, after: int, limit: int) -> CellPage:
        """A page of cells; `only` is waiting or unread. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            row = specimens.found(session, specimen_id)
            _, _, unsupported = cells.counted_under(session, row)
            wanted = {"waiting": cells.waiting(self.rules, unsupported), "unread": CellRow.read_by.is_(None)}
            rows = cells.listed(
                session, row, code=code, only=wanted[only] if only else None, after=after, limit=limit + 1
            )
        page = [self._cell(cell, unsupported) for cell in rows[:limit]]
        return CellPage(cells=page, next=page[-1].place if len(rows) > limit else None)

    def cell(self, specimen_id: str, place: int) -> CellHistory:
        """One cell and its readings. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            row = specimens.found(session, specimen_id)
            cell = cells.at(session, row, place)
            past = [
                PastReading(by=each.by, at=each.at, from_code=each.from_code, to_code=each.to_code, why=each.why)
                for each in cells.readings_of(session, cell)
            ]
            _, _, unsupported = cells.counted_under(session, row)
            return CellHistory(**dict(self._cell(cell, unsupported)), readings=past)

    def report(self, specimen_id: str, version: int) -> bytes:
        """One version of the report, as JSON, letter for letter as it was written. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            return signing.report_of(session, specimens.found(session, specimen_id), version).document.encode()

    def trail(self, specimen_id: str) -> AuditTrail:
        """What was done to a specimen. Raises UnknownSpecimen."""
        with self.database.reading() as session:
            specimens.found(session, specimen_id)
            wanted = select(AuditRow).where(AuditRow.specimen_id == specimen_id).order_by(AuditRow.number)
            return AuditTrail(entries=[_entry(row) for row in session.scalars(wanted)])

    def record_look(self, specimen_id: str | None, what: str, by: Actor) -> None:
        """Write down that somebody looks at a specimen, or at the list of them. Raises UnknownSpecimen."""
        with self.database.writing() as session:
            if specimen_id is not None:
                specimens.found(session, specimen_id)
            audit.record(session, by, "look", specimen_id, what=what)

    def _differential(self, session: Session, row: SpecimenRow) -> SpecimenDifferential:
        return signing.differential_of(row, cells.counted(session, row, self.rules), self.rules)

    def _specimen(self, session: Session, row: SpecimenRow) -> Specimen:
        versions = [
            ReportSummary(
                version=report.version,
                id=report.id,
                status=report.status,
                created_at=report.created_at,
                messages=[
                    MessageSummary(
                        control_id=each.control_id,
                        channel=each.channel,
                        state=each.state,
                        attempts=each.attempts,
                        reason=each.reason,
                    )
                    for each in outbox.of_report(session, report)
                ],
            )
            for report in signing.reports_of(session, row)
        ]
        return Specimen(
            **_summary(row),
            patient=row.patient,
            order=row.order,
            collected_at=row.collected_at,
            megakaryocytes=row.megakaryocytes,
            correction=row.correction,
            differential=self._differential(session, row),
            versions=versions,
        )

    def _cell(self, row: CellRow, unsupported: Sequence[str]) -> Cell:
        counted = CountedCell(row.code, row.read_by is not None, row.probability)
        return Cell(
            place=row.place,
            key=row.key,
            sha256=row.sha256,
            code=row.code,
            suggested=row.suggested,
            probability=row.probability,
            top=[TopClass(code=code, probability=probability) for code, probability in row.top],
            model=row.model,
            version=row.version,
            waits=self.rules.waits(counted, unsupported),
            read_by=row.read_by,
            read_at=row.read_at,
        )


def _summary(row: SpecimenRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in SpecimenSummary.model_fields}


def _entry(row: AuditRow) -> AuditEntry:
    details = json.loads(row.details)
    return AuditEntry(
        number=row.number,
        at=row.at,
        actor=row.actor,
        identity=details.pop(IDENTITY, None),
        action=row.action,
        details=details,
        hash=row.hash,
    )
