"""Messages that wait to be delivered: written with their report, claimed one at a time, settled once.

Knows states, order and when to try again. Knows no protocol. At least once: a message whose sender died is sent again
under the same control id. The messages of one specimen leave in the order in which they were written.
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

#: Characters of a receiver's reply that are kept.
MAX_REPLY = 1_000_000


@dataclass(frozen=True, slots=True)
class Retry:
    """When a message that nobody answered is tried again: the wait doubles from `first_s` to `most_s`."""

    first_s: float
    most_s: float

    def wait(self, attempts: int) -> timedelta:
        """How long after so many attempts in a row."""
        return timedelta(seconds=min(self.most_s, self.first_s * 2.0 ** min(attempts - 1, 32)))


@dataclass(frozen=True, slots=True)
class Claimed:
    """One message that is this worker's to send."""

    row: int
    control_id: str
    message: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Depth:
    """One channel at a glance."""

    channel: str
    waiting: int
    dead: int
    oldest_at: datetime | None


def put(session: Session, report: ReportRow, channel: str, control_id: str, message: str, retry_for: timedelta) -> None:
    """Add a message in the transaction that writes its report."""
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
    """The next message that is due, for this worker alone until the lease ends; None when there is none.

    A message that an earlier one of its specimen waits before is not due. On PostgreSQL workers pass each other's
    claims by (`FOR UPDATE SKIP LOCKED`); on SQLite one transaction writes at a time.
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


def delivered(session: Session, row: int, reply: str) -> None:
    """The receiver has it."""
    if message := _waiting(session, row):
        _settle(message, MessageState.DELIVERED, None, reply)


def rejected(session: Session, row: int, reason: str, reply: str) -> None:
    """The receiver does not take it: a dead letter, which only a person sends again."""
    if message := _waiting(session, row):
        _settle(message, MessageState.DEAD, reason, reply)


def unanswered(session: Session, row: int, worker: str, reason: str, retry: Retry) -> MessageState:
    """Nobody said that it was taken: it is tried again later, or dead when it was tried for long enough."""
    message = _waiting(session, row)
    if message is None or message.leased_by != worker:  # the lease ended, and another worker has it
        return MessageState.WAITING
    now = datetime.now(UTC)
    if now >= message.give_up_at:
        _settle(message, MessageState.DEAD, f"not answered in time; at last: {reason}", None)
        return MessageState.DEAD
    message.reason, message.leased_until, message.leased_by = reason, None, None
    message.due_at = now + retry.wait(message.attempts)
    return MessageState.WAITING


def let_go(session: Session, row: int, worker: str) -> None:
    """A worker that ends leaves its message to the next one, at once."""
    message = _waiting(session, row)
    if message is not None and message.leased_by == worker:
        message.leased_until, message.leased_by = None, None


def depths(session: Session) -> list[Depth]:
    """Every channel in which something waits or is dead."""
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


def listed(session: Session, states: Sequence[MessageState], limit: int) -> Sequence[MessageRow]:
    """Messages in these states, the oldest first."""
    wanted = select(MessageRow).where(MessageRow.state.in_(states)).order_by(MessageRow.row).limit(limit)
    return session.scalars(wanted).all()


def of_report(session: Session, report: ReportRow) -> Sequence[MessageRow]:
    """The messages of one report."""
    return session.scalars(select(MessageRow).where(MessageRow.report == report.row).order_by(MessageRow.row)).all()


def by_control_id(session: Session, control_id: str) -> MessageRow | None:
    """One message, locked."""
    wanted = select(MessageRow).where(MessageRow.control_id == control_id).with_for_update()
    return session.scalars(wanted.execution_options(populate_existing=True)).one_or_none()


class Overtaken(Exception):
    """A later report of the same specimen may have arrived: an earlier one after it would take it back."""


class UnderWay(Exception):
    """A worker is sending it at this moment."""


def retry_dead(session: Session, message: MessageRow, by: Actor, retry_for: timedelta) -> None:
    """Send a dead letter again, the same bytes under the same control id.

    Raises:
        Overtaken: the receiver has, or may have, a later report of the specimen: it was sent, and not refused.
    """
    later = select(MessageRow).where(
        MessageRow.specimen == message.specimen,
        MessageRow.channel == message.channel,
        MessageRow.row > message.row,
    )
    for other in session.scalars(later.order_by(MessageRow.row).with_for_update()):
        refused = other.state == MessageState.DEAD and other.reply is not None
        if other.attempts and not refused:
            raise Overtaken
    now = datetime.now(UTC)
    message.state, message.settled_at, message.attempts = MessageState.WAITING, None, 0
    message.due_at, message.give_up_at, message.leased_until = now, now + retry_for, None
    audit.record(session, by, "retry", None, message=message.control_id, channel=message.channel)


def drop(session: Session, message: MessageRow, by: Actor, why: str) -> None:
    """Give up on a message that waits or is dead.

    Raises:
        UnderWay: nobody knows yet whether the receiver has it.
    """
    if message.leased_until is not None and message.leased_until > datetime.now(UTC):
        raise UnderWay
    _settle(message, MessageState.DROPPED, f"dropped: {why}", message.reply)
    audit.record(session, by, "drop", None, message=message.control_id, channel=message.channel, why=why)


def _waiting(session: Session, row: int) -> MessageRow | None:
    wanted = select(MessageRow).where(MessageRow.row == row, MessageRow.state == MessageState.WAITING)
    return session.scalars(wanted.with_for_update()).one_or_none()


def _settle(message: MessageRow, state: MessageState, reason: str | None, reply: str | None) -> None:
    message.state, message.reason = state, reason
    # PostgreSQL keeps no NUL: a reply with one would never be written down, and the message sent again for ever.
    message.reply = None if reply is None else reply[:MAX_REPLY].replace("\0", "\ufffd")
    message.settled_at, message.leased_until, message.leased_by = datetime.now(UTC), None, None
