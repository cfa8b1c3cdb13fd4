"""The plots of a comparison: accuracy against speed, against the pictures learned from, or entry by entry.

Knows results and how they are drawn. Computes no figure.
"""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from training.compare.results import Estimate, Results, Row
from training.report.figures.figure import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILLION,
    ReportFigure,
    new_figure,
    style,
)

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, SKY, BLACK)
MARKERS = ("o", "s", "D", "^", "v", "P")
#: Area of a bubble in square points: so much, and so much more for each million parameters.
BUBBLE, BUBBLE_PER_MILLION = 18.0, 14.0

Look = tuple[str, str]  # colour, marker
Box = tuple[float, ...]  # left, bottom, right, top, in pixels


def speed_figure(results: Results, name: str) -> ReportFigure:
    """Accuracy against pictures a second at the largest batch; area: parameters; line: the best for the speed."""
    rows = [row for row in results.rows if row.timings]
    looks = _looks(rows)
    with style():
        figure = new_figure(7.2, 4.6)
        axes = figure.add_subplot()
        _front(axes, rows)
        for row in rows:
            _bubble(axes, row, looks[row.group])
        _logarithmic(axes)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        _percent(axes)
        axes.set(xlabel=_speed_axis(results, rows), ylabel=_accuracy_axis(rows))
        axes.grid(which="major")
        axes.set_axisbelow(True)
        axes.margins(x=0.16, y=0.08)
        _legend(axes, looks, rows)
        _label(axes, rows)
    best = max(rows, key=lambda row: row.on[0].accuracy.value)
    fastest = max(rows, key=_x)
    return ReportFigure(
        name,
        figure,
        f"{results.title}: accuracy with its 95 % interval against speed, {_where(rows)}. Area of a bubble: "
        "parameters. Dashed: entries that no other one beats in both.",
        f"Scatter plot of {len(rows)} entries. Most accurate: {best.title}, {best.on[0].accuracy.value:.3f}; fastest: "
        f"{fastest.title}, {_x(fastest):.0f} pictures a second.",
    )


def training_pictures_figure(results: Results, name: str) -> ReportFigure:
    """Accuracy against the pictures learned from, a line a group: what more data, or more training, would bring."""
    rows = results.rows
    looks = _looks(rows)
    with style():
        figure = new_figure(6.4, 4.2)
        axes = figure.add_subplot()
        for group, (colour, marker) in looks.items():
            line = sorted((row for row in rows if row.group == group), key=lambda row: row.training_pictures)
            aside = 1.012 ** list(looks).index(group)  # so that the intervals of two lines do not cover each other
            x = [row.training_pictures * aside for row in line]
            found = [row.on[0].accuracy for row in line]
            axes.errorbar(
                x,
                [estimate.value for estimate in found],
                yerr=_reach(found),
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=1.2,
                elinewidth=0.8,
                capsize=2,
                label=group or None,
            )
        _logarithmic(axes)
        axes.set_xticks(sorted({row.training_pictures for row in rows}))
        _percent(axes)
        axes.set(xlabel="pictures in the training block", ylabel=_accuracy_axis(rows))
        axes.grid(axis="y")
        if any(looks):
            axes.legend()
    ends = "; ".join(f"{row.title} {row.on[0].accuracy.value:.3f}" for row in rows)
    return ReportFigure(
        name,
        figure,
        f"{results.title}: accuracy with its 95 % interval by pictures learned from, {_where(rows)}.",
        f"Line chart of {len(rows)} entries. {ends}.",
    )


def difference_figure(results: Results, name: str) -> ReportFigure:
    """Difference in accuracy to the first entry, one row an entry, with the paired interval."""
    first, rows = results.rows[0], results.rows[1:]
    found = [row.on[0].accuracy_difference or Estimate(value=0, low=0, high=0) for row in rows]
    looks = _looks(rows)
    with style():
        figure = new_figure(6.4, 1.3 + 0.28 * len(rows))
        axes = figure.add_subplot()
        axes.axvline(0, color=GREY, linewidth=0.8)
        for at, (row, estimate) in enumerate(zip(rows, found, strict=True)):
            colour, marker = looks[row.group]
            axes.errorbar(
                [estimate.value],
                [at],
                xerr=_reach([estimate]),
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=1.2,
                capsize=2,
            )
        axes.set_yticks(range(len(rows)), [row.title for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(steps=(1, 2, 5, 10)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:+g}" if share else "0"))
        axes.set_xlabel(f"accuracy less that of {first.title} ({first.on[0].accuracy.value:.1%}), points")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        _legend(axes, looks, rows)
    told = "; ".join(f"{row.title} {100 * estimate.value:+.1f}" for row, estimate in zip(rows, found, strict=True))
    return ReportFigure(
        name,
        figure,
        f"{results.title}: accuracy less that of {first.title} on the same pictures, with the paired 95 % interval, "
        f"{_where(results.rows)}.",
        f"Dot plot of {len(rows)} differences in points. {told}.",
    )


def _looks(rows: Sequence[Row]) -> dict[str, Look]:
    groups = dict.fromkeys(row.group for row in rows)
    return dict(zip(groups, cycle(zip(COLOURS, MARKERS, strict=True)), strict=False))


def _x(row: Row) -> float:
    return row.timings[-1].pictures_per_s


def _area(row: Row) -> float:
    return BUBBLE + BUBBLE_PER_MILLION * (row.parameters or 0) / 1e6


def _bubble(axes: Axes, row: Row, look: Look) -> None:
    accuracy, (colour, marker) = row.on[0].accuracy, look
    axes.errorbar([_x(row)], [accuracy.value], yerr=_reach([accuracy]), color=colour, linewidth=0.8, alpha=0.6)
    axes.scatter([_x(row)], [accuracy.value], s=_area(row), color=colour, marker=marker, alpha=0.85, edgecolor="white")


def _reach(found: Sequence[Estimate]) -> list[list[float]]:
    """Down and up from each value."""
    return [[one.value - one.low for one in found], [one.high - one.value for one in found]]


def _front(axes: Axes, rows: Sequence[Row]) -> None:
    """A line through the entries that no other one beats in both speed and accuracy."""
    best: list[Row] = []
    for row in sorted(rows, key=_x, reverse=True):
        if not best or row.on[0].accuracy.value > best[-1].on[0].accuracy.value:
            best.append(row)
    points = [(_x(row), row.on[0].accuracy.value) for row in best]
    axes.plot(*zip(*points, strict=True), color=GREY, linewidth=0.8, linestyle="--", zorder=0)


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(steps=(1, 2, 5, 10)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))


def _speed_axis(results: Results, rows: Sequence[Row]) -> str:
    timing = rows[0].timings[-1]
    return f"pictures a second, batch {timing.batch}, {results.threads} threads of {results.processor}"


def _accuracy_axis(rows: Sequence[Row]) -> str:
    return f"accuracy, % ({rows[0].on[0].tissue}, n = {rows[0].on[0].n})"


def _where(rows: Sequence[Row]) -> str:
    return f"{rows[0].on[0].tissue}, n = {rows[0].on[0].n} test pictures"


def _legend(axes: Axes, looks: dict[str, Look], rows: Sequence[Row]) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=group)
        for group, (colour, marker) in looks.items()
        if group and any(row.group == group for row in rows)
    ]
    if handles:
        axes.figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))


