"""Orders of the laboratory's system become specimens. Knows what each order means for a specimen that is there already;
does not know the message it came in.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.auth.identity import Actor, Identity, InvalidName, checked_name
from service.errors import ServiceError
from service.lis.domain import specimens
from service.lis.domain.specimens import CHANGEABLE, Change, NewSpecimen
from service.lis.exchange.orders import IncomingOrder, MessageIdentity, OrderAction, OrderRefused
from service.lis.storage.states import State
from service.lis.storage.tables import SpecimenRow, TakenMessageRow

#: HL7 table 0357.
BAD_VALUE, UNKNOWN_KEY, DUPLICATE_KEY, LOCKED = "102", "204", "205", "206"


def take(session: Session, message: MessageIdentity, orders: Sequence[IncomingOrder], target_cells: int) -> bool:
    """Take all orders of a message, or none; False when this very message was taken before.

    Raises:
        OrderRefused: an order that does not go with what is here.
    """
    by = _sender(message)
    # Names longer than a column are told apart by the message's hash.
    taken = TakenMessageRow(
        sender=message.sender[:400], control_id=message.control_id[:200], sha256=message.sha256, at=datetime.now(UTC)
    )
    if session.get(TakenMessageRow, (taken.sender, taken.control_id, taken.sha256)) is not None:
        return False
    session.add(taken)
    try:
        session.flush()
    except IntegrityError:  # it came twice at once, and the other one has been taken
        session.rollback()
        return False
    # All at once and in one order: the audit trail, which each order writes to, is locked until the last is taken.
    specimens.lock_all(session, [order.number for order in orders])
    for order in orders:
        _take(session, order, by, target_cells)
    return True


def _sender(message: MessageIdentity) -> Actor:
    """The system that ordered: by its certificate, or by its address where none is asked for.

    Raises:
        OrderRefused: what the message says of its sender cannot stand in the audit trail.
    """
    try:
        claim = checked_name(message.sender, "the sender")
    except InvalidName as error:
        raise OrderRefused(BAD_VALUE, str(error), "MSH^1^3") from None
    peer = message.peer
    known = Identity(kind="message", certificate=peer.certificate, address=peer.address, sender=claim)
    return Actor(f"order from {peer.certificate or peer.address}", known)


def _take(session: Session, order: IncomingOrder, by: Actor, target_cells: int) -> None:
    row = specimens.by_number(session, order.number)
    if row is not None:
        row = specimens.locked(session, row.id, *State)
    try:
        if order.action is OrderAction.NEW:
            _open(session, row, order, by, target_cells)
        elif row is None:
            raise OrderRefused(UNKNOWN_KEY, "no specimen with this number is here", "SPM^1^2")
        elif order.action is OrderAction.CHANGE:
            _change(session, row, order, by)
        else:
            _cancel(session, row, by)
    except ServiceError as error:  # another process was faster: the sender tries again and finds its specimen
        raise OrderRefused(LOCKED, str(error), "SPM^1^2") from error


def _open(session: Session, row: SpecimenRow | None, order: IncomingOrder, by: Actor, target_cells: int) -> None:
    if row is None:
        new = NewSpecimen(order.number, order.patient, order.order, target_cells, order.collected_at)
        specimens.open_specimen(session, new, by)
        return
    before = row.order.get("placer_number")
    if not specimens.same_patient(row, order.patient) or (before and before != order.order.placer_number):
        raise OrderRefused(DUPLICATE_KEY, "another order's specimen has this number", "SPM^1^2")
    if row.state == State.CANCELLED:
        specimens.reopen(session, row, by)
    _change(session, row, order, by)


def _change(session: Session, row: SpecimenRow, order: IncomingOrder, by: Actor) -> None:
    if row.state not in CHANGEABLE:
        raise OrderRefused(LOCKED, f"the specimen is {row.state}", "SPM^1^2")
    if not specimens.same_patient(row, order.patient):
        raise OrderRefused(DUPLICATE_KEY, "the specimen is another patient's", "PID^1^3")
    specimens.change(session, row, Change(order.patient, order.order, order.collected_at), by)


def _cancel(session: Session, row: SpecimenRow, by: Actor) -> None:
    if row.state == State.CANCELLED:
        return
    if row.state != State.OPEN:
        raise OrderRefused(LOCKED, f"the specimen is {row.state}: what was signed is amended, not cancelled", "SPM^1^2")
    specimens.cancel(session, row, by, "cancelled by the system that ordered it")
