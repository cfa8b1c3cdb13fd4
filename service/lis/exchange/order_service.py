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
from service.lis.exchange.order_matching import (
    candidates,
    check_agrees,
    check_filler,
    is_other_order,
    lacks_label,
    match,
    numbers,
)
from service.lis.exchange.orders import (
    BAD_VALUE,
    DUPLICATE_KEY,
    LOCKED,
    UNKNOWN_KEY,
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
    # Lock specimens before the audit trail, which stays locked from the first change to the commit.
    updates = [each for each in content if isinstance(each, PatientUpdate)]
    orders = [each for each in content if isinstance(each, IncomingOrder)]
    patients.update(session, updates, actor)
    specimens.lock_rows(session, [row.row for order in orders for row in candidates(session, order)])
    for order in orders:
        _take(session, order, actor, target_cells, is_replaced=_is_replaced(order, orders))
    return True


def _is_replaced(order: IncomingOrder, message: Sequence[IncomingOrder]) -> bool:
    """Whether a new order (RO) of the message replaces this one (RP): one of its tube, or one on a tube without RP."""
    replaced_on = {each.number for each in message if each.action is OrderAction.REPLACE}
    new_on = {each.number for each in message if each.action is OrderAction.REPLACEMENT}
    return order.number in new_on or bool(new_on - replaced_on)


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


def _locked(session: Session, order: IncomingOrder) -> list[SpecimenRow]:
    """The specimens that an order may be about, as they are now."""
    return [specimens.lock(session, row.id, *State) for row in candidates(session, order)]


def _take(session: Session, order: IncomingOrder, actor: Actor, target_cells: int, *, is_replaced: bool) -> None:
    """Act on one order.

    Args:
        is_replaced: the message has the new order (RO) of a replaced one (RP), which is then cancelled.
    """
    found = _locked(session, order)
    row = match(found, order)
    try:
        if order.action in (OrderAction.NEW, OrderAction.REPLACEMENT):
            _open(session, row, found, order, actor, target_cells)
        elif row is None:
            check_agrees(found, order)
            raise OrderRefused(DUPLICATE_KEY, "patient and order are those of two specimens", order.place())
        elif order.action is OrderAction.CHANGE or (order.action is OrderAction.REPLACE and not is_replaced):
            _change(session, row, order, actor)
        else:
            _cancel(session, row, order, actor)
    except ServiceError as error:  # another process was first: the sender retries
        raise OrderRefused(LOCKED, str(error), order.place()) from error


def _open(
    session: Session,
    row: SpecimenRow | None,
    on_tube: Sequence[SpecimenRow],
    order: IncomingOrder,
    actor: Actor,
    target_cells: int,
) -> None:
    if row is None:
        if order.number is None:
            raise OrderRefused(UNKNOWN_KEY, "no specimen number", order.location("SPM", 2))
        if not all(specimens.same_patient(each, order.patient) and is_other_order(each, order) for each in on_tube):
            raise OrderRefused(DUPLICATE_KEY, "another order has a specimen with this number", order.place())
        check_filler(session, order)
        new = NewSpecimen(order.number, order.patient, order.order, target_cells, order.collected_at, bool(on_tube))
        specimens.open_specimen(session, new, actor)
        return
    service, asked = row.order.get("service_code"), order.order.service_code
    if service and asked and service != asked and not numbers(order.order):
        raise OrderRefused(DUPLICATE_KEY, "another order has a specimen with this number", order.place())
    if row.state == State.CANCELLED:
        specimens.reopen(session, row, actor)
    _change(session, row, order, actor)


def _change(session: Session, row: SpecimenRow, order: IncomingOrder, actor: Actor) -> None:
    if row.state not in CHANGEABLE:
        raise OrderRefused(LOCKED, f"the specimen is {row.state}", order.place())
    check_filler(session, order)
    # OBR-7 is another time than SPM-17, and stands for it only where that was never sent.
    known, sent = Order.model_validate(row.order), order.order.as_ordered or {}
    has_other = "SPM-17" in (known.as_ordered or {})
    replaces = "SPM-17" in sent or not has_other
    asked = order.order if replaces else without_collection_time(order.order)
    clears = bool(order.deleted & ({"collected_at"} if has_other else {"collected_at", "collected_at.OBR-7"}))
    is_labelled_now = order.has_label and lacks_label(row) and not row.reports and row.number != order.number
    new = SpecimenChange(
        merged_patient(Patient.model_validate(row.patient), order.patient, order.deleted),
        _merged_order(known, asked, order.deleted, clears_time=clears),
        order.collected_at if replaces else None,
        cleared=frozenset({"collected_at"} if clears else ()),
        number=order.number if is_labelled_now else None,
    )
    specimens.change(session, row, new, actor)


def _cancel(session: Session, row: SpecimenRow, order: IncomingOrder, actor: Actor) -> None:
    if numbers(Order.model_validate(row.order)) and not numbers(order.order):
        raise OrderRefused(UNKNOWN_KEY, "a cancellation needs the order's number", order.location("ORC", 2))
    if row.state == State.CANCELLED:
        return
    if row.state != State.OPEN:
        reason = f"the specimen is {row.state}; only an open specimen can be cancelled"
        raise OrderRefused(LOCKED, reason, order.place())
    by = "replaced" if order.action is OrderAction.REPLACE else "cancelled"
    specimens.cancel(session, row, actor, f"{by} by the system that ordered it")


def _merged_order(known: Order, new: Order, deleted: Collection[str], *, clears_time: bool) -> Order:
    has_time = any(name in (new.as_ordered or {}) for name in COLLECTION_FIELDS)
    if has_time or clears_time:
        known = without_collection_time(known)
    values = merged_values(known, new, deleted, "order")
    old, sent = known.as_ordered or {}, new.as_ordered or {}
    fields = old | {name: _merged_field(old.get(name, ""), text) for name, text in sent.items()}
    whole = {name: text for name, text in fields.items() if f"as_ordered.{name}" not in deleted}
    kept = {name: left for name, text in whole.items() if (left := _without_parts(name, text, deleted))}
    return Order.model_validate(values | {"as_ordered": kept or None})


def _merged_field(known: str, new: str, delimiters: tuple[str, ...] = ("^", "&")) -> str:
    """A field with the stored parts where the new ones are empty, unless it begins with another value."""
    if not delimiters or "~" in known + new or _beginning(new) not in ("", _beginning(known)):
        return new
    own, *inner = delimiters
    parts = zip_longest(known.split(own), new.split(own), fillvalue="")
    return own.join(_merged_field(one, other, tuple(inner)) if other else one for one, other in parts).rstrip(own)


def _without_parts(name: str, text: str, deleted: Collection[str]) -> str:
    """A field without its deleted components and subcomponents. One with repetitions was replaced as a whole."""
    if "~" in text:
        return text
    components = [component.split("&") for component in text.split("^")]
    for number, parts in enumerate(components, 1):
        if f"as_ordered.{name}.{number}" in deleted:
            parts.clear()
        for at in range(len(parts)):
            if f"as_ordered.{name}.{number}.{at + 1}" in deleted:
                parts[at] = ""
    return "^".join("&".join(parts).rstrip("&") for parts in components).rstrip("^")


def _beginning(field: str) -> str:
    return field.split("^")[0].split("&")[0]
