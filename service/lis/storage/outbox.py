"""The outbox: messages written with their report, claimed by one worker at a time, settled once.

At least once: a message whose worker died is sent again with the same control id. The messages of one specimen are
sent in the order in which they were written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, aliased

from service.auth.identity import Actor
from service.lis.storage import audit
from service.lis.storage.states import MessageState
from service.lis.storage.tables import MessageRow, ReportRow

#: Stored characters of a receiver's reply.
MAX_REPLY = 1_000_000


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
    """Waiting and dead messages of one channel."""

    channel: str
    waiting: int
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

    A message is not due while an earlier one of its specimen waits. On PostgreSQL workers skip each other's claims
    (`FOR UPDATE SKIP LOCKED`); on SQLite one transaction writes at a time.
    """
    now = datetime.now(UTC)
    earlier = aliased(MessageRow)
    waits_for_earlier = (
        select(earlier.row)
        .where(
            earlier.specimen == MessageRow.specimen,
            earlier.channel == channel,
            earlier.row < MessageRow.row,
            earlier.state == MessageState.WAITING,
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
        _settle(message, MessageState.DELIVERED, None, reply)


def mark_rejected(session: Session, row: int, reason: str, reply: str) -> None:
    """Make a rejected message a dead letter; only a person can send it again."""
    if message := _waiting(session, row):
        _settle(message, MessageState.DEAD, reason, reply)


def mark_unanswered(session: Session, row: int, worker: str, reason: str, retry: Retry) -> MessageState:
    """Schedule the next attempt of an unacknowledged message; a dead letter after its retry time."""
    message = _waiting(session, row)
    if message is None or message.leased_by != worker:  # the lease has ended; another worker has claimed it
        return MessageState.WAITING
    now = datetime.now(UTC)
    if now >= message.give_up_at:
        _settle(message, MessageState.DEAD, f"not delivered in time; last attempt: {reason}", None)
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
    """Channels with waiting or dead messages."""
    waiting = MessageRow.state == MessageState.WAITING
    found = session.execute(
        select(
            MessageRow.channel,
            func.count().filter(waiting),
            func.count().filter(MessageRow.state == MessageState.DEAD),
            func.min(MessageRow.created_at).filter(waiting),
        )
        .where(MessageRow.state.in_((MessageState.WAITING, MessageState.DEAD)))
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


#: States of messages by how much they need a person.
_BY_URGENCY = (MessageState.DEAD, MessageState.WAITING, MessageState.DELIVERED, MessageState.DROPPED)


def most_urgent(session: Session, specimens: Sequence[int]) -> dict[int, MessageState]:
    """The most urgent state of the messages of each of these specimens (`row`); absent for those without messages."""
    wanted = select(MessageRow.specimen, MessageRow.state).where(MessageRow.specimen.in_(specimens)).distinct()
    found: dict[int, MessageState] = {}
    for specimen, text in session.execute(wanted):
        state = MessageState(text)
        found[specimen] = min(found.get(specimen, state), state, key=_BY_URGENCY.index)
    return found


def lock_message(session: Session, control_id: str) -> MessageRow | None:
    """The message with this control id, locked; or None."""
    wanted = select(MessageRow).where(MessageRow.control_id == control_id).with_for_update()
    return session.scalars(wanted.execution_options(populate_existing=True)).one_or_none()


class LaterReportSent(Exception):
    """A later report of the specimen may have arrived; an earlier one would replace it."""


class DeliveryInProgress(Exception):
    """A worker is sending the message now."""


def requeue(session: Session, message: MessageRow, actor: Actor, retry_for: timedelta) -> None:
    """Queue a dead letter again: the same bytes with the same control id.

    Raises:
        LaterReportSent: a later report of the specimen was sent, and not rejected.
    """
    later = select(MessageRow).where(
        MessageRow.specimen == message.specimen,
        MessageRow.channel == message.channel,
        MessageRow.row > message.row,
    )
    for other in session.scalars(later.order_by(MessageRow.row).with_for_update()):
        refused = other.state == MessageState.DEAD and other.reply is not None
        if other.attempts and not refused:
            raise LaterReportSent
    now = datetime.now(UTC)
    message.state, message.settled_at, message.attempts = MessageState.WAITING, None, 0
    message.due_at, message.give_up_at, message.leased_until = now, now + retry_for, None
    audit.record(session, actor, "retry", None, message=message.control_id, channel=message.channel)


def drop(session: Session, message: MessageRow, actor: Actor, why: str) -> None:
    """Drop a waiting or dead message.

    Raises:
        DeliveryInProgress: a worker is sending it.
    """
    if message.leased_until is not None and message.leased_until > datetime.now(UTC):
        raise DeliveryInProgress
    _settle(message, MessageState.DROPPED, f"dropped: {why}", message.reply)
    audit.record(session, actor, "drop", None, message=message.control_id, channel=message.channel, why=why)


def _waiting(session: Session, row: int) -> MessageRow | None:
    wanted = select(MessageRow).where(MessageRow.row == row, MessageRow.state == MessageState.WAITING)
    return session.scalars(wanted.with_for_update()).one_or_none()


def _settle(message: MessageRow, state: MessageState, reason: str | None, reply: str | None) -> None:
    message.state, message.reason = state, reason
    # PostgreSQL stores no NUL: the transaction would fail, and the message be sent again forever.
    message.reply = None if reply is None else reply[:MAX_REPLY].replace("\0", "\ufffd")
    message.settled_at, message.leased_until, message.leased_by = datetime.now(UTC), None, None
