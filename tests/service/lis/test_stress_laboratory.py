"""Short versions of the laboratory checks of `make stress`, and their findings about a lossy laboratory."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from laboratory import report

from model.contract import CLASSES
from service.config.lis import LisSettings
from service.lis.domain.report import Patient, ReportStatus
from service.lis.exchange.code_map import CodeMap
from service.lis.exchange.hl7.results import encode_report
from stress.checks import browsing
from stress.checks.laboratory import laboratory
from stress.laboratory.received import Signed, faults, messages
from stress.laboratory.signers import PICTURES, SigningClients, UncountedPictures, chosen, expected
from stress.results import Steps

#: Of 30 pictures; the first specimens are chosen from them.
CODES = [("EBO", "NGS", "LYT", "ART")[at % 4] for at in range(PICTURES)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills", "workers"), [("sqlite", 3, 1), ("postgresql", 4, 1), ("postgresql", 4, 2)])
async def test_nothing_is_lost_while_everything_is_killed(kind: str, kills: int, workers: int, artefact: Path) -> None:
    steps = Steps()
    found = await laboratory(kind, 30, kills, artefact, steps, seed=4, workers=workers)
    assert found.faults == []
    assert steps.done == 30
    assert sum(int(count) for _, count in found.tables[0].rows) == kills


@pytest.mark.slow
async def test_many_specimens_are_browsed(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Times are the long run's, on a machine that does nothing else.
    for name, value in {"ASKED": 5, "SIGNED": 3, "PAGE_LIMIT_S": 60, "REPORT_LIMIT_S": 60}.items():
        monkeypatch.setattr(browsing, name, value)
    found = await browsing.browsing(60, artefact, Steps())
    assert found.faults == []
    assert [row[1] for row in found.tables[0].rows] == ["5"] * 6 + ["3"]


def test_pictures_of_classes_that_are_not_counted_are_refused() -> None:
    with pytest.raises(UncountedPictures, match=r"all 30 pictures are of classes that are not counted \(ART, NIF\)"):
        SigningClients("http://127.0.0.1:1", ["ART", "NIF"] * 15, [])


def message(number: int, control_id: str, *, status: ReportStatus = ReportStatus.FINAL) -> tuple[str, Signed]:
    """The message of a specimen that has the pictures which its number says, and what was signed of it."""
    own = expected(number, CODES)
    counts: dict[str, int] = {}
    for at in chosen(number, CODES):
        counts[CODES[at]] = counts.get(CODES[at], 0) + 1
    of = report(
        status, classes=CLASSES, counts=counts, number=f"BM-{number:05}", patient=Patient(identifier=f"P-{number:05}")
    )
    code_of = CodeMap.load().code_of(signed=True)
    raw = encode_report(of, code_of, LisSettings(), control_id=control_id, sent_at=of.created_at)
    version = 2 if status is ReportStatus.CORRECTED else 1
    return raw, Signed(of.number, version, status, control_id, dict(own))


@given(st.integers(1, 10_000))
def test_a_specimens_own_message_has_no_fault(number: int) -> None:
    raw, signed = message(number, "a")
    assert faults({"a": [raw, raw]}, {"a": signed}, CODES) == []


def test_what_is_lost_doubled_mixed_or_overtaken_is_found() -> None:
    raw, signed = message(1, "a")
    other, another = message(2, "b")
    assert faults({}, {"a": signed}, CODES) == ["BM-00001: its message a never arrived"]
    assert faults({"a": [raw]}, {}, CODES) == ["message a belongs to no signed report"]
    assert faults({"a": [raw, other]}, {"a": signed}, CODES) == ["message a came as two different ones"]
    mixed = faults({"b": [raw]}, {"b": another}, CODES)
    assert {"BM-00002: patient is P-00001, not P-00002", "BM-00002: specimen is another, not BM-00002"} <= set(mixed)
    later, corrected = message(1, "c", status=ReportStatus.CORRECTED)
    overtaken = faults({"c": [later], "a": [raw]}, {"a": signed, "c": corrected}, CODES)
    assert overtaken == ["BM-00001: version 1 came after version 2"]


def test_half_a_line_of_a_killed_receiver_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / "received"
    file.write_text('{"raw": "MSH|^~\\\\&|1|2|3|4|5|6|7|left\\rPI\n\n{"raw": "MSH|^~\\\\&|||||||ORU|whole\\rPID"}\n')
    assert list(messages(file)) == ["whole"]
