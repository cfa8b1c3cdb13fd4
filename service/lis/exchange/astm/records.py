"""A report as ASTM records (CLSI LIS02-A2, once E1394) in frames (LIS01-A2, once E1381). Pure: no I/O, no clock.

Results only. docs/astm.md shows a session."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from itertools import count
from typing import Final

from service.lis.domain.report import Patient, Report, ReportStatus
from service.lis.exchange.observations import PANEL, CodeOf, Observation, observations

STX, ETX, EOT, ENQ, ACK, NAK, ETB = b"\x02", b"\x03", b"\x04", b"\x05", b"\x06", b"\x15", b"\x17"
CR, CRLF = b"\r", b"\r\n"
#: Most characters of a record in one frame (LIS01-A2).
TEXT_BYTES: Final = 240
#: What a record may hold: LIS02-A2 takes Latin-1 without 127 and 255; of it no control character, in either half.
_ALLOWED: Final = frozenset(chr(code) for code in (*range(32, 127), *range(160, 255)))
#: Compatibility forms of a whole alphabet for East Asian text: the same characters in another width (UAX #44, 5.7.3).
_WIDTHS: Final = ("<wide> ", "<narrow> ", "<small> ")


def frames(message: str) -> Iterator[bytes]:
    """Every record of a message in a frame of its own, or in as many as it needs; numbered 1, 2, … 7, 0, 1, …"""
    numbers = count(1)
    for record in message.removesuffix("\r").split("\r"):
        # `latin` was there before the delimiters were written: here a letter that became one would break the record.
        text = "".join(char if char in _ALLOWED else "?" for char in record).encode("latin-1") + CR
        parts = [text[start : start + TEXT_BYTES] for start in range(0, len(text), TEXT_BYTES)]
        for part in parts[:-1]:
            yield frame(next(numbers), part, ETB)
        yield frame(next(numbers), parts[-1], ETX)


def frame(number: int, text: bytes, end: bytes) -> bytes:
    """One frame: `end` is ETB when the record goes on in the next one, ETX when it ends here."""
    checked = str(number % 8).encode() + text + end
    return STX + checked + checksum(checked) + CRLF


def checksum(checked: bytes) -> bytes:
    """The sum, modulo 256, of everything from the frame's number to its end character, in two digits of hex."""
    return b"%02X" % (sum(checked) % 256)


def latin(text: str) -> str:
    """Text in the characters that a record may hold. It comes before the escapes: "｜" becomes "|", a delimiter.

    A letter loses its marks (ř becomes r), a character of another width becomes the usual one, a control character a
    space. Everything else is a question mark: a digit or a sign that looks alike would be another value (10⁴, ≠).
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
#: In H-2: of repeats, of components, and the escape. Of fields it is |, the character before.
DELIMITERS: Final = r"\^&"
_ESCAPES: Final = {"|": "&F&", "^": "&S&", "\\": "&R&", "&": "&E&"}
_ESCAPED: Final = str.maketrans(_ESCAPES)
_PLAIN: Final = {escape: char for char, escape in _ESCAPES.items()}
_STATUS: Final = {ReportStatus.PRELIMINARY: "P", ReportStatus.FINAL: "F", ReportStatus.CORRECTED: "C"}
#: A result that cannot be had (R-9).
_NOT_DONE: Final = "X"
_SEXES: Final = frozenset({"F", "M"})


@dataclass(frozen=True, slots=True)
class AstmForm:
    """How one laboratory writes its reports.

    Times of ASTM have no zone: they are written in `zone`, or in this computer's own.
    """

    sender: str = "MARROWLENS"
    receiver: str = "LIS"
    processing_id: str = "P"
    specimen_type: str = "BMA"
    zone: tzinfo | None = None


def encode_report(report: Report, code_of: CodeOf, form: AstmForm, control_id: str) -> str:
    """The records of one report, each ended by a carriage return. The same arguments give the same text."""
    return "".join(f"{_record(fields)}\r" for fields in _Writer(report, code_of, form).records(control_id))


def escaped(text: str) -> str:
    """Text as it stands within a component: no delimiter, no control character, and nothing that becomes one."""
    return latin(text).translate(_ESCAPED)


def plain(component: str) -> str:
    """What `escaped` was given, in the characters of `latin`."""
    return re.sub(r"&[FSRE]&", lambda found: _PLAIN[found[0]], component)


def _record(fields: dict[int, str]) -> str:
    return "|".join(fields.get(number, "") for number in range(1, max(fields) + 1))


def _components(*parts: str | None) -> str:
    """Components, of which empty ones at the end are left out."""
    return "^".join(escaped(part or "") for part in parts).rstrip("^")


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the records of one report. Fields are numbered as LIS02-A2 numbers them; 1 is the record's letter."""

    report: Report
    code_of: CodeOf
    form: AstmForm

    def records(self, control_id: str) -> Iterator[dict[int, str]]:
        yield self._header(control_id)
        yield self._patient(self.report.patient)
        yield self._order()
        correction = f"Corrected: {self.report.correction}" if self.report.correction else ""
        yield from _comments(*correction.splitlines(), *(self.report.comment or "").splitlines())
        for sequence, result in enumerate(observations(self.report), 1):
            yield self._result(sequence, result)
            yield from _comments(*result.notes)
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
            5: self._asked(),
            8: self._moment(report.collected_at),
            16: escaped(self.form.specimen_type),
            23: self._moment(report.created_at),
            26: _STATUS[report.status],
        }

    def _asked(self) -> str:
        """What was ordered, in the words of who ordered it, or the panel."""
        order = self.report.order
        if order.service_code is None:
            return self._test(PANEL, "Bone marrow differential")
        if order.service_system == "LN":
            return _components(order.service_code, order.service_name, "LN")
        return _components(None, order.service_name, None, order.service_code)

    def _test(self, key: str, name: str) -> str:
        """A universal test id: a LOINC code where one is claimed, and always the laboratory's own key behind it."""
        coded = self.code_of(key, name)
        loinc = (coded.code, coded.display, "LN") if coded.system == "loinc" else (None, name, None)
        return _components(*loinc, key)

    def _result(self, sequence: int, result: Observation) -> dict[int, str]:
        report = self.report
        return {
            1: "R",
            2: str(sequence),
            3: self._test(result.key, result.name),
            4: "" if result.value is None else escaped(str(result.value)),
            5: escaped(result.unit or ""),
            9: _NOT_DONE if result.value is None else _STATUS[report.status],
            11: _components(None, report.signed_by),
            13: self._moment(report.created_at),
            14: escaped(self.form.sender),
        }

    def _moment(self, moment: datetime | None) -> str:
        if moment is None:
            return ""
        return _digits(moment.astimezone(self.form.zone).replace(tzinfo=None).isoformat(timespec="seconds"))


def _digits(iso: str) -> str:
    """A day or a time without its punctuation. `strftime` would write a year before 1000 in fewer than four digits."""
    return re.sub("[-:T]", "", iso)


def _comments(*lines: str) -> Iterator[dict[int, str]]:
    """Comment records below the record before them, one a line: from the instrument, generic."""
    said = [escaped(line) for line in lines if line.strip()]
    for sequence, line in enumerate(said, 1):
        yield {1: "C", 2: str(sequence), 3: "I", 4: line, 5: "G"}
