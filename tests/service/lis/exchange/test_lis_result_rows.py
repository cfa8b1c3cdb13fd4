"""A result keeps its row at the receiver: a system that files by order number, OBX-3.1 and OBX-4 has the last report.

`File` stands for a laboratory system: it checks every transition as strict ones do. The same holds for FHIR, where a
row is the identifier of an Observation.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from laboratory import SENT
from reported import report

from examples import examples
from model.contract import CLASSES
from service.config.lis import LisSettings
from service.lis.domain.differential import CountingRules, Tally, specimen_differential
from service.lis.domain.report import Report, ReportModel, ReportStatus
from service.lis.exchange.code_map import CodeMap
from service.lis.exchange.fhir.bundle import FhirForm, report_bundle
from service.lis.exchange.hl7.results import encode_report
from service.lis.exchange.observations import observations

PRELIMINARY, FINAL, CORRECTED = ReportStatus
CODES = CodeMap.load()
COUNTS = {"BLA": 4, "LYT": 12, "NGS": 40, "EBO": 30}
Row = tuple[str, str, str]


class File:
    """Results by filler number, OBX-3.1 and OBX-4: value and status."""

    def __init__(self) -> None:
        self.rows: dict[Row, tuple[str, str]] = {}

    def take(self, message: str) -> None:
        lines = [line.split("|") + [""] * 20 for line in message.split("\r")]
        obr = next(fields for fields in lines if fields[0] == "OBR")
        seen = set()
        for fields in lines:
            if fields[0] == "OBX":
                row = obr[3], fields[3].split("^")[0], fields[4]
                assert row not in seen, f"{row} twice in a message"
                seen.add(row)
                self._file(row, fields[5], fields[11])
        assert not set(self.rows) - seen, f"stale: {set(self.rows) - seen}"

    def _file(self, row: Row, value: str, status: str) -> None:
        before, was = self.rows.get(row, ("", ""))
        assert status in "PFCD", f"{row} has the status {status}"
        assert (value == "") == (status == "D"), f"{row} is {status} with the value {value!r}"
        assert status != "C" or was in ("F", "C", "D"), f"a correction of {row}, which was never final"
        assert status != "P" or was in ("", "P", "D"), f"{row} is preliminary again"
        assert status != "D" or was, f"{row} is withdrawn and was never sent"
        # A result of the same value may be corrected: its count or interval may have changed.
        assert status != "F" or was not in ("F", "C") or value == before, f"{row} changed without a correction"
        self.rows[row] = value, status

    def values(self) -> dict[tuple[str, str], str]:
        """Key and number → value of every row that is not withdrawn."""
        return {(code, number): value for (_, code, number), (value, status) in self.rows.items() if status != "D"}


def version(status: ReportStatus, counts: dict[str, int], *, read: bool = False, **fields: Any) -> Report:
    """A report; with `read` a person has read every cell, so that unsupported classes have values."""
    cells = sum(counts.values())
    unsupported = () if read else ("EBO", "PLM")
    differential = specimen_differential(Tally(counts, cells if read else 0, 0), CLASSES, unsupported, CountingRules())
    return report(status, differential=differential, **fields)


def messages(reports: Sequence[Report]) -> list[str]:
    """The reports of one specimen as a receiver gets them."""
    return [
        encode_report(
            each,
            CODES.code_of(each.differential.read_by_person == each.differential.cells),
            LisSettings(),
            control_id="1",
            sent_at=SENT,
            earlier=reports[:at],
        )
        for at, each in enumerate(reports)
    ]


def expected(of: Report) -> dict[tuple[str, str], str]:
    models = [each for each in observations(of) if each.key == "MODEL"]
    values = {(each.key, ""): str(each.value) for each in observations(of) if each.value is not None}
    values = {row: value.replace("^", "\\S\\") for row, value in values.items() if row[0] != "MODEL"}
    return values | {("MODEL", str(at)): str(each.value) for at, each in enumerate(models, 1)}


def filed(*reports: Report) -> File:
    file = File()
    for message in messages(reports):
        file.take(message)
    return file


def test_a_class_keeps_its_row_when_its_loinc_code_is_claimed_only_after_the_reading() -> None:
    suggested, read = version(PRELIMINARY, COUNTS), version(FINAL, COUNTS, read=True)
    before, after = messages([suggested, read])
    assert "|LYT^Lymphocyte^99MARROWLENS|" in before
    assert "|LYT^Lymphocyte^99MARROWLENS^11108-8^Lymphocytes/cells in Bone marrow by Manual count^LN|" in after
    assert filed(suggested, read).values() == expected(read)


def test_only_what_changed_is_corrected() -> None:
    signed = version(FINAL, COUNTS, read=True)
    amended = version(CORRECTED, COUNTS | {"BLA": 6, "LYT": 10}, read=True)
    rows = filed(signed, amended).rows
    corrected = {code for (_, code, _), (_, status) in rows.items() if status == "C"}
    assert corrected == {"BLA", "LYT", "LINEAGE_LYMPHOID", "LINEAGE_OTHER"}


def test_what_was_taken_back_is_withdrawn_and_stays_so() -> None:
    with_count = version(FINAL, COUNTS, read=True, megakaryocytes=14)
    without = version(CORRECTED, COUNTS, read=True, megakaryocytes=None)
    again = version(CORRECTED, COUNTS, read=True, megakaryocytes=9)
    file = filed(with_count, without)
    assert file.rows["F-12", "MEGAKARYOCYTES", ""] == ("", "D")
    assert filed(with_count, without, without).rows["F-12", "MEGAKARYOCYTES", ""] == ("", "D")
    assert filed(with_count, without, again).rows["F-12", "MEGAKARYOCYTES", ""] == ("9", "C")


def test_a_class_that_is_no_longer_measured_is_withdrawn() -> None:
    read, unread = version(FINAL, COUNTS, read=True), version(CORRECTED, COUNTS)
    rows = filed(read, unread).rows
    assert rows["F-12", "EBO", ""][1] == rows["F-12", "LINEAGE_ERYTHROID", ""][1] == "D"


def test_a_receiver_can_be_told_that_it_was_wrong_instead() -> None:
    reports = [version(FINAL, COUNTS, megakaryocytes=14), version(CORRECTED, COUNTS, megakaryocytes=None)]
    written = encode_report(
        reports[1],
        CODES.code_of(False),
        LisSettings(hl7_withdrawn="W"),
        control_id="1",
        sent_at=SENT,
        earlier=reports[:1],
    )
    (row,) = (line for line in written.split("\r") if "MEGAKARYOCYTES" in line)
    assert row.split("|")[11] == "W"


counts = st.dictionaries(st.sampled_from(["BLA", "LYT", "NGS", "EBO", "PLM", "ART"]), st.integers(0, 9), min_size=1)
models = st.lists(st.integers(0, 3), max_size=3, unique=True).map(
    lambda numbers: [ReportModel(name="m", version="1", sha256=f"{number:064x}") for number in numbers]
)


@st.composite
def lives(draw: st.DrawFn) -> list[Report]:
    """The reports of one specimen: preliminary ones, a final one, corrections; anything may change in between."""
    statuses = [PRELIMINARY] * draw(st.integers(0, 2)) + [FINAL] * draw(st.integers(0, 1))
    statuses += [CORRECTED] * draw(st.integers(0, 3)) if FINAL in statuses else []
    return [
        version(
            status,
            draw(counts),
            read=draw(st.booleans()),
            megakaryocytes=draw(st.none() | st.integers(0, 20)),
            models=draw(models),
        )
        for status in statuses
    ]


@settings(max_examples=examples(60), deadline=None)
@given(lives().filter(bool))
def test_the_receivers_rows_are_the_last_report(reports: list[Report]) -> None:
    assert filed(*reports).values() == expected(reports[-1])


@settings(max_examples=examples(30), deadline=None)
@given(lives().filter(bool))
def test_a_fhir_server_has_the_last_report_too(reports: list[Report]) -> None:
    stored: dict[str, Any] = {}
    for at, each in enumerate(reports):
        bundle = report_bundle(each, CODES.code_of(False), FhirForm("urn:codes"), (), reports[:at])
        observed = [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "Observation"]
        new = {one["identifier"][0]["value"]: one for one in observed}
        assert set(stored) <= set(new), "an observation was not sent again"
        stored |= new
    valid = {name: one for name, one in stored.items() if one["status"] != "entered-in-error"}
    values = [one.get("valueQuantity", {}).get("value", one.get("valueString")) for one in valid.values()]
    sent = Counter(each.value for each in observations(reports[-1]) if each.value is not None)
    assert Counter(value for value in values if value is not None) == sent
    (panel,) = (one for one in valid.values() if "hasMember" in one)
    members = {each["reference"] for each in panel["hasMember"]}
    assert members == set(valid) - {panel["identifier"][0]["value"]}
