"""Which specimen an order is about: by patient and order numbers with their namespaces, never by the tube alone."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from service.lis.domain import specimens
from service.lis.domain.report import Order
from service.lis.exchange.orders import DUPLICATE_KEY, UNKNOWN_KEY, IncomingOrder, OrderRefused
from service.lis.storage.states import State
from service.lis.storage.tables import SpecimenRow


def candidates(session: Session, order: IncomingOrder) -> Sequence[SpecimenRow]:
    """The specimens that an order may be about: those on its tube, or without one those of its numbers.

    A new order is also about the specimen that it has already, if one of the two messages did not name the tube.
    """
    of_order = specimens.find_by_order(session, order.order.placer_number, order.order.filler_number)
    if order.number is None:
        return of_order
    on_tube = specimens.find_by_number(session, order.number)
    own = [
        row
        for row in of_order
        if (not order.has_label or lacks_label(row)) and _is_about(row, order) and row not in on_tube
    ]
    return [*on_tube, *own]


def lacks_label(row: SpecimenRow) -> bool:
    """Whether the specimen was opened under a number of its order, because no message named its tube."""
    known = Order.model_validate(row.order)
    return row.number in numbers(known) and "SPM-2" not in (known.as_ordered or {})


def _is_about(row: SpecimenRow, order: IncomingOrder) -> bool:
    return specimens.same_patient(row, order.patient) and is_same_order(row, order)


def match(found: Sequence[SpecimenRow], order: IncomingOrder) -> SpecimenRow | None:
    """The specimen of the order's patient and numbers; None if there is none.

    Raises:
        OrderRefused: several fit.
    """
    alike = [row for row in found if _is_about(row, order)]
    active = [row for row in alike if row.state != State.CANCELLED]
    if len(active) > 1 or (len(alike) > 1 and not active and not numbers(order.order)):
        is_labelled = order.number is not None and order.has_label
        missing = "order's placer and filler number" if is_labelled else "specimen number"
        raise OrderRefused(DUPLICATE_KEY, f"several specimens fit this order; send the {missing}", order.place())
    return next(iter(active or alike), None)


def check_agrees(found: Sequence[SpecimenRow], order: IncomingOrder) -> None:
    """Check that patient and order are those of one of the specimens.

    Raises:
        OrderRefused: they are not.
    """
    if found and not any(specimens.same_patient(row, order.patient) for row in found):
        raise OrderRefused(DUPLICATE_KEY, "the specimen belongs to another patient", order.location("PID", 3))
    if not any(is_same_order(row, order) for row in found):
        reason = "the specimen belongs to another order" if found else "unknown specimen or order number"
        raise OrderRefused(UNKNOWN_KEY, reason, order.location("ORC", 2) if found else order.place())


def is_same_order(row: SpecimenRow, order: IncomingOrder) -> bool:
    """Whether placer and filler number are those of the specimen, with namespaces. A missing one is no conflict."""
    known = Order.model_validate(row.order)
    compared = _compared(known, order.order)
    if not compared:  # nothing in common: the same only if one of them has no number at all
        return not (numbers(known) and numbers(order.order))
    return all(compared)


def is_other_order(row: SpecimenRow, order: IncomingOrder) -> bool:
    """Whether a number of the order contradicts the specimen's. Without a number in common nobody knows."""
    return not all(_compared(Order.model_validate(row.order), order.order))


def numbers(order: Order) -> list[str]:
    """Placer and filler number, as far as the order has them."""
    return [number for number in (order.placer_number, order.filler_number) if number]


def check_filler(session: Session, order: IncomingOrder) -> None:
    """Check that no other patient has this filler number, by which receivers file reports.

    Raises:
        OrderRefused: another patient has it.
    """
    for row in specimens.find_by_order(session, None, order.order.filler_number):
        known = Order.model_validate(row.order)
        is_alike = _same_authority(known, order.order, _FILLER)
        if is_alike and not specimens.same_patient(row, order.patient):
            reason = "another patient has an order with this filler number"
            raise OrderRefused(DUPLICATE_KEY, reason, order.location("ORC", 3))


_PLACER, _FILLER = ("ORC-2", "OBR-2"), ("ORC-3", "OBR-3")


def _compared(known: Order, order: Order) -> list[bool]:
    """For each kind of number that both orders have, whether it is the same."""
    pairs = (
        (known.placer_number, order.placer_number, _PLACER),
        (known.filler_number, order.filler_number, _FILLER),
    )
    return [own == theirs and _same_authority(known, order, fields) for own, theirs, fields in pairs if own and theirs]


def _same_authority(known: Order, order: Order, fields: tuple[str, str]) -> bool:
    """Whether namespace and universal id of an entity identifier (EI.2, EI.3) agree where both orders have them."""
    one, other = (_authority(each, fields) for each in (known, order))
    return all(not own or not theirs or own == theirs for own, theirs in zip(one, other, strict=True))


def _authority(order: Order, fields: tuple[str, str]) -> tuple[str, str]:
    sent = order.as_ordered or {}
    written = next((sent[name] for name in fields if name in sent), "")
    parts = [*written.split("^"), "", "", ""]
    return parts[1], parts[2]
