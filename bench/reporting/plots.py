"""Plots of throughput, latency, overload and engines. Colour and hatching carry the same information."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from bench.plan.cells import Cell, Ledger
from bench.plan.plan import SATURATED, WORKLOADS
from bench.plan.runtimes import ENGINES
from bench.plan.servers import OURS, OURS_BF16, SERVERS
from bench.reporting.summary import by_round, models, peers, spread
from model.report.figure import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    ReportFigure,
    add_heading,
    new_figure,
    style,
    text_width,
)

COLOURS = {
    OURS: BLUE,
    OURS_BF16: BLACK,
    "fastapi": ORANGE,
    "fastapi-decoder": GREY,
    "litserve": SKY,
    "bentoml": GREEN,
    "pytriton": VERMILLION,
    "mlserver": PURPLE,
    "ray-serve": YELLOW,
}
HATCHES = {
    OURS: "",
    OURS_BF16: "oo",
    "fastapi": "//",
    "fastapi-decoder": "//",
    "litserve": "..",
    "bentoml": "xx",
    "pytriton": "\\\\",
    "mlserver": "--",
    "ray-serve": "++",
}
MARKERS = "os^vDPX*"


def figures(ledger: Ledger, header: str) -> list[ReportFigure]:
    """All plots with data. `header` describes the machine."""
    found = [_servers(ledger, model, header) for model in models(ledger)]
    if ledger.timings:
        found.append(_engines(ledger, header))
    return found


def _servers(ledger: Ledger, model: str, header: str) -> ReportFigure:
    closed = [w.name for w in WORKLOADS.values() if w.kind != "open" and _measured(ledger, model, w.name)]
    timed = [w.name for w in WORKLOADS.values() if w.kind != "batch" and _measured(ledger, model, w.name)]
    width = max(7.5, 1.3 * max(len(closed), len(timed)) + 2.5)
    with style():
        figure = new_figure(width, 6.4)
        add_heading(figure, f"{model}. {header}")
        above, below = figure.subplots(2, 1)
        _bars(above, ledger, model, closed, lambda cell: cell.pictures_per_s)
        above.set(ylabel="pictures/s", title="Throughput: higher is better")
        _bars(below, ledger, model, timed, lambda cell: cell.p99_ms)
        below.set(ylabel="p99, ms", title="Latency, 99th percentile: lower is better")
        if any(bar.get_height() > 0 for bar in below.patches if isinstance(bar, Rectangle)):
            below.set_yscale("log")
        figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    caption = f"Servers with the {model} model: medians over the rounds; whiskers: lowest and highest round. {header}"
    return ReportFigure(f"servers-{model}", figure, caption, _words(ledger, model, closed))


def _measured(ledger: Ledger, model: str, workload: str) -> bool:
    return any(cell.model == model and cell.workload == workload for cell in ledger.cells if cell.server in SERVERS)


def _bars(
    axes: Axes, ledger: Ledger, model: str, workloads: Sequence[str], figure: Callable[[Cell], float | None]
) -> None:
    there = {server for name in workloads for server in (OURS, *peers(ledger, model, name))}
    servers = [server for server in SERVERS if server in there]
    width = 0.8 / len(servers)
    for at, server in enumerate(servers):
        found = [spread(list(by_round(ledger, model, server, name, figure).values())) for name in workloads]
        places = [place + (at - (len(servers) - 1) / 2) * width for place, s in enumerate(found) if s]
        known = [s for s in found if s]
        heights = np.array([s.median for s in known])
        ends = np.abs(np.array([[s.low, s.high] for s in known]).reshape(-1, 2).T - heights)
        bars = axes.bar(places, heights, width, color=COLOURS[server], hatch=HATCHES[server], edgecolor="white")
        bars.set_label(SERVERS[server].title)
        axes.errorbar(places, heights, ends, fmt="none", ecolor=GREY, elinewidth=1)
    axes.set_xticks(range(len(workloads)), [WORKLOADS[name].title.replace(", ", ",\n") for name in workloads])


def _words(ledger: Ledger, model: str, workloads: Sequence[str]) -> str:
    name = SATURATED if SATURATED in workloads else next(iter(workloads), None)
    if name is None:
        return "Bar chart of latencies by server."
    said = []
    for server in (OURS, *peers(ledger, model, name)):
        found = spread(list(by_round(ledger, model, server, name, lambda cell: cell.pictures_per_s).values()))
        if found:
            said.append(f"{SERVERS[server].title} {found.median:.0f}")
    return f"Bar charts of throughput and latency by server; {WORKLOADS[name].title}, pictures/s: {', '.join(said)}."


def _engines(ledger: Ledger, header: str) -> ReportFigure:
    batches = sorted({timing.batch for timing in ledger.timings})
    lines = list(dict.fromkeys((timing.engine, timing.setting) for timing in ledger.timings))
    labels = [f"{ENGINES[engine].title}, {setting}" for engine, setting in lines]
    said = []
    with style():
        figure = new_figure(5.5 + text_width(labels), 4.2)
        add_heading(figure, header)
        axes = figure.add_subplot()
        for (engine, setting), label, marker in zip(lines, labels, MARKERS * 2, strict=False):
            medians = [
                float(np.median([t.pictures_per_s for t in ledger.timings if (t.engine, t.setting, t.batch) == key]))
                for key in ((engine, setting, batch) for batch in batches)
            ]
            axes.plot(batches, medians, marker=marker, markersize=4, label=label)
            said.append(f"{label} {max(medians):.0f}")
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.set(xlabel="batch size", ylabel="pictures/s", ylim=(0, None))
        axes.grid()
        figure.legend(loc="outside right center")
    caption = f"Pictures a second without a server, medians over the rounds. {header}"
    return ReportFigure("engines", figure, caption, f"Line chart of pictures/s by batch size; best: {', '.join(said)}.")
