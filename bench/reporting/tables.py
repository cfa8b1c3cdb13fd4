"""Tables of the report: columns, units and rounding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.plan.cells import Cell, Ledger
from bench.plan.plan import SATURATED, WORKLOADS
from bench.plan.runtimes import ENGINES
from bench.plan.servers import CEILING, OURS, SERVERS
from bench.reporting.summary import Figure, Spread, best_peer, busiest, by_round, ceiling, models, peers, ratio, spread
from bench.reporting.verdict import verdicts

NONE = "–"
Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Table:
    """Title, header, rows, and notes."""

    title: str
    head: tuple[str, ...]
    rows: Rows
    note: str = ""


def verdict_table(ledger: Ledger, deadline_s: float) -> Table:
    """Goals and whether they are reached."""
    rows: Rows = [(v.goal, v.measured, v.word) for v in verdicts(ledger, deadline_s)]
    note = (
        "A ratio is taken within a round; given are its median over the rounds and, in brackets, the lowest and the "
        "highest. The median decides. The best peer is the one with the best median of that very figure."
    )
    return Table("Goals", ("goal", "measured", "verdict"), rows, note)


def headline_table(ledger: Ledger) -> Table:
    """marrowlens compared with the best peer: ratio and absolute figures."""
    rows: Rows = []
    for model in models(ledger):
        for workload in WORKLOADS.values():
            name = "goodput, pictures/s" if workload.cut else "pictures/s"
            figures: list[tuple[str, Figure, bool]] = [(name, lambda cell: cell.pictures_per_s, False)]
            if workload.kind != "batch" and not workload.cut:
                figures += [("p50, ms", lambda c: c.p50_ms, True), ("p99, ms", lambda c: c.p99_ms, True)]
            if workload.load and not workload.cut:
                figures = figures[1:]  # each server is offered a share of its own capacity
            for name, figure, lowest in figures:
                rows += _headline(ledger, model, workload.name, name, figure, lowest)
    head = ("model", "workload", "figure", "marrowlens / best peer", "marrowlens", "best peer", "which")
    return Table("marrowlens / best peer", head, rows, "Latencies: below 1 is better. Rates: above 1 is better.")


def _headline(ledger: Ledger, model: str, workload: str, name: str, figure: Figure, lowest: bool) -> Rows:
    peer = best_peer(ledger, model, workload, figure, lowest=lowest)
    ours = by_round(ledger, model, OURS, workload, figure)
    if peer is None or not ours:
        return []
    theirs = by_round(ledger, model, peer, workload, figure)
    absolute = [f"{np.median(list(values.values())):.4g}" for values in (ours, theirs)]
    title = WORKLOADS[workload].title
    return [(model, title, name, str(ratio(ours, theirs) or NONE), *absolute, SERVERS[peer].title)]


def server_table(ledger: Ledger, model: str) -> Table:
    """Every server under every workload."""
    rows: Rows = []
    for workload in WORKLOADS.values():
        for server in (OURS, *peers(ledger, model, workload.name)):
            cells = [c for c in ledger.cells if (c.model, c.server, c.workload) == (model, server, workload.name)]
            if cells:
                rows.append((workload.title, SERVERS[server].title, *_server_cells(cells)))
    head = ("workload", "server", "rounds", "requests/s", "pictures/s", "p50, ms", "p90, ms", "p99, ms", "not 200")
    note = (
        "Medians over the rounds. Latencies of answers with status 200; in open loop from when a request was due. "
        "Not 200: share of the requests, by status; 0 is a broken connection, open had no answer when the load ended, "
        "late was answered past the deadline."
    )
    return Table(f"Servers, {model}", head, rows, note)


def _server_cells(cells: Sequence[Cell]) -> tuple[str, ...]:
    figures: list[Callable[[Cell], float | None]] = [
        lambda cell: cell.requests_per_s,
        lambda cell: cell.pictures_per_s,
        lambda cell: cell.p50_ms,
        lambda cell: cell.p90_ms,
        lambda cell: cell.p99_ms,
    ]
    return str(len(cells)), *(_median([figure(cell) for cell in cells]) for figure in figures), _not_200(cells)


def _median(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None]
    return f"{np.median(there):.1f}" if there else NONE


def _not_200(cells: Sequence[Cell]) -> str:
    total = sum(cell.requests for cell in cells)
    found: dict[str, int] = {}
    for cell in cells:
        for status, count in {**cell.statuses, "late": cell.late}.items():
            if status != "200" and count:
                found[status] = found.get(status, 0) + count
    return ", ".join(f"{status}: {100 * count / total:.1f} %" for status, count in found.items()) or NONE


def overload_table(ledger: Ledger) -> Table:
    """Every server at three times its capacity."""
    rows: Rows = []
    for model in models(ledger):
        for server in (OURS, *peers(ledger, model, "overload")):
            cells = [c for c in ledger.cells if (c.model, c.server, c.workload) == (model, server, "overload")]
            if cells:
                rows.append((model, SERVERS[server].title, *_overload_cells(ledger, model, server, cells)))
    head = (
        "model", "server", "goodput / capacity", "p99 of accepted, ms", "refused", "refusal p50, ms", "Retry-After, s",
        "accepted drain in, s",
    )  # fmt: skip
    note = (
        "Goodput: answers with status 200 within the deadline. Measured after a queue of "
        "256 would be full and drained once. This flatters a server that never refuses: its "
        "queue and its p99 would keep growing."
    )
    return Table("Overload, 3 times the capacity", head, rows, note)


def _overload_cells(ledger: Ledger, model: str, server: str, cells: Sequence[Cell]) -> tuple[str, ...]:
    goodput = by_round(ledger, model, server, "overload", lambda cell: cell.requests_per_s)
    capacity = by_round(ledger, model, server, SATURATED, lambda cell: cell.requests_per_s)
    refusals = [cell.refusals for cell in cells if cell.refusals]
    refused = sum(found.count for found in refusals) / max(1, sum(cell.requests for cell in cells))
    return (
        str(ratio(goodput, capacity) or NONE),
        _median([cell.p99_ms for cell in cells]),
        f"{100 * refused:.0f} %",
        _median([found.p50_ms for found in refusals]),
        _median([found.retry_after_s for found in refusals]),
        _median([found.drain_s for found in refusals]),
    )


def engine_table(ledger: Ledger) -> Table:
    """Pictures a second of each engine and setting by batch size."""
    batches = sorted({timing.batch for timing in ledger.timings})
    rows: Rows = []
    for engine, setting in dict.fromkeys((timing.engine, timing.setting) for timing in ledger.timings):
        cells = [_timing(ledger, engine, setting, batch) for batch in batches]
        rows.append((ENGINES[engine].title, setting, *(f"{cell.median:.1f}" if cell else NONE for cell in cells)))
    note = "Pictures/s, medians over the rounds, on the servers' cores with as many threads."
    note += _one_picture(ledger)
    return Table("Without a server", ("engine", "setting", *(f"batch {batch}" for batch in batches)), rows, note)


def _one_picture(ledger: Ledger) -> str:
    lines = ledger.one_picture
    whole, ours, pillow, turbo = (
        spread([getattr(line, name) for line in lines])
        for name in ("one_picture_ms", "decode_ms", "pillow_ms", "turbo_ms")
    )
    if not (whole and ours and pillow and turbo):
        return ""
    said = f" Decode and bare session.run of one picture: {whole.median:.2f} ms ({whole.low:.2f} to {whole.high:.2f});"
    said += f" decoding alone {ours.median:.2f} ms, by Pillow {pillow.median:.2f} ms, "
    return f"{said}by libjpeg-turbo without a filter {turbo.median:.2f} ms."


def _timing(ledger: Ledger, engine: str, setting: str, batch: int) -> Spread | None:
    wanted = (engine, setting, batch)
    return spread([t.pictures_per_s for t in ledger.timings if (t.engine, t.setting, t.batch) == wanted])


def generator_table(ledger: Ledger) -> Table:
    """Whether the load generator was a bottleneck."""
    most = ceiling(ledger)
    shares = [c.generator_share for c in ledger.cells if c.server != CEILING.name and c.generator_share is not None]
    lags = [c.lag_p99_ms for c in ledger.cells if c.lag_p99_ms is not None]
    rows: Rows = [
        ("requests/s of 32 clients, server with fixed bytes", f"{most.median:.0f}" if most else NONE),
        ("most requests/s drawn from a server", f"{busiest(ledger):.0f}"),
        ("largest share of its core used, closed loop", f"{100 * max(shares):.0f} %" if shares else NONE),
        ("open loop: sent after it was due, p99 of the worst cell, ms", f"{max(lags):.1f}" if lags else NONE),
    ]
    note = "What found no free connection among the most that are opened was sent late; its latency counts that."
    return Table("The load generator", ("figure", "measured"), rows, note)


def tables(ledger: Ledger, deadline_s: float) -> list[Table]:
    """All tables that have rows."""
    found = [verdict_table(ledger, deadline_s), headline_table(ledger)]
    found += [server_table(ledger, model) for model in models(ledger)]
    found += [overload_table(ledger), engine_table(ledger), generator_table(ledger)]
    return [table for table in found if table.rows]
