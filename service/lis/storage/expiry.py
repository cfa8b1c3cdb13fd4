"""Expiry of messages: texts of delivered and dropped ones, and ids of received ones. The report stays."""

from datetime import datetime

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from service.auth.identity import Actor, Identity
from service.lis.storage import audit, outbox
from service.lis.storage.states import MessageState
from service.lis.storage.tables import MessageRow, TakenMessageRow

#: The actor of retention in the audit trail.
RETENTION = Actor("retention", Identity(kind="service"))


def expire(session: Session, before: datetime, limit: int) -> int:
    """Empty up to `limit` messages settled before a time, and delete the ids of messages received before it.

    Returns:
        The number of emptied messages; less than `limit` if none is left.
    """
    wanted = (
        select(MessageRow)
        .where(
            MessageRow.state.in_((MessageState.DELIVERED, MessageState.DROPPED)),
            MessageRow.settled_at < before,
            or_(MessageRow.message != "", MessageRow.reply.is_not(None)),
        )
        .order_by(MessageRow.row)
        .limit(limit)
    )
    messages = session.scalars(wanted.with_for_update(skip_locked=True)).all()
    for message in messages:
        outbox.empty(message)
    gone = delete(TakenMessageRow).where(TakenMessageRow.at < before).returning(TakenMessageRow.control_id)
    taken = len(session.execute(gone).all())
    if messages or taken:
        control_ids = [message.control_id for message in messages]
        audit.record(session, RETENTION, "expire", None, messages=control_ids, taken=taken)
    return len(messages)
