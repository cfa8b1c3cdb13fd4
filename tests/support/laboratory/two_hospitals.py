"""Two hospitals with the same patient, order and tube numbers, one laboratory, and a receiver that files its reports.

`World` does one step after another and checks after each that it touched its own patient and order only.
"""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import orjson
from lab import classified, user
from sender import Sender
from sqlalchemy import select

from model.contract import Manifest
from service.errors import ServiceError
from service.lis.domain.report import CellReading
from service.lis.schemas import ChangeSpecimen, ReadCells, ReportSpecimen, SignSpecimen, Specimen, WithReason
from service.lis.storage import outbox
from service.lis.storage.tables import MessageRow, ReportRow, SpecimenRow
from service.lis.use_cases import UseCases

HOSPITALS = ("HOSPITAL", "CLINIC")
PERSON = user("dr.beispiel")
Row = tuple[str, str, str]
#: A person's patient and order: hospital, patient's number, order's number.
Owner = tuple[str, int, int]


@dataclass
class Receiver:
    """Files results by filler number, OBX-3.1 and OBX-4, as systems of laboratories do."""

    rows: dict[Row, str] = field(default_factory=dict)
    owners: dict[Row, str] = field(default_factory=dict)

    def take(self, message: str, specimen: str) -> None:
        """File a report. No report may touch a row of another specimen."""
        lines = [line.split("|") + [""] * 20 for line in message.split("\r")]
        filler = next(fields[3] for fields in lines if fields[0] == "OBR")
        for fields in lines:
            if fields[0] == "OBX":
                row = filler, fields[3].split("^")[0], fields[4]
                assert self.owners.setdefault(row, specimen) == specimen, f"{row} is a result of another specimen"
                if fields[11] == "D":
                    self.rows.pop(row, None)
                else:
                    self.rows[row] = fields[5]

    def of(self, specimen: str) -> dict[str, str]:
        """The results of a specimen by code."""
        return {row[1]: value for row, value in self.rows.items() if self.owners[row] == specimen}


def written(report: Any) -> dict[str, str]:
    """The values of a report by code, read from its JSON."""
    differential = report["differential"]
    shares = {each["code"]: each for each in differential["classes"]}
    shares |= {f"LINEAGE_{each['lineage'].upper()}": each for each in differential["lineages"]}
    found = {code: f"{each['percent']:.1f}" for code, each in shares.items() if each["supported"] and "percent" in each}
    found["COUNTED"] = str(differential["counted"])
    if "value" in differential["me_ratio"] and differential["me_ratio"]["supported"]:
        found["ME_RATIO"] = str(round(differential["me_ratio"]["value"], 2))
    if "megakaryocytes" in report:
        found["MEGAKARYOCYTES"] = str(report["megakaryocytes"])
    return found


