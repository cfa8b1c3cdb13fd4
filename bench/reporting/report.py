"""Write the results: Markdown, CSV, JSON and plots."""

import datetime
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.plan.cells import Cell, EngineTiming, Ledger
from bench.plan.plan import Setting
from bench.reporting.plots import figures
from bench.reporting.tables import Rows, Table, tables
from bench.reporting.verdict import verdicts
from model import csv_file
from model.report.figure import ReportFigure, save

NAME = "bench"
#: Load average of a machine that does nothing else; making the environments leaves its trace in it.
IDLE = 0.7


@dataclass(frozen=True, slots=True)
class Header:
    """Machine, date, versions, and the load before the benchmark."""

    setting: Setting
    rounds: int
    versions: Mapping[str, Mapping[str, str]]  # server or engine → distribution → version
    failures: Mapping[str, str]
    date: datetime.date  # of the last sitting
    load_average: float  # before the busiest sitting began

    @property
    def place(self) -> str:
        """The machine in one line, for plots."""
        setting = self.setting
        return (
            f"{setting.processor}, servers on {_cores(setting.server_cores)}, load generator on "
            f"{_cores(setting.client_cores)}, {self.rounds} round{'s' * (self.rounds > 1)} of {setting.seconds:g} s, "
            f"{self.date}, commit {setting.commit}"
        )


def _cores(numbers: Sequence[int]) -> str:
    return f"core{'s' * (len(numbers) > 1)} {', '.join(str(number) for number in numbers)}"


def write(ledger: Ledger, header: Header, out: Path) -> list[Path]:
    """Write bench.md, bench.json, bench.csv, engines.csv and the plots; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    found = tables(ledger, header.setting.deadline_s)
    drawn = figures(ledger, header.place)
    files = {
        f"{NAME}.md": _markdown(found, header, drawn),
        f"{NAME}.json": _json(ledger, header),
        f"{NAME}.csv": _csv(Cell, [cell.model_dump(mode="json") for cell in ledger.cells]),
        "engines.csv": _csv(EngineTiming, [timing.model_dump() for timing in ledger.timings]),
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8", newline="")
    for one in drawn:
        save(one, out)
    return [out / name for name in (*files, *(f"{one.name}.{suffix}" for one in drawn for suffix in ("svg", "png")))]


def _markdown(found: Sequence[Table], header: Header, drawn: Sequence[ReportFigure]) -> str:
    parts = ["# marrowlens and other servers, side by side", header.place + ".", _fairness(header)]
    if header.load_average > IDLE:
        parts.append(
            f"**The machine was not idle**: its load average was {header.load_average:.1f} before the start. Absolute "
            "figures are unreliable, and short measurements can be wrong by any factor."
        )
    parts += [f"Not measured: {name}: {reason}" for name, reason in header.failures.items()]
    parts += [_as_markdown(table) for table in found]
    parts += [f"![{one.alt}]({one.name}.svg)\n\n{one.caption}" for one in drawn]
    versions: Rows = [(name, ", ".join(f"{d} {v}" for d, v in said.items())) for name, said in header.versions.items()]
    parts.append(_as_markdown(Table("Versions", ("server", "versions"), versions)))
    return "\n\n".join(parts) + "\n"


def _fairness(header: Header) -> str:
    setting = header.setting
    pinned = "on separate cores" if not set(setting.server_cores) & set(setting.client_cores) else "ON SHARED CORES"
    isolated = "in its own environment" if setting.isolated else "in one environment for all"
    return (
        f"One server runs at a time, {isolated}; server and load generator {pinned} (taskset). Each has "
        f"{len(setting.server_cores)} thread(s) for the model, the same ONNX file (sha256 "
        f"{setting.artefact_sha256[:12]}), the same JPEGs ({setting.pictures}) and the same filter; every answer is "
        f"compared with the bare session's for the same decoded pixels. The deadline is {setting.deadline_s:g} s. "
        "Method: docs/bench.md."
    )


def _as_markdown(table: Table) -> str:
    lines = [f"## {table.title}", "", _row(table.head), _row(["---"] * len(table.head)), *map(_row, table.rows)]
    return "\n".join(lines + (["", table.note] if table.note else []))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _json(ledger: Ledger, header: Header) -> str:
    said = {
        "date": str(header.date),
        "setting": header.setting.model_dump(),
        "rounds": header.rounds,
        "load_average": header.load_average,
        "versions": header.versions,
        "failures": header.failures,
        "goals": [
            {"goal": v.goal, "measured": v.measured, "reached": v.reached}
            for v in verdicts(ledger, header.setting.deadline_s)
        ],
        "cells": [cell.model_dump() for cell in ledger.cells],
        "engines": [timing.model_dump() for timing in ledger.timings],
        "one_picture": [line.model_dump() for line in ledger.one_picture],
    }
    return json.dumps(said, indent=1) + "\n"


def _csv(kind: type[Cell] | type[EngineTiming], rows: Sequence[Mapping[str, object]]) -> str:
    out = io.StringIO()
    writer = csv_file.Writer(out)
    writer.writerow(kind.model_fields)
    for row in rows:
        cells = (row.get(name, "") for name in kind.model_fields)
        writer.writerow(json.dumps(cell) if isinstance(cell, dict) else cell for cell in cells)
    return out.getvalue()