def _label(axes: Axes, rows: Sequence[Row]) -> None:
    """Name every bubble where the name covers least: beside it, or further off at the end of a line."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes that are drawn on stand in a figure"
    figure.draw_without_rendering()  # before it, no place is known
    taken = [covered for row in rows for covered in _covered(axes, row)]
    frame = tuple(axes.get_window_extent().extents)
    for row in rows:
        boxes = [_box(axes, row, place) for place in _PLACES]
        costs = [
            sum(_overlap(box, other) * weight for other, weight in taken)
            + 10 * _outside(box, frame)
            + 40 * np.hypot(*place)
            for box, place in zip(boxes, _PLACES, strict=True)
        ]
        chosen = int(np.argmin(costs))
        taken.append((boxes[chosen], 10.0))
        _note(axes, row, _PLACES[chosen])


def _covered(axes: Axes, row: Row) -> list[tuple[Box, float]]:
    """Where a row's bubble stands, and its interval, and how bad it is to cover them."""
    accuracy = row.on[0].accuracy
    (x, y), (_, low), (_, high) = axes.transData.transform(
        [(_x(row), value) for value in (accuracy.value, accuracy.low, accuracy.high)]
    )
    radius = _radius(row) * axes.figure.dpi / 72
    return [((x - radius, y - radius, x + radius, y + radius), 10.0), ((x - 2, low, x + 2, high), 3.0)]


def _radius(row: Row) -> float:
    return np.sqrt(_area(row) / 2)  # points; of a diamond, which reaches furthest


#: Where a name may stand, in heights of a line from the bubble's edge.
_PLACES = tuple(
    (far * dx, far * dy)
    for far, ways in (
        (0.3, ((1, 0), (-1, 0), (0, 1), (0, -1))),
        (1.2, ((1, 1), (-1, 1), (1, -1), (-1, -1))),
        (2.2, ((0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))),
        (3.4, ((0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))),
    )
    for dx, dy in ways
)
NAME_SIZE = 7.5  # points


def _note(axes: Axes, row: Row, place: tuple[float, float]) -> None:
    note = axes.annotate(
        row.title,
        (_x(row), row.on[0].accuracy.value),
        _reach_of_name(row, place),
        textcoords="offset points",
        fontsize=NAME_SIZE,
        path_effects=[withStroke(linewidth=2, foreground="white")],
        ha=("right", "center", "left")[int(np.sign(place[0])) + 1],
        va=("top", "center", "bottom")[int(np.sign(place[1])) + 1],
        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5} if np.hypot(*place) > 1 else None,
    )
    note.set_in_layout(False)  # the axes keep the size for which names are placed


def _reach_of_name(row: Row, place: tuple[float, float]) -> tuple[float, float]:
    """From the centre of the bubble to the nearest point of the name, in points."""
    right, up = (way * NAME_SIZE + float(np.sign(way)) * _radius(row) for way in place)
    return right, up


def _box(axes: Axes, row: Row, place: tuple[float, float]) -> Box:
    """What a name would cover."""
    measured = axes.text(0, 0, row.title, fontsize=NAME_SIZE)
    size = measured.get_window_extent().size
    measured.remove()
    centre = axes.transData.transform((_x(row), row.on[0].accuracy.value))
    anchor = centre + np.array(_reach_of_name(row, place)) * axes.figure.dpi / 72
    low = anchor + size * (np.sign(np.asarray(place)) - 1) / 2
    return (*low, *(low + size))


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


def _outside(box: Box, frame: Box) -> float:
    """Area of a box that leaves the frame."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)