class World:
    """The laboratory and what each step may have changed in it."""

    def __init__(self, front: UseCases, manifest: Manifest, namespaces: bool) -> None:
        self.front = front
        self.sender = Sender(front)
        self.receiver = Receiver()
        self._manifest = manifest
        self._namespaces = namespaces
        self._owners: dict[str, Owner] = {}
        self._cells: dict[str, list[str]] = {}
        self._last: dict[str, int] = {}  # version of the last report that the receiver has taken
        self._checked = 0
        for tube, hospital in enumerate(HOSPITALS, 1):
            self.order("NW", (hospital, 1, 1), tube, names_tube=True)
            for code in ("PMO", "LYT"):
                self.work("add", tube - 1, code)

    def order(self, action: str, owner: Owner, tube: int, *, names_tube: bool) -> None:
        """A message of a hospital about one order changes nothing but that order of that patient."""
        hospital, patient, number = owner
        control = "|".join(["ORC", action, *self._numbers(hospital, number)])
        spm = [f"SPM|1|T-{tube}||MAR"] if names_tube or action == "NW" else []
        obr = "|".join(["OBR", "1", *self._numbers(hospital, number), "BM^Marrow^L"])
        before = self._states()
        kind = "OML^O33^OML_O33" if spm else "ORM^O01"
        self.sender.send(_pid(hospital, patient), *spm, control, obr, kind=kind)
        for specimen, state in self._states().items():
            if before.get(specimen) != state:
                assert self._owners.setdefault(specimen, owner) == owner, f"{action} of {owner} changed another"
                assert state[0] != "cancelled" or action in ("CA", "DC"), f"{action} cancelled"

    def merge(self, hospital: str, gone: int, stays: int) -> None:
        """A merge moves all specimens of that patient of that hospital, and no other."""
        before = self._states()
        self.sender.send(_pid(hospital, stays), f"MRG|{gone}^^^{hospital}^MR", kind="ADT^A40")
        for specimen, (of, patient, number) in self._owners.items():
            is_moved = (of, patient) == (hospital, gone)
            assert is_moved == (self._states()[specimen] != before[specimen])
            if is_moved:
                self._owners[specimen] = hospital, stays, number

    def work(self, step: str, which: int, code: str) -> None:
        """A person's step on one specimen. It may be refused; it changes no other."""
        if not self._owners:
            return
        specimen = list(self._owners)[which % len(self._owners)]
        now, before = self.front.get(specimen), self._states()
        with suppress(ServiceError):
            self._worked(step, now, code)
        changed = {each for each, state in self._states().items() if before[each] != state}
        assert changed <= {specimen}
        self._check_messages()

    def _worked(self, step: str, now: Specimen, code: str) -> None:
        cells = self._cells.setdefault(now.id, [])
        reason = WithReason(revision=now.revision, reason="to test")
        if step == "correct":
            amended = ["amend"] if now.state == "signed" else []
            for each in (*amended, "read", "count", "sign"):
                self._worked(each, self.front.get(now.id), code)
        if step == "add":
            self.front.add(now.id, [classified(code)], self._manifest, PERSON)
            cells.append(code)
        elif step == "read" and cells:
            place = len(cells)
            version = self.front.cell(now.id, place).version
            reading = CellReading(place=place, version=version, code=code, why="seen")
            self.front.read(now.id, ReadCells(readings=[reading]), PERSON)
            cells[-1] = code
        elif step == "count":
            count = None if now.megakaryocytes else len(cells) + 1
            self.front.change(now.id, ChangeSpecimen(revision=now.revision, megakaryocytes=count), PERSON)
        elif step == "preliminary":
            self.front.preliminary(now.id, ReportSpecimen(revision=now.revision), PERSON)
        elif step == "sign":
            self.front.sign(now.id, SignSpecimen(revision=now.revision, accept_unread=True), PERSON)
        elif step == "amend":
            self.front.amend(now.id, reason, PERSON)
        elif step == "cancel":
            self.front.cancel(now.id, reason, PERSON)

    def deliver(self, *, accepts: bool) -> bool:
        """The next message reaches the receiver, which takes or refuses it. It has the last report that it took.

        False if no message waits.
        """
        with self.front.database.writing() as session:
            claimed = outbox.claim(session, "hl7", "worker", timedelta(minutes=1))
            if claimed is None:
                return False
            if accepts:
                outbox.mark_delivered(session, claimed.row, "MSA|AA")
            else:
                outbox.mark_rejected(session, claimed.row, "AE", "MSA|AE")
            wanted = select(SpecimenRow.id, MessageRow.report).where(MessageRow.row == claimed.row)
            specimen, report = session.execute(wanted.join(SpecimenRow, SpecimenRow.row == MessageRow.specimen)).one()
        if accepts:
            self.receiver.take(claimed.message, specimen)
            self._last[specimen] = self._version(report)
        for each, version in self._last.items():
            assert self.receiver.of(each) == written(orjson.loads(self.front.report(each, version)))
        return True

    def check(self) -> None:
        """Every specimen has the name, numbers and cells of its own patient and order."""
        for specimen, (hospital, patient, number) in self._owners.items():
            found = self.front.get(specimen)
            assert (found.patient.family, found.patient.authority) == (f"{hospital}-{patient}", hospital)
            assert found.order.placer_number == f"P-{number}"
            cells = Counter(self._cells.get(specimen, []))
            shares = {each.code: each.count for each in found.differential.classes if each.count}
            assert shares == {code: cells[code] for code in cells if code != "ART"}

    def _check_messages(self) -> None:
        """New messages name the patient and order of their specimen as they are now."""
        with self.front.database.reading() as session:
            wanted = select(MessageRow.row, MessageRow.message, SpecimenRow.id)
            joined = wanted.join(SpecimenRow, SpecimenRow.row == MessageRow.specimen)
            found = session.execute(joined.where(MessageRow.row > self._checked).order_by(MessageRow.row)).all()
        for row, message, specimen in found:
            hospital, patient, number = self._owners[specimen]
            lines = {line[:3]: line.split("|") for line in message.split("\r")}
            assert lines["PID"][3].split("~")[0].split("^")[:4] == [str(patient), "", "", hospital]
            assert lines["PID"][5].split("^")[0] == f"{hospital}-{patient}"
            assert lines["ORC"][2:4] == lines["OBR"][2:4] == self._numbers(hospital, number)
            self._checked = row

    def _numbers(self, hospital: str, number: int) -> list[str]:
        end = f"^{hospital}" if self._namespaces else ""
        return [f"P-{number}{end}", f"F-{number}{end}"]

    def _states(self) -> dict[str, tuple[str, int]]:
        return {each.id: (each.state, each.revision) for each in self.front.list(None, None, None, 100).specimens}

    def _version(self, report: int) -> int:
        with self.front.database.reading() as session:
            return session.scalars(select(ReportRow.version).where(ReportRow.row == report)).one()


def _pid(hospital: str, patient: int) -> str:
    return f"PID|1||{patient}^^^{hospital}^MR||{hospital}-{patient}^Erika||19640812|F"
