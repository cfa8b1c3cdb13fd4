"""Orders from the laboratory's system: open, change, reopen or cancel specimens."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.auth.identity import Actor, Identity, InvalidName, checked_name
from service.errors import ServiceError
from service.lis.domain import specimens
from service.lis.domain.specimens import CHANGEABLE, NewSpecimen, SpecimenChange
from service.lis.exchange.orders import IncomingOrder, MessageIdentity, OrderAction, OrderRefused
from service.lis.storage.states import State
from service.lis.storage.tables import SpecimenRow, TakenMessageRow

#: HL7 table 0357.
BAD_VALUE, UNKNOWN_KEY, DUPLICATE_KEY, LOCKED = "102", "204", "205", "206"


def accept_orders(
    session: Session, message: MessageIdentity, orders: Sequence[IncomingOrder], target_cells: int
) -> bool:
    """Accept all orders of a message, or none. False for a message that was accepted before.

    Raises:
        OrderRefused: an order conflicts with a specimen, or the sender's name is invalid.
    """
    actor = _sender(message)
    # Names are cut to their columns; the message's hash keeps messages apart.
    message_row = TakenMessageRow(
        sender=message.sender[:400], control_id=message.control_id[:200], sha256=message.sha256, at=datetime.now(UTC)
    )
    if session.get(TakenMessageRow, (message_row.sender, message_row.control_id, message_row.sha256)) is not None:
        return False
    session.add(message_row)
    try:
        session.flush()
    except IntegrityError:  # another connection accepted the same message first
        session.rollback()
        return False
    # Lock specimens before the audit trail, which stays locked from the first order to the commit.
    specimens.lock_by_numbers(session, [order.number for order in orders])
    for order in orders:
        _take(session, order, actor, target_cells)
    return True


def _sender(message: MessageIdentity) -> Actor:
    """The ordering system, by its certificate's subject, or by its address without one.

    Raises:
        OrderRefused: MSH-3 and MSH-4 are not valid in the audit trail.
    """
    try:
        claim = checked_name(message.sender, "the sender")
    except InvalidName as error:
        raise OrderRefused(BAD_VALUE, str(error), "MSH^1^3") from None
    peer = message.peer
    known = Identity(kind="message", certificate=peer.certificate, address=peer.address, sender=claim)
    return Actor(f"order from {peer.certificate or peer.address}", known)


def _take(session: Session, order: IncomingOrder, actor: Actor, target_cells: int) -> None:
    row = specimens.find_by_number(session, order.number)
    if row is not None:
        row = specimens.lock(session, row.id, *State)
    try:
        if order.action is OrderAction.NEW:
            _open(session, row, order, actor, target_cells)
        elif row is None:
            raise OrderRefused(UNKNOWN_KEY, "unknown specimen number", "SPM^1^2")
        elif order.action is OrderAction.CHANGE:
            _change(session, row, order, actor)
        else:
            _cancel(session, row, actor)
    except ServiceError as error:  # another process was first: the sender retries
        raise OrderRefused(LOCKED, str(error), "SPM^1^2") from error


def _open(session: Session, row: SpecimenRow | None, order: IncomingOrder, actor: Actor, target_cells: int) -> None:
    if row is None:
        new = NewSpecimen(order.number, order.patient, order.order, target_cells, order.collected_at)
        specimens.open_specimen(session, new, actor)
        return
    before = row.order.get("placer_number")
    if not specimens.same_patient(row, order.patient) or (before and before != order.order.placer_number):
        raise OrderRefused(DUPLICATE_KEY, "another order has a specimen with this number", "SPM^1^2")
    if row.state == State.CANCELLED:
        specimens.reopen(session, row, actor)
    _change(session, row, order, actor)


def _change(session: Session, row: SpecimenRow, order: IncomingOrder, actor: Actor) -> None:
    if row.state not in CHANGEABLE:
        raise OrderRefused(LOCKED, f"the specimen is {row.state}", "SPM^1^2")
    if not specimens.same_patient(row, order.patient):
        raise OrderRefused(DUPLICATE_KEY, "the specimen belongs to another patient", "PID^1^3")
    specimens.change(session, row, SpecimenChange(order.patient, order.order, order.collected_at), actor)


def _cancel(session: Session, row: SpecimenRow, actor: Actor) -> None:
    if row.state == State.CANCELLED:
        return
    if row.state != State.OPEN:
        raise OrderRefused(LOCKED, f"the specimen is {row.state}; only an open specimen can be cancelled", "SPM^1^2")
    specimens.cancel(session, row, actor, "cancelled by the system that ordered it")
