"""The worklist, the preview of a signature, and messages that were not delivered."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from lab import classified, manifest, open_request, sign_request, use_cases, user

from service.errors import Conflict, NotReviewed, StaleRevision, UnknownSpecimen, WrongState
from service.lis.schemas import Reason, WithReason
from service.lis.storage import outbox
from service.lis.storage.states import MessageState, State
from service.lis.use_cases import UseCases

WHO = user("m.muster")
#: Fields of a report that differ from its preview.
OWN = {"id", "created_at"}


@pytest.fixture
def front(database_url: str) -> Iterator[UseCases]:
    with use_cases(database_url) as opened:
        yield opened


def with_cells(front: UseCases, artefact: Path, number: str, *codes: str, probability: float = 0.95) -> tuple[str, int]:
    """A specimen with a cell of each class; its id and revision."""
    opened = front.open(open_request(number), WHO)
    cells = [classified(code, probability=probability) for code in codes]
    revision, *_ = front.add(opened.id, cells, manifest(artefact), WHO)
    return opened.id, revision


def test_the_worklist_says_how_far_each_specimen_is(front: UseCases, artefact: Path) -> None:
    with_cells(front, artefact, "BM-1", "PMO", "NGS", "ART")
    with_cells(front, artefact, "BM-2", "PMO", probability=0.3)
    empty = front.open(open_request("BM-3"), WHO)
    found = front.worklist((), None, None, 50).specimens
    assert [each.number for each in found] == ["BM-3", "BM-2", "BM-1"]
    assert [(each.cells, each.counted, each.waiting_review) for each in found] == [(0, 0, 0), (1, 1, 1), (3, 2, 0)]
    assert [each.patient for each in found] == [front.get(each.id).patient for each in found]
    assert [each.delivery for each in found] == [None] * 3
    first = front.worklist((), None, None, 2)
    assert [each.number for each in front.worklist((), None, first.next, 2).specimens] == ["BM-1"]
    assert [each.id for each in front.worklist((), "BM-3", None, 50).specimens] == [empty.id]


def test_the_worklist_is_filtered_by_states_and_shows_the_most_urgent_message(front: UseCases, artefact: Path) -> None:
    specimen, revision = with_cells(front, artefact, "BM-1", "PMO")
    with_cells(front, artefact, "BM-2", "PMO")
    front.sign(specimen, sign_request(revision), WHO)
    assert [each.number for each in front.worklist([State.SIGNED], None, None, 50).specimens] == ["BM-1"]
    assert [each.number for each in front.worklist([State.OPEN, State.SIGNED], None, None, 50).specimens] == [
        "BM-2",
        "BM-1",
    ]
    with front.database.writing() as session:
        [message] = outbox.list_messages(session, [MessageState.WAITING], 10)
        outbox.mark_rejected(session, message.row, "AE", "")
    front.amend(specimen, WithReason(revision=revision + 1, reason="again"), WHO)
    front.sign(specimen, sign_request(revision + 2), WHO)
    [entry] = front.worklist([State.SIGNED], None, None, 50).specimens
    assert (entry.delivery, entry.reports) == (MessageState.DEAD, 2)


def test_the_revision_tells_changes_and_deliveries(front: UseCases, artefact: Path) -> None:
    specimen, revision = with_cells(front, artefact, "BM-1", "PMO")
    assert (front.revision(specimen).revision, front.revision(specimen).delivery) == (revision, None)
    front.sign(specimen, sign_request(revision), WHO)
    assert (front.revision(specimen).revision, front.revision(specimen).delivery) == (
        revision + 1,
        MessageState.WAITING,
    )


def test_a_preview_is_what_a_signature_sends_and_leaves_nothing(front: UseCases, artefact: Path) -> None:
    specimen, revision = with_cells(front, artefact, "BM-1", "PMO", "NGS")
    before = (front.get(specimen), front.audit_trail(specimen))
    request = sign_request(revision, comment="No blasts in excess.")
    preview = front.preview(specimen, request, WHO)
    assert (front.get(specimen), front.audit_trail(specimen)) == before
    with front.database.reading() as session:
        assert not outbox.list_messages(session, list(MessageState), 10)
    report = front.sign(specimen, request, WHO)
    assert preview.report.model_dump(exclude=OWN) == report.model_dump(exclude=OWN)
    with front.database.reading() as session:
        [sent] = outbox.list_messages(session, list(MessageState), 10)
    [previewed] = preview.messages
    assert previewed.channel == "plain"
    assert previewed.message.split(" ", 1)[1] == sent.message.split(" ", 1)[1]  # the control id comes first


def test_a_preview_is_refused_as_the_signature_is(front: UseCases, artefact: Path) -> None:
    specimen, revision = with_cells(front, artefact, "BM-1", "PMO", probability=0.3)
    with pytest.raises(NotReviewed):
        front.preview(specimen, sign_request(revision), WHO)
    with pytest.raises(StaleRevision):
        front.preview(specimen, sign_request(revision - 1), WHO)
    front.sign(specimen, sign_request(revision, accept_unread=True), WHO)
    with pytest.raises(WrongState):
        front.preview(specimen, sign_request(revision + 1, accept_unread=True), WHO)


def rejected(front: UseCases, specimen: str) -> str:
    """Let the receiver reject the specimen's waiting message; its control id."""
    with front.database.writing() as session:
        [message] = outbox.list_messages(session, [MessageState.WAITING], 10)
        outbox.mark_rejected(session, message.row, "AE", "MSA|AE")
    assert front.revision(specimen).delivery == MessageState.DEAD
    return message.control_id


def test_a_dead_letter_is_sent_again_or_given_up(front: UseCases, artefact: Path) -> None:
    specimen, revision = with_cells(front, artefact, "BM-1", "PMO")
    other, _ = with_cells(front, artefact, "BM-2", "PMO")
    front.sign(specimen, sign_request(revision), WHO)
    control_id = rejected(front, specimen)
    with pytest.raises(UnknownSpecimen):
        front.retry_message(other, control_id, WHO)
    [message] = front.retry_message(specimen, control_id, WHO).versions[0].messages
    assert (message.state, message.control_id) == (MessageState.WAITING, control_id)
    with pytest.raises(Conflict, match="send only a dead or a held one again"):
        front.retry_message(specimen, control_id, WHO)
    rejected(front, specimen)
    [message] = front.drop_message(specimen, control_id, Reason(reason="on paper"), WHO).versions[0].messages
    assert (message.state, message.reason) == (MessageState.DROPPED, "dropped: on paper")
    with pytest.raises(Conflict, match="only an undelivered one"):
        front.drop_message(specimen, control_id, Reason(reason="again"), WHO)


def test_a_report_that_a_later_one_has_overtaken_is_not_sent_again(front: UseCases, artefact: Path) -> None:
    specimen, revision = with_cells(front, artefact, "BM-1", "PMO")
    front.sign(specimen, sign_request(revision), WHO)
    control_id = rejected(front, specimen)
    front.amend(specimen, WithReason(revision=revision + 1, reason="again"), WHO)
    front.sign(specimen, sign_request(revision + 2), WHO)
    with front.database.writing() as session:
        [later] = outbox.list_messages(session, [MessageState.WAITING], 10)
        claimed = outbox.claim(session, later.channel, "worker", timedelta(minutes=1))
        assert claimed is not None
    with pytest.raises(Conflict, match="later report"):
        front.retry_message(specimen, control_id, WHO)
