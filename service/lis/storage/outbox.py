"""The outbox: messages written with their report, claimed by one worker at a time, settled once.

At least once: a message whose worker died is sent again with the same control id. The messages of one specimen are
sent in the order in which they were written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, aliased

from service.auth.identity import Actor, Identity
from service.lis.storage import audit
from service.lis.storage.digests import outcome_digest
from service.lis.storage.states import MessageState
from service.lis.storage.tables import MessageRow, ReportRow, SpecimenRow

#: Stored characters of a receiver's reply.
MAX_REPLY = 1_000_000
#: The actor of deliveries in the audit trail.
_DELIVERY = Actor("delivery", Identity(kind="service"))
#: States in which a message precedes the later ones of its specimen.
_UNSENT = (MessageState.WAITING, MessageState.HELD)


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential backoff: the wait doubles from `first_s` to `most_s`."""

    first_s: float
    most_s: float

    def wait(self, attempts: int) -> timedelta:
        """The wait after so many failed attempts."""
        return timedelta(seconds=min(self.most_s, self.first_s * 2.0 ** min(attempts - 1, 32)))


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message claimed by a worker."""

    row: int
    control_id: str
    message: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Depth:
    """Waiting, held and dead messages of one channel; when the oldest waiting or held one was written."""

    channel: str
    waiting: int
    held: int
    dead: int
    oldest_at: datetime | None


def enqueue(
    session: Session, report: ReportRow, channel: str, control_id: str, message: str, retry_for: timedelta
) -> None:
    """Add a message, in the transaction that writes its report."""
    now = datetime.now(UTC)
    session.add(
        MessageRow(
            control_id=control_id,
            channel=channel,
            report=report.row,
            specimen=report.specimen,
            state=MessageState.WAITING,
            message=message,
            attempts=0,
            created_at=now,
            due_at=now,
            give_up_at=now + retry_for,
        )
    )


def claim(session: Session, channel: str, worker: str, lease: timedelta) -> Claimed | None:
    """Claim the next due message for this worker until the lease ends; None if there is none.

    A message is not due while an earlier one of its specimen waits or is held. On PostgreSQL workers skip each other's
    claims (`FOR UPDATE SKIP LOCKED`); on SQLite one transaction writes at a time.
    """
    now = datetime.now(UTC)
    earlier = aliased(MessageRow)
    waits_for_earlier = (
        select(earlier.row)
        .where(
            earlier.specimen == MessageRow.specimen,
            earlier.channel == channel,
            earlier.row < MessageRow.row,
            earlier.state.in_(_UNSENT),
        )
        .exists()
    )
    due = (
        select(MessageRow)
        .where(
            MessageRow.channel == channel,
            MessageRow.state == MessageState.WAITING,
            MessageRow.due_at <= now,
            or_(MessageRow.leased_until.is_(None), MessageRow.leased_until < now),
            ~waits_for_earlier,
        )
        .order_by(MessageRow.due_at, MessageRow.row)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    found = session.scalars(due).one_or_none()
    if found is None:
        return None
    found.attempts += 1
    found.leased_until, found.leased_by = now + lease, worker
    return Claimed(found.row, found.control_id, found.message, found.attempts)


def mark_delivered(session: Session, row: int, reply: str) -> None:
    """Settle a message that the receiver has accepted."""
    if message := _waiting(session, row):
        _settle(session, message, MessageState.DELIVERED, None, reply)


def mark_rejected(session: Session, row: int, reason: str, reply: str) -> None:
    """Make a rejected message a dead letter; only a person can send it again."""
    if message := _waiting(session, row):
        _settle(session, message, MessageState.DEAD, reason, reply)


def mark_unanswered(session: Session, row: int, worker: str, reason: str, retry: Retry) -> MessageState:
    """Schedule the next attempt of an unacknowledged message; a dead letter after its retry time."""
    message = _waiting(session, row)
    if message is None or message.leased_by != worker:  # the lease has ended; another worker has claimed it
        return MessageState.WAITING
    now = datetime.now(UTC)
    if now >= message.give_up_at:
        _settle(session, message, MessageState.DEAD, f"not delivered in time; last attempt: {reason}", None)
        return MessageState.DEAD
    message.reason, message.leased_until, message.leased_by = reason, None, None
    message.due_at = now + retry.wait(message.attempts)
    return MessageState.WAITING


def release(session: Session, row: int, worker: str) -> None:
    """Release a claim, when its worker ends."""
    message = _waiting(session, row)
    if message is not None and message.leased_by == worker:
        message.leased_until, message.leased_by = None, None


def depths(session: Session) -> list[Depth]:
    """Channels with waiting, held or dead messages."""
    waiting, held, dead = (MessageRow.state == each for each in (*_UNSENT, MessageState.DEAD))
    found = session.execute(
        select(
            MessageRow.channel,
            func.count().filter(waiting),
            func.count().filter(held),
            func.count().filter(dead),
            func.min(MessageRow.created_at).filter(or_(waiting, held)),
        )
        .where(MessageRow.state.in_((*_UNSENT, MessageState.DEAD)))
        .group_by(MessageRow.channel)
    ).all()
    return [Depth(*each) for each in found]


def list_messages(session: Session, states: Sequence[MessageState], limit: int) -> Sequence[MessageRow]:
    """Messages in these states, oldest first."""
    wanted = select(MessageRow).where(MessageRow.state.in_(states)).order_by(MessageRow.row).limit(limit)
    return session.scalars(wanted).all()


def messages_of_report(session: Session, report: ReportRow) -> Sequence[MessageRow]:
    """The messages of one report."""
    return session.scalars(select(MessageRow).where(MessageRow.report == report.row).order_by(MessageRow.row)).all()


#: States that need no person, the more urgent first. A message in any other state comes before them.
_CALM = (MessageState.WAITING, MessageState.DELIVERED, MessageState.DROPPED)


def most_urgent(session: Session, specimens: Sequence[int]) -> dict[int, MessageState]:
    """The most urgent state of the messages of each of these specimens (`row`); absent for those without messages."""
    wanted = select(MessageRow.specimen, MessageRow.state).where(MessageRow.specimen.in_(specimens)).distinct()
    found: dict[int, MessageState] = {}
    for specimen, text in session.execute(wanted):
        state = MessageState(text)
        found[specimen] = min(found.get(specimen, state), state, key=_calmness)
    return found


def _calmness(state: MessageState) -> int:
    return _CALM.index(state) if state in _CALM else -1


def lock_message(session: Session, control_id: str) -> MessageRow | None:
    """The message with this control id, locked; or None."""
    wanted = select(MessageRow).where(MessageRow.control_id == control_id).with_for_update()
    return session.scalars(wanted.execution_options(populate_existing=True)).one_or_none()


class LaterReportSent(Exception):
    """A later report of the specimen was written; an earlier one would replace it."""


class DeliveryInProgress(Exception):
    """A worker is sending the message now."""


def hold_all(session: Session) -> int:
    """Hold all waiting messages until a person decides about each; returns their number.

    After the restore of a backup the receiver may have them, and later reports that the backup does not have.
    """
    waiting = select(MessageRow).where(MessageRow.state == MessageState.WAITING).order_by(MessageRow.row)
    messages = session.scalars(waiting.with_for_update()).all()
    for message in messages:
        message.state, message.leased_until, message.leased_by = MessageState.HELD, None, None
    if messages:
        audit.record(session, _DELIVERY, "hold", None, messages=[message.control_id for message in messages])
    return len(messages)


def requeue(session: Session, message: MessageRow, actor: Actor, retry_for: timedelta) -> None:
    """Queue a dead letter or a held message again: the same bytes with the same control id.

    Raises:
        LaterReportSent: the receiver may have a later report of the specimen. For a dead letter also one that waits: it
            is complete, and written without the dead one.
    """
    is_dead = message.state == MessageState.DEAD
    later = select(MessageRow).where(
        MessageRow.specimen == message.specimen,
        MessageRow.channel == message.channel,
        MessageRow.row > message.row,
    )
    for other in session.scalars(later.order_by(MessageRow.row).with_for_update()):
        refused = other.state == MessageState.DEAD and other.reply is not None
        may_be_there = other.state == MessageState.DELIVERED or (other.attempts and not refused)
        if may_be_there or (is_dead and other.state != MessageState.DROPPED):
            raise LaterReportSent
    now = datetime.now(UTC)
    message.state, message.settled_at, message.attempts = MessageState.WAITING, None, 0
    message.reply = None
    message.due_at, message.give_up_at, message.leased_until = now, now + retry_for, None
    _record(session, message, "retry", actor)


def confirm(session: Session, message: MessageRow, actor: Actor) -> None:
    """Settle a message that the receiver has, as a person found out.

    Raises:
        DeliveryInProgress: a worker is sending it.
    """
    _check_idle(message)
    _settle(session, message, MessageState.DELIVERED, "confirmed by a person", message.reply, "confirm", actor)


def drop(session: Session, message: MessageRow, actor: Actor, why: str) -> None:
    """Drop a waiting, held or dead message.

    Raises:
        DeliveryInProgress: a worker is sending it.
    """
    _check_idle(message)
    _settle(session, message, MessageState.DROPPED, f"dropped: {why}", message.reply, "drop", actor, why=why)


def empty(message: MessageRow) -> bool:
    """Delete the texts of a locked message; drops an undelivered one, and returns True for it.

    Raises:
        DeliveryInProgress: a worker is sending it.
    """
    _check_idle(message)
    is_dropped = message.state in (*_UNSENT, MessageState.DEAD)
    if is_dropped:
        message.state, message.settled_at = MessageState.DROPPED, datetime.now(UTC)
    message.message, message.reply, message.reason = "", None, None
    return is_dropped


def _check_idle(message: MessageRow) -> None:
    if message.leased_until is not None and message.leased_until > datetime.now(UTC):
        raise DeliveryInProgress


def _waiting(session: Session, row: int) -> MessageRow | None:
    wanted = select(MessageRow).where(MessageRow.row == row, MessageRow.state == MessageState.WAITING)
    return session.scalars(wanted.with_for_update()).one_or_none()


def _settle(
    session: Session,
    message: MessageRow,
    state: MessageState,
    reason: str | None,
    reply: str | None,
    action: str = "deliver",
    actor: Actor = _DELIVERY,
    **details: str,
) -> None:
    # PostgreSQL stores no NUL: the transaction would fail, and the message be sent again forever.
    message.reason, message.reply = (text and text[:MAX_REPLY].replace("\0", "\ufffd") for text in (reason, reply))
    message.state, message.settled_at = state, datetime.now(UTC)
    message.leased_until, message.leased_by = None, None
    _record(session, message, action, actor, **details)


def _record(session: Session, message: MessageRow, action: str, actor: Actor, **details: str) -> None:
    """Append the new state of a message to the audit trail of its specimen."""
    specimen = session.get_one(SpecimenRow, message.specimen)
    named = {"message": message.control_id, "channel": message.channel, "state": message.state}
    settled = {"outcome_digest": outcome_digest(specimen, message)} if message.settled_at else {}
    audit.record(session, actor, action, specimen.id, **named, **settled, **details)
