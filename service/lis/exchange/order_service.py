"""Orders from the laboratory's system: open, change, reopen or cancel specimens."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from itertools import zip_longest

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.auth.identity import Actor, Identity, InvalidName, checked_name
from service.errors import ServiceError
from service.lis.domain import specimens
from service.lis.domain.report import COLLECTION_FIELDS, Order, Patient, without_collection_time
from service.lis.domain.specimens import CHANGEABLE, NewSpecimen, SpecimenChange
from service.lis.exchange import patients
from service.lis.exchange.orders import (
    Incoming,
    IncomingOrder,
    MessageIdentity,
    OrderAction,
    OrderRefused,
    PatientUpdate,
)
from service.lis.exchange.patients import merged_patient, merged_values
from service.lis.storage.states import State
from service.lis.storage.tables import SpecimenRow, TakenMessageRow

#: HL7 table 0357.
BAD_VALUE, UNKNOWN_KEY, DUPLICATE_KEY, LOCKED = "102", "204", "205", "206"


def accept_orders(session: Session, message: MessageIdentity, content: Sequence[Incoming], target_cells: int) -> bool:
    """Accept all orders and patient updates of a message, or none. False for a message that was accepted before.

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
    specimens.lock_rows(session, [row.row for each in content for row in _concerned(session, each)])
    for each in content:
        if isinstance(each, PatientUpdate):
            patients.update(session, each, actor)
        else:
            _take(session, each, actor, target_cells)
    return True


def _concerned(session: Session, content: Incoming) -> Sequence[SpecimenRow]:
    if isinstance(content, PatientUpdate):
        return patients.specimens_of(session, content)
    row = _find(session, content)
    return () if row is None else (row,)


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


def _find(session: Session, order: IncomingOrder) -> SpecimenRow | None:
    """The specimen of an order: by its own number, or by the order's numbers. The caller compares the rest.

    Of several with the same order number, that of the same patient.
    """
    if order.number is not None:
        return specimens.find_by_number(session, order.number)
    found = specimens.find_by_order(session, order.order.placer_number, order.order.filler_number)
    alike = [row for row in found if specimens.same_patient(row, order.patient) and _is_same_order(row, order)]
    active = [row for row in alike if row.state != State.CANCELLED]
    if len(active) > 1:
        raise OrderRefused(DUPLICATE_KEY, "several specimens have this order; send the specimen number", "ORC^1^2")
    return next(iter(active or alike or found), None)


def _take(session: Session, order: IncomingOrder, actor: Actor, target_cells: int) -> None:
    row = _find(session, order)
    if row is not None:
        row = specimens.lock(session, row.id, *State)
    try:
        if order.action is OrderAction.NEW:
            _open(session, row, order, actor, target_cells)
        elif row is None:
            raise OrderRefused(UNKNOWN_KEY, "unknown specimen or order number", _place(order))
        elif order.action in (OrderAction.CHANGE, OrderAction.REPLACE):
            _change(session, row, order, actor)
        else:
            _cancel(session, row, order, actor)
    except ServiceError as error:  # another process was first: the sender retries
        raise OrderRefused(LOCKED, str(error), _place(order)) from error


def _place(order: IncomingOrder) -> str:
    return "ORC^1^2" if order.number is None else "SPM^1^2"


def _open(session: Session, row: SpecimenRow | None, order: IncomingOrder, actor: Actor, target_cells: int) -> None:
    if row is None:
        if order.number is None:
            raise OrderRefused(UNKNOWN_KEY, "no specimen number", "SPM^1^2")
        _check_filler(session, order)
        new = NewSpecimen(order.number, order.patient, order.order, target_cells, order.collected_at)
        specimens.open_specimen(session, new, actor)
        return
    service, asked = row.order.get("service_code"), order.order.service_code
    is_other_service = bool(service and asked and service != asked and not _numbers(order.order))
    if is_other_service or not specimens.same_patient(row, order.patient) or not _is_same_order(row, order):
        raise OrderRefused(DUPLICATE_KEY, "another order has a specimen with this number", _place(order))
    if row.state == State.CANCELLED:
        specimens.reopen(session, row, actor)
    _change(session, row, order, actor)


