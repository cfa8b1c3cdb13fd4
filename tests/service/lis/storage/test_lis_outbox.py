"""The outbox: messages leave after their report is written, in order, at least once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from lab import classified, manifest, open_request, plainly, sign_request, use_cases, user
from sqlalchemy import select, update

from service.lis.domain.signing import Channel
from service.lis.schemas import ReportSpecimen, WithReason
from service.lis.storage import outbox
from service.lis.storage.outbox import Claimed, Retry
from service.lis.storage.states import MessageState
from service.lis.storage.tables import MessageRow, ReportRow
from service.lis.use_cases import UseCases

LEASE = timedelta(minutes=5)
RETRY = Retry(first_s=1, most_s=60)
CHANNELS = (Channel("one", plainly, timedelta(hours=1)), Channel("two", plainly, timedelta(hours=1)))


@pytest.fixture
def front(database_url: str) -> Iterator[UseCases]:
    with use_cases(database_url, channels=CHANNELS) as opened:
        yield opened


def signed(front: UseCases, artefact: Path, number: str) -> str:
    opened = front.open(open_request(number), user("m.muster"))
    revision, *_ = front.add(opened.id, [classified("PMO"), classified("EBO")], manifest(artefact), user("scanner"))
    front.sign(opened.id, sign_request(revision), user("dr.beispiel"))
    return opened.id


def claim(front: UseCases, channel: str = "one", worker: str = "w", lease: timedelta = LEASE) -> Claimed | None:
    with front.database.writing() as session:
        return outbox.claim(session, channel, worker, lease)


def delivered(front: UseCases, claimed: Claimed | None) -> None:
    assert claimed is not None
    with front.database.writing() as session:
        outbox.mark_delivered(session, claimed.row, "AA")


def unanswered(front: UseCases, claimed: Claimed | None, worker: str = "w") -> MessageState:
    assert claimed is not None
    with front.database.writing() as session:
        return outbox.mark_unanswered(session, claimed.row, worker, "no answer", RETRY)


def due_now(front: UseCases) -> None:
    with front.database.writing() as session:
        session.execute(update(MessageRow).values(due_at=datetime.now(UTC) - timedelta(seconds=1)))


def rows(front: UseCases) -> list[MessageRow]:
    with front.database.reading() as session:
        return list(session.scalars(select(MessageRow).order_by(MessageRow.row)))


def test_a_signature_puts_one_message_into_every_channel(front: UseCases, artefact: Path) -> None:
    signed(front, artefact, "BM-1")
    assert [(row.channel, row.state) for row in rows(front)] == [("one", "waiting"), ("two", "waiting")]
    assert len({row.control_id for row in rows(front)}) == 2
    assert {len(row.control_id) for row in rows(front)} == {20}


def test_a_message_that_cannot_be_written_leaves_no_report(database_url: str, artefact: Path) -> None:
    def broken(*_: object) -> str:
        raise ValueError("no such character")

    with use_cases(database_url, channels=(CHANNELS[0], Channel("broken", broken, LEASE))) as front:
        opened = front.open(open_request(), user("m.muster"))
        revision, *_ = front.add(opened.id, [classified("PMO")], manifest(artefact), user("scanner"))
        with pytest.raises(ValueError, match="no such character"):
            front.sign(opened.id, sign_request(revision), user("dr.beispiel"))
        assert rows(front) == []
        assert front.get(opened.id).state == "open"
        with front.database.reading() as session:
            assert session.scalars(select(ReportRow)).all() == []


def test_a_claimed_message_is_nobody_elses_until_its_lease_ends(front: UseCases, artefact: Path) -> None:
    signed(front, artefact, "BM-1")
    mine = claim(front, lease=timedelta(seconds=-1))  # a worker that died, and its lease has ended
    again = claim(front, worker="v")
    assert mine is not None and again is not None
    assert (again.row, again.control_id, again.message) == (mine.row, mine.control_id, mine.message)
    assert (mine.attempts, again.attempts) == (1, 2)
    assert claim(front) is None
    delivered(front, again)
    assert claim(front) is None
    assert rows(front)[0].state == MessageState.DELIVERED


def test_messages_of_one_specimen_leave_in_order(front: UseCases, artefact: Path) -> None:
    opened = front.open(open_request("BM-1"), user("m.muster"))
    revision, *_ = front.add(opened.id, [classified("PMO")], manifest(artefact), user("scanner"))
    front.preliminary(opened.id, ReportSpecimen(revision=revision), user("m.muster"))
    front.sign(opened.id, sign_request(revision + 1), user("dr.beispiel"))
    front.amend(opened.id, WithReason(revision=revision + 2, reason="a second look"), user("dr.beispiel"))
    front.sign(opened.id, sign_request(revision + 3), user("dr.beispiel"))
    other = signed(front, artefact, "BM-2")
    first = claim(front)
    assert first is not None and first.message.endswith("BM-1 preliminary 1")
    second = claim(front)
    assert second is not None and "BM-2" in second.message, "another specimen does not wait"
    assert claim(front) is None
    assert unanswered(front, first) == MessageState.WAITING
    assert claim(front) is None, "the final report does not overtake the preliminary one"
    due_now(front)
    for ending in ("preliminary 1", "final 2", "corrected 3"):
        message = claim(front)
        assert message is not None and message.message.endswith(f"BM-1 {ending}")
        delivered(front, message)
    assert front.get(other).versions[0].messages[0].state == MessageState.WAITING


def test_what_is_refused_is_a_dead_letter_and_holds_nothing_up(front: UseCases, artefact: Path) -> None:
    specimen = signed(front, artefact, "BM-1")
    message = claim(front)
    assert message is not None
    with front.database.writing() as session:
        outbox.mark_rejected(session, message.row, "AE 101: PID-5 is missing", "MSA|AE|…")
    due_now(front)
    assert claim(front) is None
    [found] = [each for each in front.get(specimen).versions[0].messages if each.channel == "one"]
    assert (found.state, found.reason) == (MessageState.DEAD, "AE 101: PID-5 is missing")
    with front.database.reading() as session:
        depths = {depth.channel: (depth.waiting, depth.dead) for depth in outbox.depths(session)}
    assert depths == {"one": (0, 1), "two": (1, 0)}


def test_an_unanswered_message_waits_longer_each_time_and_is_dead_at_last(front: UseCases, artefact: Path) -> None:
    signed(front, artefact, "BM-1")
    waits = []
    for _ in range(3):
        due_now(front)
        began = datetime.now(UTC)
        assert unanswered(front, claim(front)) == MessageState.WAITING
        waits.append((rows(front)[0].due_at - began).total_seconds())
    assert waits == pytest.approx([1, 2, 4], abs=0.9)
    with front.database.writing() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        session.execute(update(MessageRow).values(due_at=past, give_up_at=past))
    assert unanswered(front, claim(front)) == MessageState.DEAD
    assert "not delivered in time" in str(rows(front)[0].reason)


def test_waits_double_up_to_the_longest() -> None:
    assert [Retry(1, 60).wait(attempts).total_seconds() for attempts in (1, 2, 3, 6, 7, 1000)] == [1, 2, 4, 32, 60, 60]


def test_a_worker_whose_lease_ended_does_not_put_off_what_another_one_sends(front: UseCases, artefact: Path) -> None:
    signed(front, artefact, "BM-1")
    late = claim(front, worker="late", lease=timedelta(seconds=-1))
    claim(front, worker="next")
    unanswered(front, late, worker="late")
    assert rows(front)[0].leased_by == "next"
    assert claim(front) is None


def test_a_dead_letter_is_sent_again_as_it_was_or_dropped(front: UseCases, artefact: Path) -> None:
    signed(front, artefact, "BM-1")
    message = claim(front)
    assert message is not None
    with front.database.writing() as session:
        outbox.mark_rejected(session, message.row, "AE", "")
    with front.database.writing() as session:
        row = outbox.lock_message(session, message.control_id)
        assert row is not None
        outbox.requeue(session, row, user("operator"), timedelta(hours=1))
    again = claim(front)
    assert again is not None and (again.control_id, again.message) == (message.control_id, message.message)
    with pytest.raises(outbox.DeliveryInProgress), front.database.writing() as session:
        row = outbox.lock_message(session, message.control_id)
        assert row is not None
        outbox.drop(session, row, user("operator"), "nobody knows yet whether it has arrived")
    unanswered(front, again)
    with front.database.writing() as session:
        row = outbox.lock_message(session, message.control_id)
        assert row is not None
        outbox.drop(session, row, user("operator"), "the receiver is gone for good")
    due_now(front)
    assert claim(front) is None


def test_many_workers_share_a_channel_and_none_gets_what_another_has(front: UseCases, artefact: Path) -> None:
    for number in range(12):
        signed(front, artefact, f"BM-{number}")

    def work(worker: str) -> list[str]:
        mine = []
        while (message := claim(front, worker=worker)) is not None:
            mine.append(message.control_id)
            delivered(front, message)
        return mine

    with ThreadPoolExecutor(4) as pool:
        taken = [control_id for mine in pool.map(work, "abcd") for control_id in mine]
    # On PostgreSQL a worker that finds the last ones locked leaves: what it passed by is another's.
    assert len(taken) == len(set(taken)) == 12


def test_a_message_says_the_same_at_every_try(front: UseCases, artefact: Path) -> None:
    signed(front, artefact, "BM-1")
    tries = set()
    for _ in range(3):
        due_now(front)
        message = claim(front)
        assert message is not None
        tries.add((message.control_id, message.message))
        unanswered(front, message)
    assert len(tries) == 1


def test_a_dead_letter_is_not_sent_after_a_later_report_of_its_specimen(front: UseCases, artefact: Path) -> None:
    specimen = signed(front, artefact, "BM-1")
    dead = claim(front)
    assert dead is not None
    with front.database.writing() as session:
        outbox.mark_rejected(session, dead.row, "AE", "")
    revision = front.get(specimen).revision
    front.amend(specimen, WithReason(revision=revision, reason="a second look"), user("dr.beispiel"))
    front.sign(specimen, sign_request(revision + 1), user("dr.beispiel"))
    later = claim(front)  # under way is enough: who knows whether it has arrived
    with pytest.raises(outbox.LaterReportSent), front.database.writing() as session:
        row = outbox.lock_message(session, dead.control_id)
        assert row is not None
        outbox.requeue(session, row, user("operator"), timedelta(hours=1))
    delivered(front, later)
    with pytest.raises(outbox.LaterReportSent), front.database.writing() as session:
        row = outbox.lock_message(session, dead.control_id)
        assert row is not None
        outbox.requeue(session, row, user("operator"), timedelta(hours=1))
    assert claim(front) is None
