"""The use cases, from an opened specimen to a signed report, on both databases."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from lab import classified, manifest, open_request, sign_request, use_cases, user
from sqlalchemy import text

from service.errors import (
    CellTaken,
    Conflict,
    InvalidReading,
    NotReviewed,
    NumberTaken,
    StaleRevision,
    UnknownSpecimen,
    WrongState,
)
from service.lis.domain.differential import ClassifiedCell
from service.lis.domain.report import CellReading, ReportStatus
from service.lis.schemas import Cell, ChangeSpecimen, ReadCells, ReportSpecimen, WithReason
from service.lis.storage.states import State
from service.lis.use_cases import UseCases


@pytest.fixture
def front(database_url: str) -> Iterator[UseCases]:
    with use_cases(database_url) as opened:
        yield opened


def reading(cell: Cell, code: str, why: str | None = None) -> CellReading:
    return CellReading(place=cell.place, version=cell.version, code=code, why=why)


def one_opened(front: UseCases, artefact: Path, *codes: str, **more: object) -> tuple[str, list[Cell], int]:
    """A specimen with cells, and its revision."""
    opened = front.open(open_request(**more), user("m.muster"))
    revision, added, stand, *_ = front.add(
        opened.id, [classified(code) for code in codes], manifest(artefact), user("scanner")
    )
    assert added == len(codes)
    return opened.id, [cell for cell in stand if isinstance(cell, Cell)], revision


def test_a_specimen_goes_from_open_to_signed_to_corrected(front: UseCases, artefact: Path) -> None:
    specimen, cells, revision = one_opened(front, artefact, *["PMO"] * 30, *["EBO"] * 10)
    early = front.preliminary(specimen, ReportSpecimen(revision=revision), user("m.muster"))
    assert (early.status, early.version, early.signed_by) == (ReportStatus.PRELIMINARY, 1, None)
    signed = front.sign(specimen, sign_request(revision + 1, comment="no dysplasia"), user("dr.beispiel"))
    assert (signed.status, signed.version, signed.signed_by) == (ReportStatus.FINAL, 2, "dr.beispiel")
    assert signed.differential.me_ratio.value == 3.0
    assert front.get(specimen).state == State.SIGNED
    amended = front.amend(
        specimen, WithReason(revision=revision + 2, reason="one cell was a blast"), user("dr.beispiel")
    )
    front.read(specimen, ReadCells(readings=[reading(cells[0], "BLA", "open chromatin")]), user("dr.beispiel"))
    corrected = front.sign(specimen, sign_request(amended.revision + 1), user("dr.beispiel"))
    assert (corrected.status, corrected.version) == (ReportStatus.CORRECTED, 3)
    assert corrected.correction == "one cell was a blast"
    shares = {share.code: share.count for share in corrected.differential.classes}
    assert (shares["PMO"], shares["BLA"], shares["EBO"]) == (29, 1, 10)
    versions = front.get(specimen).versions
    assert [each.status for each in versions] == ["preliminary", "final", "corrected"]
    assert [len(each.messages) for each in versions] == [1, 1, 1]
    # What was signed stands as it was signed.
    assert front.report(specimen, 2) == signed.json_bytes()


def test_what_a_signed_specimen_refuses(front: UseCases, artefact: Path) -> None:
    specimen, cells, revision = one_opened(front, artefact, "PMO", "EBO")
    front.sign(specimen, sign_request(revision), user("dr.beispiel"))
    with pytest.raises(WrongState, match="signed"):
        front.add(specimen, [classified("LYT")], manifest(artefact), user("scanner"))
    with pytest.raises(WrongState):
        front.read(specimen, ReadCells(readings=[reading(cells[0], "PMO")]), user("m.muster"))
    with pytest.raises(WrongState):
        front.sign(specimen, sign_request(revision + 1), user("dr.beispiel"))
    with pytest.raises(WrongState):
        front.cancel(specimen, WithReason(revision=revision + 1, reason="mixed up"), user("m.muster"))
    with pytest.raises(WrongState):
        front.preliminary(specimen, ReportSpecimen(revision=revision + 1), user("m.muster"))
    with pytest.raises(WrongState):
        front.change(specimen, ChangeSpecimen(revision=revision + 1, target_cells=200), user("m.muster"))
    assert front.get(specimen).cells == 2


def test_cells_that_wait_hold_a_signature_back_unless_the_signer_knows(front: UseCases, artefact: Path) -> None:
    opened = front.open(open_request(), user("m.muster"))
    unsure = [classified("PMO", probability=0.6), classified("EBO")]
    revision, _, stand, differential, _ = front.add(opened.id, unsure, manifest(artefact), user("scanner"))
    assert differential.waiting_review == 1
    assert front.cells(opened.id, None, "waiting", 0, 10).cells == [stand[0]]
    with pytest.raises(NotReviewed, match="1 cells wait"):
        front.sign(opened.id, sign_request(revision), user("dr.beispiel"))
    report = front.sign(opened.id, sign_request(revision, accept_unread=True), user("dr.beispiel"))
    assert (report.differential.waiting_review, report.differential.read_by_person) == (1, 0)


def test_the_database_and_the_rules_agree_on_what_waits(front: UseCases, artefact: Path) -> None:
    opened = front.open(open_request(), user("m.muster"))
    unsure = [classified(code, probability=p) for code in ("ABE", "PMO", "EBO") for p in (0.1, 0.79, 0.8, 0.81, 1.0)]
    _, _, stand, found, _ = front.add(opened.id, unsure, manifest(artefact), user("scanner"))
    cells = [each for each in stand if isinstance(each, Cell)]
    waiting = front.cells(opened.id, None, "waiting", 0, 100).cells
    assert waiting == [each for each in cells if each.waits]
    assert found.waiting_review == len(waiting) == 5 + 2 * 2


def test_without_a_counted_cell_there_is_nothing_to_sign(front: UseCases, artefact: Path) -> None:
    specimen, _, revision = one_opened(front, artefact, "ART", "NIF")
    with pytest.raises(NotReviewed, match="no cell is counted"):
        front.sign(specimen, sign_request(revision, accept_unread=True), user("dr.beispiel"))


def test_a_confirmed_cell_waits_no_more_and_a_change_needs_a_reason(front: UseCases, artefact: Path) -> None:
    opened = front.open(open_request(), user("m.muster"))
    _, _, [cell, _], *_ = front.add(
        opened.id,
        [classified("PMO", probability=0.5), classified("EBO")],
        manifest(artefact),
        user("scanner"),
    )
    assert isinstance(cell, Cell)
    with pytest.raises(InvalidReading, match="needs a reason"):
        front.read(opened.id, ReadCells(readings=[reading(cell, "MYB")]), user("m.muster"))
    with pytest.raises(InvalidReading, match="unknown class"):
        front.read(opened.id, ReadCells(readings=[reading(cell, "XYZ", "a guess")]), user("m.muster"))
    [read] = front.read(opened.id, ReadCells(readings=[reading(cell, "PMO")]), user("m.muster")).cells
    assert (read.version, read.read_by, read.waits) == (2, "m.muster", False)
    [read] = front.read(opened.id, ReadCells(readings=[reading(read, "MYB", "smaller")]), user("o.other")).cells
    past = front.cell(opened.id, 1).readings
    assert [(each.by, each.from_code, each.to_code, each.why) for each in past] == [
        ("m.muster", "PMO", "PMO", None),
        ("o.other", "PMO", "MYB", "smaller"),
    ]
    assert (read.code, read.suggested) == ("MYB", "PMO")


def test_readings_of_one_request_are_all_written_or_none(front: UseCases, artefact: Path) -> None:
    specimen, [first, second], _ = one_opened(front, artefact, "PMO", "EBO")
    stale = CellReading(place=second.place, version=7, code="EBO")
    with pytest.raises(StaleRevision):
        front.read(specimen, ReadCells(readings=[reading(first, "PMO"), stale]), user("m.muster"))
    with pytest.raises(UnknownSpecimen):
        front.read(specimen, ReadCells(readings=[CellReading(place=99, version=1, code="EBO")]), user("m.muster"))
    with pytest.raises(InvalidReading, match="twice"):
        front.read(specimen, ReadCells(readings=[reading(first, "PMO"), reading(first, "PMO")]), user("m.muster"))
    assert front.cell(specimen, 1).version == 1
    assert front.differential(specimen).read_by_person == 0


def test_a_picture_is_one_cell_however_often_it_is_sent(front: UseCases, artefact: Path) -> None:
    opened = front.open(open_request(), user("m.muster"))
    model = manifest(artefact)
    first = [
        classified("PMO", name="a", key="a.png"),
        classified("EBO", name="b", key="b.png"),
        classified("PMO", name="a", key="a.png"),
    ]
    revision, added, stand, *_ = front.add(opened.id, first, model, user("scanner"))
    assert (added, [each.place for each in stand if isinstance(each, Cell)]) == (2, [1, 2, 1])
    again, added, *_ = front.add(opened.id, first, model, user("scanner"))
    assert (again, added) == (revision, 0)
    confused = [
        classified("PMO", name="a", key="c.png"),
        classified("PMO", name="c", key="b.png"),
        classified("LYT", name="d"),
    ]
    _, added, stand, differential, _ = front.add(opened.id, confused, model, user("scanner"))
    assert [type(each) for each in stand] == [CellTaken, CellTaken, Cell]
    assert (added, differential.cells) == (1, 3)


def test_a_class_nobody_was_taught_is_measured_once_a_person_has_read_every_cell(
    front: UseCases, artefact: Path
) -> None:
    model = manifest(artefact)
    assert "ABE" in model.unsupported
    opened = front.open(open_request(), user("m.muster"))
    _, _, stand, before, _ = front.add(opened.id, [classified("ABE"), classified("EOS")], model, user("scanner"))
    cells = [each for each in stand if isinstance(each, Cell)]
    assert (cells[0].waits, cells[1].waits) == (True, False)
    assert "ABE" in before.unsupported
    assert next(share for share in before.classes if share.code == "ABE").low is None
    front.read(opened.id, ReadCells(readings=[reading(each, each.code) for each in cells]), user("m.muster"))
    after = front.differential(opened.id)
    assert after.unsupported == []
    assert next(share for share in after.classes if share.code == "ABE").low is not None


def test_one_specimen_has_a_number(front: UseCases) -> None:
    front.open(open_request("BM-1"), user("m.muster"))
    with pytest.raises(NumberTaken):
        front.open(open_request("BM-1"), user("m.muster"))
    with pytest.raises(UnknownSpecimen):
        front.get("0" * 32)


def test_listing_goes_page_by_page_newest_first(front: UseCases) -> None:
    ids = [front.open(open_request(f"BM-{n}"), user("m.muster")).id for n in range(7)]
    front.cancel(ids[3], WithReason(revision=1, reason="clotted"), user("m.muster"))
    seen, before = [], None
    while True:
        page = front.list(State.OPEN, None, before, 2)
        seen += [each.id for each in page.specimens]
        if (before := page.next) is None:
            break
    assert seen == [each for each in reversed(ids) if each != ids[3]]
    assert [each.id for each in front.list(None, "BM-5", None, 50).specimens] == [ids[5]]


def test_cells_of_another_list_of_classes_do_not_mix(front: UseCases, artefact: Path) -> None:
    specimen, _, _ = one_opened(front, artefact, "PMO")
    first = manifest(artefact)
    renamed = (first.classes[0].model_copy(update={"name": "Something else"}), *first.classes[1:])
    other = first.model_copy(update={"sha256": "0" * 64, "classes": renamed})
    with pytest.raises(Conflict, match="another class list"):
        front.add(specimen, [classified("EBO")], other, user("scanner"))


def test_a_second_model_of_the_same_classes_is_named_beside_the_first(front: UseCases, artefact: Path) -> None:
    specimen, _, revision = one_opened(front, artefact, "PMO")
    other = manifest(artefact).model_copy(update={"sha256": "0" * 64, "version": "9.9.9"})
    front.add(specimen, [classified("EBO")], other, user("scanner"))
    report = front.sign(specimen, sign_request(revision + 1), user("dr.beispiel"))
    assert [model.version for model in report.models] == ["9.9.9", manifest(artefact).version]
    assert [model.inert for model in report.models] == [None, None]
    assert b"inert" not in report.json_bytes()


def test_a_report_names_the_inert_parts_of_its_model(front: UseCases, artefact: Path) -> None:
    specimen, _, revision = one_opened(front, artefact, "PMO")
    inert = manifest(artefact).model_copy(update={"inert": ("MLKA",)})  # a later manifest of the same graph
    front.add(specimen, [classified("EBO")], inert, user("scanner"))
    report = front.sign(specimen, sign_request(revision + 1), user("dr.beispiel"))
    assert [model.inert for model in report.models] == [["MLKA"]]


def together(*actions: Callable[[], object]) -> list[object]:
    """The outcomes of several actions started together."""
    start = Barrier(len(actions))

    def attempt(action: Callable[[], object]) -> object:
        start.wait(60)
        try:
            return action()
        except Conflict as error:
            return error

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(attempt, actions))


def conflicts(outcomes: list[object]) -> int:
    return sum(isinstance(outcome, Conflict) for outcome in outcomes)


@pytest.mark.parametrize("round", range(5))
def test_of_two_who_reclassify_one_cell_at_once_one_wins(front: UseCases, artefact: Path, round: int) -> None:
    specimen, [cell], _ = one_opened(front, artefact, "PMO")

    def to(code: str) -> Callable[[], object]:
        return lambda: front.read(specimen, ReadCells(readings=[reading(cell, code, f"round {round}")]), user(code))

    assert conflicts(together(to("MYB"), to("BLA"))) == 1
    after = front.cell(specimen, 1)
    assert [after.code] == [each.to_code for each in after.readings]


def test_of_four_who_sign_at_once_one_wins(front: UseCases, artefact: Path) -> None:
    specimen, _, revision = one_opened(front, artefact, "PMO", "EBO")
    outcomes = together(*[lambda: front.sign(specimen, sign_request(revision), user("dr.beispiel"))] * 4)
    assert conflicts(outcomes) == 3
    assert len(front.get(specimen).versions) == 1


@pytest.mark.parametrize("round", range(5))
def test_a_report_is_never_mixed_with_cells_that_come_while_it_is_signed(
    front: UseCases, artefact: Path, round: int
) -> None:
    specimen, _, revision = one_opened(front, artefact, "PMO", number=f"BM-{round}")
    model = manifest(artefact)

    def add() -> tuple[int, int]:
        return front.add(specimen, [classified("EBO"), classified("EBO")], model, user("scanner"))[:2]

    outcomes = together(lambda: front.sign(specimen, sign_request(revision), user("dr.beispiel")), add)
    assert conflicts(outcomes) == 1
    stands = front.get(specimen)
    if stands.state == State.SIGNED:
        assert stands.cells == 1
        assert b'"cells":1' in front.report(specimen, 1)
    else:
        assert (stands.cells, stands.versions) == (3, [])


def test_many_add_at_once_and_every_cell_has_its_place(front: UseCases, artefact: Path) -> None:
    opened = front.open(open_request(), user("m.muster"))
    model = manifest(artefact)
    mine = [[classified("PMO", name=f"{who} {n}") for n in range(5)] for who in range(6)]
    shared = classified("EBO", name="shared")

    def add(cells: list[ClassifiedCell]) -> Callable[[], object]:
        return lambda: front.add(opened.id, [*cells, shared], model, user("scanner"))

    assert conflicts(together(*[add(cells) for cells in mine])) == 0
    places = [cell.place for cell in front.cells(opened.id, None, None, 0, 100).cells]
    assert places == list(range(1, 32))
    assert front.differential(opened.id).cells == 31


def test_the_database_keeps_what_the_tables_promise(front: UseCases) -> None:
    if front.database.is_sqlite:
        with front.database.reading() as session:
            assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
            assert session.execute(text("PRAGMA synchronous")).scalar() == 2
            assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1