def _change(session: Session, row: SpecimenRow, order: IncomingOrder, actor: Actor) -> None:
    _check_agrees(row, order)
    if row.state not in CHANGEABLE:
        raise OrderRefused(LOCKED, f"the specimen is {row.state}", _place(order))
    # OBR-7 is another time than SPM-17, and stands for it only where that was never sent.
    sent = order.order.as_ordered or {}
    replaces = "SPM-17" in sent or "SPM-17" not in (Order.model_validate(row.order).as_ordered or {})
    asked = order.order if replaces else without_collection_time(order.order)
    new = SpecimenChange(
        merged_patient(Patient.model_validate(row.patient), order.patient, order.deleted),
        _merged_order(Order.model_validate(row.order), asked, order.deleted),
        order.collected_at if replaces else None,
        cleared=frozenset({"collected_at"} if "collected_at" in order.deleted else ()),
    )
    specimens.change(session, row, new, actor)


def _cancel(session: Session, row: SpecimenRow, order: IncomingOrder, actor: Actor) -> None:
    _check_agrees(row, order)
    if _numbers(Order.model_validate(row.order)) and not _numbers(order.order):
        raise OrderRefused(UNKNOWN_KEY, "a cancellation needs the order's number", "ORC^1^2")
    if row.state == State.CANCELLED:
        return
    if row.state != State.OPEN:
        raise OrderRefused(
            LOCKED, f"the specimen is {row.state}; only an open specimen can be cancelled", _place(order)
        )
    specimens.cancel(session, row, actor, "cancelled by the system that ordered it")


def _check_agrees(row: SpecimenRow, order: IncomingOrder) -> None:
    """Check that patient and order are those of the specimen: a number on a tube alone proves nothing.

    Raises:
        OrderRefused: they are not.
    """
    if not specimens.same_patient(row, order.patient):
        raise OrderRefused(DUPLICATE_KEY, "the specimen belongs to another patient", "PID^1^3")
    if not _is_same_order(row, order):
        raise OrderRefused(UNKNOWN_KEY, "the specimen belongs to another order", "ORC^1^2")


def _is_same_order(row: SpecimenRow, order: IncomingOrder) -> bool:
    """Whether placer and filler number are those of the specimen, with namespaces. A missing one is no conflict."""
    known = Order.model_validate(row.order)
    pairs = (
        (known.placer_number, order.order.placer_number, ("ORC-2", "OBR-2")),
        (known.filler_number, order.order.filler_number, ("ORC-3", "OBR-3")),
    )
    compared = [
        own == theirs and _same_authority(known, order.order, fields) for own, theirs, fields in pairs if own and theirs
    ]
    if not compared:  # nothing in common: the same only if one of them has no number at all
        return not (_numbers(known) and _numbers(order.order))
    return all(compared)


def _numbers(order: Order) -> list[str]:
    return [number for number in (order.placer_number, order.filler_number) if number]


def _check_filler(session: Session, order: IncomingOrder) -> None:
    """Check that no other patient has this filler number, by which receivers file reports.

    Raises:
        OrderRefused: another patient has it.
    """
    for row in specimens.find_by_order(session, None, order.order.filler_number):
        if not specimens.same_patient(row, order.patient) and _is_same_order(row, order):
            raise OrderRefused(DUPLICATE_KEY, "another patient has an order with this filler number", "ORC^1^3")


def _same_authority(known: Order, order: Order, fields: tuple[str, str]) -> bool:
    """Whether namespace and universal id of an entity identifier (EI.2, EI.3) agree where both orders have them."""
    one, other = (_authority(each, fields) for each in (known, order))
    return all(not own or not theirs or own == theirs for own, theirs in zip(one, other, strict=True))


def _authority(order: Order, fields: tuple[str, str]) -> tuple[str, str]:
    sent = order.as_ordered or {}
    written = next((sent[name] for name in fields if name in sent), "")
    parts = [*written.split("^"), "", "", ""]
    return parts[1], parts[2]


def _merged_order(known: Order, new: Order, deleted: Collection[str]) -> Order:
    has_time = any(name in (new.as_ordered or {}) for name in COLLECTION_FIELDS)
    if has_time or "collected_at" in deleted:
        known = without_collection_time(known)
    values = merged_values(known, new, deleted, "order")
    old, sent = known.as_ordered or {}, new.as_ordered or {}
    fields = old | {name: _merged_field(old.get(name, ""), text) for name, text in sent.items()}
    kept = {name: text for name, text in fields.items() if f"as_ordered.{name}" not in deleted}
    return Order.model_validate(values | {"as_ordered": kept or None})


def _merged_field(known: str, new: str) -> str:
    """A field with the stored components where the new ones are empty, if both begin with the same."""
    old, sent = known.split("^"), new.split("^")
    if "~" in known + new or old[0] != sent[0]:
        return new
    return "^".join(one or other for one, other in zip_longest(sent, old, fillvalue="")).rstrip("^")
