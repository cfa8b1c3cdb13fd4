"""The code table: claims, errors in a laboratory's own table, and its listing."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from model.contract import CLASSES, CellClass
from service.cli.lis import codes
from service.lis.exchange.code_map import BUNDLED, CodeMap, CodeTableError, has_check_digit
from service.lis.exchange.observations import METHOD, PANEL, Coded

TEXT = BUNDLED.read_text(encoding="utf-8")
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def table(text: str) -> Path:
        path = tmp_path / "own.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return table


def edited(key: str, /, **cells: str) -> str:
    """The bundled table with some cells of one row changed."""
    head, *lines = TEXT.partition("key,")[0], *TEXT.splitlines()[2:]
    rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
    out = io.StringIO()
    table = csv.DictWriter(out, rows[0].keys(), lineterminator="\n")
    table.writeheader()
    table.writerows(row | cells if row["key"] == key else row for row in rows)
    return head + out.getvalue()


def refused(path: Path) -> CodeTableError:
    with pytest.raises(CodeTableError) as caught:
        CodeMap.load(path)
    assert caught.value.path == path
    return caught.value


def line_of(path: Path, key: str) -> int:
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if line.startswith(f"{key},"))


def test_manual_count_is_said_only_once_a_person_has_signed() -> None:
    table = CodeMap.load()
    before, after = table.code_of(signed=False), table.code_of(signed=True)
    assert before("LYT", "Lymphocyte") == Coded("local", "LYT", "Lymphocyte")
    assert after("LYT", "Lymphocyte") == Coded("loinc", "11108-8", "Lymphocytes/cells in Bone marrow by Manual count")
    assert before("BLA", "Blast") == after("BLA", "Blast") == Coded("loinc", "11150-0", "Blasts/cells in Bone marrow")
    said = [row for row in table.rows.values() if "Manual count" in row.long_name]
    assert len(said) == 10
    assert all(row.manual_count for row in said)
    assert all(before(row.key, "").system == "local" for row in said)


def test_what_is_doubtful_local_or_of_another_class_list_is_sent_under_its_own_name() -> None:
    code_of = CodeMap.load().code_of(signed=True)
    for key in ("PMO", "EBO", METHOD, "HEMATOGONE"):
        assert code_of(key, "its name") == Coded("local", key, "its name")


@pytest.mark.parametrize(
    ("least", "loinc", "local"),
    [
        ("verified", {"BAS", "BLA", PANEL}, {"PLM", "MYB", "PMO"}),
        ("two-sources", {"BAS", "PLM"}, {"MYB", "PMO"}),
        ("single-source", {"BAS", "PLM", "MYB"}, {"PMO"}),
    ],
)
def test_a_code_below_the_least_status_is_local(least: str, loinc: set[str], local: set[str]) -> None:
    code_of = CodeMap.load(least_status=least).code_of(signed=True)
    assert {key for key in loinc | local if code_of(key, "").system == "loinc"} == loinc


def test_no_two_results_share_a_code() -> None:
    sent = CodeMap.load().result_codes()
    for codes_of in ([each.preliminary for each in sent], [each.signed for each in sent]):
        assert len({(coded.system, coded.code) for coded in codes_of}) == len(sent)


def test_what_would_be_sent_says_what_to_look_at() -> None:
    found = {each.key: each for each in CodeMap.load().result_codes()}
    assert set(found) >= {each.code for each in CLASSES if each.countable != "never"}
    assert "ART" not in found
    assert found["BLA"].warnings == found["EBO"].warnings == ()
    assert found["BAS"].warnings == ("means by Manual count: sent only in signed reports",)
    assert found["PMO"].warnings[0] == "11120-3 is doubtful: not sent"
    assert "11123-7" in found["PMO"].warnings[1]


def test_another_class_list_is_told_which_of_its_classes_the_table_does_not_know() -> None:
    found = CodeMap.load().result_codes([CellClass(code="HEM", name="Hematogone"), CLASSES[3]])
    assert [each.key for each in found[:2]] == ["HEM", "BLA"]
    assert found[0].signed == Coded("local", "HEM", "Hematogone")
    assert found[0].warnings == ("not in the table: sent with its own key",)


def test_a_laboratory_can_verify_a_code_of_its_own(write: Write) -> None:
    own = edited("PMO", loinc="11123-7", status="verified", verified_by="Dr. A. Muster 2026-05-04")
    table = CodeMap.load(write(own.replace("# version: 1", "# version: 2026-05 lab A", 1)), "verified")
    assert table.code_of(signed=True)("PMO", "").code == "11123-7"
    assert table.version == "2026-05 lab A"


def test_a_table_that_a_spreadsheet_saved_is_read(write: Write) -> None:
    saved = "\ufeff" + TEXT.replace("# version: 1\n", "# version: 1,,,,,,\n").replace("\n", "\r\n") + ",,,,,,\r\n"
    assert CodeMap.load(write(saved)) == CodeMap("1", CodeMap.load(write(saved)).rows, "single-source")
    assert set(CodeMap.load(write(saved)).rows) == set(CodeMap.load().rows)


@pytest.mark.parametrize(
    ("key", "cells", "said"),
    [
        ("LYT", {"status": "verifed"}, "unknown status verifed; did you mean verified?"),
        ("LYT", {"status": ""}, "unknown status (empty); did you mean"),
        ("LYT", {"loinc": "11108-7"}, "LYT: invalid LOINC code 11108-7: wrong check digit"),
        ("LYT", {"loinc": "11-Aug"}, "LYT: invalid LOINC code 11-Aug"),
        ("LYT", {"loinc": ""}, "LYT: invalid LOINC code (empty)"),
        ("LYT", {"long_name": ""}, "LYT: long_name is empty"),
        ("LYT", {"manual_count": "maybe"}, "LYT: manual_count must be yes or no"),
        ("LYT", {"manual_count": "no"}, "LYT: the long name says by Manual count; set manual_count to yes"),
        ("LYT", {"verified_by": " "}, "LYT: verified_by is empty; name the source of the status verified"),
        ("NGS", {"loinc": "56960-8"}, "NGS: 56960-8 must not be used: segmented neutrophils of leukocytes"),
        ("LYT", {"status": "local"}, "LYT: a local code has no LOINC code; empty the cell"),
        ("LYT", {"status": "do-not-use"}, "LYT: the status do-not-use and the key AVOID go together"),
        ("MYB", {"key": "MYC"}, "no row for MYB; add `MYB,,,,local,,`"),
        ("METHOD", {"key": "METHODS"}, "no row for METHOD"),
        ("MYB", {"key": "LYT"}, "LYT is already in line"),
        ("MYB", {"loinc": "11108-8"}, "MYB: 11108-8 is already the code of LYT in line"),
    ],
)
def test_a_wrong_table_says_where_and_what_to_do(write: Write, key: str, cells: dict[str, str], said: str) -> None:
    path = write(edited(key, **cells))
    error = refused(path)
    assert error.reason.startswith(said)
    assert str(error).startswith(f"{path}, line {error.line}: ")
    if "key" not in cells:
        assert error.line == line_of(path, key)


def test_a_do_not_use_row_of_the_laboratory_counts_too(write: Write) -> None:
    error = refused(write(TEXT + "AVOID,11108-8,,,do-not-use,us,not here\n"))
    assert error.reason.startswith("LYT: 11108-8 must not be used: not here")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "the first line must be the table's version"),
        (TEXT.partition("\n")[2], 1, "the first line must be the table's version"),
        (TEXT.replace(",", ";"), 3, "wrong columns key;loinc;long_name"),
        ("# version: 1\n", 2, "wrong columns"),
        ("# version: 1\nkey,loinc,long_name,manual_count,status,verified_by,note\n", 1, "no row for ABE"),
        (TEXT.replace("ABE,,,,local,,no code", "ABE,,,,local,,no, code"), 4, "8 cells instead of 7"),
    ],
)
def test_what_is_no_table_is_refused(write: Write, text: str, line: int, said: str) -> None:
    error = refused(write(text))
    assert (error.line, error.reason[: len(said)]) == (line, said)


def test_a_table_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "none.csv").reason
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe# version")
    assert "cannot be read as UTF-8" in refused(tmp_path / "bytes.csv").reason


# Codes of LOINC's own documents and of the laboratory's table.
@pytest.mark.parametrize("loinc", ["4544-3", "718-7", "2345-7", "24318-8", "47286-0", "11138-5"])
def test_check_digits_of_known_codes_are_right(loinc: str) -> None:
    assert has_check_digit(loinc)


@given(st.from_regex(r"[0-9]{1,7}", fullmatch=True), st.data())
def test_one_wrong_digit_shows(number: str, data: st.DataObject) -> None:
    right = [digit for digit in range(10) if has_check_digit(f"{number}-{digit}")]
    assert len(right) == 1
    at = data.draw(st.integers(0, len(number) - 1))
    other = data.draw(st.sampled_from([digit for digit in "0123456789" if digit != number[at]]))
    assert not has_check_digit(f"{number[:at]}{other}{number[at + 1 :]}-{right[0]}")


def shown(*options: str, **environment: str) -> Result:
    app = typer.Typer()
    app.command()(codes)
    return CliRunner().invoke(app, list(options), env=environment)


def test_the_command_shows_a_table_to_a_person(artefact: Path) -> None:
    told = shown(MARROWLENS_ARTEFACT=str(artefact))
    assert told.exit_code == 0, told.output
    lines = [line.split() for line in told.stdout.splitlines()]
    assert ["LYT", "verified", "LYT", "LOINC", "11108-8"] in lines
    assert ["PMO", "doubtful", "PMO", "PMO"] in lines
    assert "PMO: 11120-3 is doubtful: not sent" in told.stdout
    assert "urn:marrowlens:codes in FHIR" in told.stdout


def test_the_command_tells_machines_the_same(artefact: Path) -> None:
    document = json.loads(shown("--json", MARROWLENS_ARTEFACT=str(artefact)).stdout)
    rows = list(csv.DictReader(io.StringIO(shown("--csv", MARROWLENS_ARTEFACT=str(artefact)).stdout)))
    assert (document["version"], document["least_status"]) == ("1", "single-source")
    assert [row["key"] for row in rows] == [each["key"] for each in document["codes"]]
    assert [row["signed"] for row in rows] == [each["signed"]["code"] for each in document["codes"]]
    assert [row["preliminary_system"] for row in rows] == [each["preliminary"]["system"] for each in document["codes"]]


def test_the_command_reads_the_laboratorys_settings(write: Write, artefact: Path) -> None:
    least = shown("--json", MARROWLENS_ARTEFACT=str(artefact), MARROWLENS_LIS_LEAST_CODE_STATUS="verified")
    by_key = {each["key"]: each for each in json.loads(least.stdout)["codes"]}
    assert by_key["PLM"]["signed"]["system"] == "local"
    assert by_key["PLM"]["warnings"][0] == "11118-7 is two-sources: not sent"
    own = write(edited("LYT", loinc="11108-7"))
    told = shown(MARROWLENS_LIS_CODES=str(own), MARROWLENS_ARTEFACT=str(artefact))
    assert told.exit_code == 2
    assert told.stderr.startswith(f"marrowlens: {own}, line {line_of(own, 'LYT')}: LYT: invalid LOINC code 11108-7")
