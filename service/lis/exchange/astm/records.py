"""A report as ASTM records (CLSI LIS02-A2, once E1394) in frames (LIS01-A2, once E1381). Pure: no I/O, no clock.

Results only. docs/astm.md shows a session."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from itertools import count
from typing import Final

from service.lis.domain.report import Patient, Report, ReportStatus
from service.lis.exchange.hl7.timestamps import is_date, parse_timestamp
from service.lis.exchange.observations import (
    BY_PERSON,
    PANEL,
    CodeOf,
    Result,
    ResultStatus,
    not_measured,
    person_of_result,
    provenance_notes,
    results,
)
from service.lis.exchange.reference_ranges import NO_RANGES, ReferenceRanges

STX, ETX, EOT, ENQ, ACK, NAK, ETB = b"\x02", b"\x03", b"\x04", b"\x05", b"\x06", b"\x15", b"\x17"
CR, CRLF = b"\r", b"\r\n"
#: Maximum characters of a record in one frame (LIS01-A2).
TEXT_BYTES: Final = 240
#: Allowed characters: Latin-1 without 127 and 255 (LIS02-A2), and without control characters.
_ALLOWED: Final = frozenset(chr(code) for code in (*range(32, 127), *range(160, 255)))
#: Compatibility forms of East Asian text: the same characters in another width (UAX #44, 5.7.3).
_WIDTHS: Final = ("<wide> ", "<narrow> ", "<small> ")


def frames(message: str) -> Iterator[bytes]:
    """The frames of a message: one or more for each record, numbered 1, 2, … 7, 0, 1, …"""
    numbers = count(1)
    for record in message.removesuffix("\r").split("\r"):
        # Not `latin`: a character that it turns into a delimiter would break the record.
        text = "".join(char if char in _ALLOWED else "?" for char in record).encode("latin-1") + CR
        parts = [text[start : start + TEXT_BYTES] for start in range(0, len(text), TEXT_BYTES)]
        for part in parts[:-1]:
            yield frame(next(numbers), part, ETB)
        yield frame(next(numbers), parts[-1], ETX)


def frame(number: int, text: bytes, end: bytes) -> bytes:
    """One frame. `end` is ETB if the record continues in the next frame, ETX if it ends."""
    checked = str(number % 8).encode() + text + end
    return STX + checked + checksum(checked) + CRLF


def checksum(checked: bytes) -> bytes:
    """Sum modulo 256 from the frame number to the end character, as two hexadecimal digits."""
    return b"%02X" % (sum(checked) % 256)


def latin(text: str) -> str:
    """Text in the allowed characters. Apply it before escaping: "｜" becomes "|", a delimiter.

    A letter loses its diacritics (ř becomes r), a wide character becomes the usual one, a control character a space.
    Everything else becomes "?": a similar digit or sign would be another value (10⁴, ≠).
    """
    return "".join(_nearest(char) for char in unicodedata.normalize("NFC", text))


def _nearest(char: str) -> str:
    if char in _ALLOWED:
        return char
    if unicodedata.category(char) in ("Cc", "Zl", "Zp"):
        return " "
    found = unicodedata.decomposition(char)
    if found.startswith(_WIDTHS):
        usual = unicodedata.normalize("NFKC", char)
    else:
        usual = "" if found.startswith("<") else unicodedata.normalize("NFD", char)[0]
        usual = usual if usual.isalpha() else ""
    return usual if usual in _ALLOWED else "?"


VERSION: Final = "LIS2-A2"
#: H-2: repeat, component and escape delimiter. The field delimiter | precedes it.
DELIMITERS: Final = r"\^&"
_ESCAPES: Final = {"|": "&F&", "^": "&S&", "\\": "&R&", "&": "&E&"}
_ESCAPED: Final = str.maketrans(_ESCAPES)
_PLAIN: Final = {escape: char for char, escape in _ESCAPES.items()}
_STATUS: Final = {ReportStatus.PRELIMINARY: "P", ReportStatus.FINAL: "F", ReportStatus.CORRECTED: "C"}
#: R-9. ASTM has no code for a deleted result; X: it cannot be obtained.
_RESULT_STATUS: Final = {
    ResultStatus.PRELIMINARY: "P",
    ResultStatus.FINAL: "F",
    ResultStatus.CORRECTED: "C",
    ResultStatus.WITHDRAWN: "X",
}
_SEXES: Final = frozenset({"F", "M"})


@dataclass(frozen=True, slots=True)
class AstmForm:
    """Settings of the ASTM records.

    ASTM times have no time zone: they are written in `zone`, or in this machine's.
    """

    sender: str = "MARROWLENS"
    receiver: str = "LIS"
    processing_id: str = "P"
    specimen_type: str = "BMA"
    zone: tzinfo | None = None
    ranges: ReferenceRanges = NO_RANGES


def encode_report(
    report: Report, code_of: CodeOf, form: AstmForm, control_id: str, earlier: Sequence[Report] = ()
) -> str:
    """The records of one report, each ended by a carriage return; deterministic.

    Args:
        earlier: reports of the specimen that were sent to this receiver, oldest first.
    """
    return "".join(f"{_record(fields)}\r" for fields in _Writer(report, code_of, form, earlier).records(control_id))


def escaped(text: str) -> str:
    """Text for a component: in the allowed characters, with delimiters escaped."""
    return latin(text).translate(_ESCAPED)


def plain(component: str) -> str:
    """The text of an escaped component."""
    return re.sub(r"&[FSRE]&", lambda found: _PLAIN[found[0]], component)


def _record(fields: dict[int, str]) -> str:
    return "|".join(fields.get(number, "") for number in range(1, max(fields) + 1))


def _components(*parts: str | None) -> str:
    """Components, without empty ones at the end."""
    return "^".join(escaped(part or "") for part in parts).rstrip("^")


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the records of one report, as fields by number (LIS02-A2); 1 is the record type."""

    report: Report
    code_of: CodeOf
    form: AstmForm
    earlier: Sequence[Report]

    def records(self, control_id: str) -> Iterator[dict[int, str]]:
        yield self._header(control_id)
        yield self._patient(self.report.patient)
        yield self._order()
        correction = f"Corrected: {self.report.correction}" if self.report.correction else ""
        comment = (self.report.comment or "").splitlines()
        notes = [*not_measured(self.report), *provenance_notes(self.report)]
        yield from _comments(*correction.splitlines(), *comment, *notes)
        for sequence, result in enumerate(results(self.report, self.earlier), 1):
            yield self._result(sequence, result)
            yield from _comments(*_notes(result))
        yield {1: "L", 2: "1", 3: "N"}

    def _header(self, control_id: str) -> dict[int, str]:
        form = self.form
        sent = {3: escaped(control_id), 5: escaped(form.sender), 10: escaped(form.receiver), 12: form.processing_id}
        return {1: "H", 2: DELIMITERS, **sent, 13: VERSION, 14: self._moment(self.report.created_at)}

    def _patient(self, patient: Patient) -> dict[int, str]:
        born = _digits(patient.birth_date.isoformat()) if patient.birth_date else ""
        sex = patient.sex if patient.sex in _SEXES else "U"
        name = _components(patient.family, patient.given)
        return {1: "P", 2: "1", 3: escaped(patient.identifier), 6: name, 8: born, 9: sex if patient.sex else ""}

    def _order(self) -> dict[int, str]:
        report = self.report
        return {
            1: "O",
            2: "1",
            3: escaped(report.number),
            5: self._ordered_test(),
            8: self._collected(),
            9: self._collected_until(),
            16: escaped(self.form.specimen_type),
            23: self._moment(report.created_at),
            26: _STATUS[report.status],
        }

    def _ordered_test(self) -> str:
        """O-5, the test: the code in the order, or else the code of the panel."""
        order = self.report.order
        if order.service_code is None:
            return self._test(PANEL, "Bone marrow differential")
        if order.service_system == "LN":
            return _components(order.service_code, order.service_name, "LN")
        return _components(None, order.service_name, None, order.service_code)

    def _test(self, key: str, name: str) -> str:
        """A universal test id: the LOINC code, if there is one, and the local key."""
        coded = self.code_of(key, name)
        loinc = (coded.code, coded.display, "LN") if coded.system == "loinc" else (None, name, None)
        return _components(*loinc, key)

    def _result(self, sequence: int, result: Result) -> dict[int, str]:
        report, observation = self.report, result.observation
        is_human = result.key in BY_PERSON  # not by the instrument
        author = person_of_result(report, result.key)
        reference = self.form.ranges.reference(report, observation)
        return {
            1: "R",
            2: str(sequence),
            3: self._test(result.key, observation.name),
            4: "" if observation.value is None else escaped(str(observation.value)),
            5: escaped(observation.unit or ""),
            6: f"{reference.low:g} to {reference.high:g}" if reference else "",
            7: reference.flag if reference else "",
            9: _RESULT_STATUS[result.status],
            11: _components(author.name if author else None, report.signed_by),
            13: self._moment(report.created_at),
            14: "" if is_human else escaped(self.form.sender),
        }

    def _collected(self) -> str:
        """The collection time, as a date if the order had one."""
        sent = self.report.collected_as
        return sent[:8] if sent is not None and is_date(sent) else self._moment(self.report.collected_at)

    def _collected_until(self) -> str:
        """The end of a collection that took time."""
        sent = self.report.collected_until_as
        if sent is None:
            return ""
        return sent[:8] if is_date(sent) else self._moment(parse_timestamp(sent, self.form.zone))

    def _moment(self, moment: datetime | None) -> str:
        if moment is None:
            return ""
        return _digits(moment.astimezone(self.form.zone).replace(tzinfo=None).isoformat(timespec="seconds"))


def _notes(result: Result) -> tuple[str, ...]:
    return ("Withdrawn",) if result.status is ResultStatus.WITHDRAWN else result.observation.notes


def _digits(iso: str) -> str:
    """A date or time without punctuation. `strftime` writes years before 1000 with fewer than four digits."""
    return re.sub("[-:T]", "", iso)


def _comments(*lines: str) -> Iterator[dict[int, str]]:
    """Comment records for the previous record, one per line: from the instrument, generic."""
    texts = [escaped(line) for line in lines if line.strip()]
    for sequence, line in enumerate(texts, 1):
        yield {1: "C", 2: str(sequence), 3: "I", 4: line, 5: "G"}
