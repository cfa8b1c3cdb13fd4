"""Compare the receiver's messages with the service's signed reports and with the pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hl7

from stress.laboratory.cast import ROOT
from stress.laboratory.signers import expected


@dataclass(slots=True)
class Signed:
    """One signed report: the expected content of its message."""

    number: str
    version: int
    status: str
    control_id: str
    shares: dict[str, float | None]


def messages(file: Path) -> dict[str, list[str]]:
    """Received messages by control id, in order of first arrival."""
    found: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if raw := _raw(line):
            found.setdefault(raw.split("\r")[0].split("|")[9], []).append(raw)
    return found


def _raw(line: str) -> str:
    """The message in a line; empty for a line that a killed receiver left incomplete, or that reports a killed sender.

    An incomplete message was not acknowledged yet.
    """
    try:
        return str(json.loads(line).get("raw", ""))
    except ValueError:
        return ""


def faults(arrived: Mapping[str, Sequence[str]], signed: Mapping[str, Signed], codes: Sequence[str]) -> list[str]:
    """All deviations from the expected messages.

    Args:
        arrived: `messages`.
        signed: what the service says was signed, by control id.
        codes: the class of each picture.
    """
    missing = [report for report in signed.values() if report.control_id not in arrived]
    found = [f"{report.number}: its message {report.control_id} never arrived" for report in missing]
    found += [f"message {control_id} belongs to no signed report" for control_id in arrived.keys() - signed]
    for control_id, raws in arrived.items():
        found += [f"message {control_id} came as two different ones"] if len(set(raws)) > 1 else []
        found += _wrong(raws[0], signed[control_id], codes) if control_id in signed else []
    return [*found, *_overtaken(arrived, signed)]


def _wrong(raw: str, report: Signed, codes: Sequence[str]) -> list[str]:
    """Values in a message that differ from its specimen's."""
    message = hl7.parse(raw)
    number = int(report.number.removeprefix("BM-"))
    said = {
        "patient": str(message.segment("PID")[3]).split("^")[0],
        "status": str(message.segment("OBR")[25]),
        "specimen": report.number if report.number in str(message.segment("SPM")[2]) else "another",
    }
    wanted = {
        "patient": f"P-{number:05}",
        "status": "F" if report.status == "final" else "C",
        "specimen": report.number,
    }
    shares = _shares(message)
    own = expected(number, codes)
    faults = [
        f"{report.number}: {name} is {said[name]}, not {wanted[name]}" for name in said if said[name] != wanted[name]
    ]
    faults += [
        f"{report.number}: {code} is {shares.get(code)} in the message, {share} by its pictures"
        for code, share in own.items()
        if shares.get(code) != share
    ]
    reported = {code: round(share, 1) for code, share in report.shares.items() if share}
    return faults + ([] if reported == own else [f"{report.number}: the report says {reported}, its pictures {own}"])


def _shares(message: Any) -> dict[str, float]:
    """Percentages above 0 by class code; LOINC codes are mapped back by the bundled table."""
    found = {}
    for segment in message.segments("OBX"):
        if str(segment[2]) == "NM" and str(segment[5]) and str(segment[6]).startswith("%"):
            code, share = str(segment[3]).split("^")[0], float(str(segment[5]))
            found[_CODES.get(code, code)] = share
    return found


def _overtaken(arrived: Mapping[str, Sequence[str]], signed: Mapping[str, Signed]) -> list[str]:
    last: dict[str, int] = {}
    faults = []
    for control_id in arrived:
        if (report := signed.get(control_id)) is not None:
            if report.version < last.get(report.number, 0):
                faults.append(f"{report.number}: version {report.version} came after version {last[report.number]}")
            last[report.number] = max(last.get(report.number, 0), report.version)
    return faults


def _loinc() -> dict[str, str]:
    lines = (ROOT / "service" / "lis" / "exchange" / "codes.csv").read_text(encoding="utf-8").splitlines()
    rows = [line.split(",") for line in lines if line and not line.startswith("#")]
    return {row[1]: row[0] for row in rows if len(row) > 1 and row[1]}


_CODES = _loinc()
