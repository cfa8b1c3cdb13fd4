"""Plots of a comparison: accuracy against speed, against training pictures, or as differences to the first entry."""

from collections.abc import Sequence
from itertools import cycle
from textwrap import fill

from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter
from matplotlib.transforms import Bbox

from model.report.figure import (
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
from training.compare.results import Estimate, Results, Row

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, SKY, BLACK)
MARKERS = ("o", "s", "D", "^", "v", "P")
#: Area of a bubble in square points: a constant, plus this for each million parameters.
BUBBLE, BUBBLE_PER_MILLION = 18.0, 14.0

LABEL_SIZE = 7.5  # points
LABEL_ITERATIONS = 500
#: Characters of a line beside or below a dot plot: longer texts would leave no room for the dots.
DOT_LABEL_WIDTH = 36

MarkerStyle = tuple[str, str]  # colour, marker


def speed_figure(results: Results, name: str) -> ReportFigure:
    """Accuracy against pictures/s at the largest batch size; bubble area: parameters; line: Pareto front."""
    rows = [row for row in results.rows if row.timings]
    styles = _marker_styles(rows)
    with style():
        figure = new_figure(7.2, 4.6)
        axes = figure.add_subplot()
        _pareto_front(axes, rows)
        for row in rows:
            _bubble(axes, row, styles[row.group])
        _logarithmic(axes)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        _percent(axes)
        axes.set(xlabel=_speed_axis(results, rows), ylabel=_accuracy_axis(rows))
        axes.grid(which="major")
        axes.set_axisbelow(True)
        axes.margins(x=0.16, y=0.08)
        _legend(axes, styles, rows)
        _label_bubbles(axes, rows)
    best = max(rows, key=lambda row: row.on[0].accuracy.value)
    fastest = max(rows, key=_x)
    return ReportFigure(
        name,
        figure,
        f"{results.title}: accuracy with its 95 % interval against speed, {_where(results)}. Bubble area: parameters. "
        "Dashed: Pareto front (no other entry is better in both).",
        f"Scatter plot of {len(rows)} entries. Most accurate: {best.title}, {best.on[0].accuracy.value:.3f}; fastest: "
        f"{fastest.title}, {_x(fastest):.0f} pictures/s.",
    )


def training_pictures_figure(results: Results, name: str) -> ReportFigure:
    """Accuracy against training pictures (learning curve), a line a group."""
    rows = results.rows
    styles = _marker_styles(rows)
    with style():
        figure = new_figure(6.4, 4.2)
        axes = figure.add_subplot()
        for group, (colour, marker) in styles.items():
            line = sorted((row for row in rows if row.group == group), key=lambda row: row.training_pictures)
            offset = 1.012 ** list(styles).index(group)  # keeps the intervals of two lines apart
            x = [row.training_pictures * offset for row in line]
            accuracies = [row.on[0].accuracy for row in line]
            axes.errorbar(
                x,
                [accuracy.value for accuracy in accuracies],
                yerr=_error_bars(accuracies),
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
        if any(styles):
            axes.legend()
    texts = "; ".join(f"{row.title} {row.on[0].accuracy.value:.3f}" for row in rows)
    return ReportFigure(
        name,
        figure,
        f"{results.title}: accuracy with its 95 % interval by training pictures, {_where(results)}.",
        f"Line chart of {len(rows)} entries. {texts}.",
    )


def difference_figure(results: Results, name: str) -> ReportFigure:
    """Difference in accuracy to the first entry with its paired interval, a row an entry."""
    first, rows = results.rows[0], results.rows[1:]
    differences = [row.on[0].accuracy_difference or Estimate(value=0, low=0, high=0) for row in rows]
    styles = _marker_styles(rows)
    labels = [fill(row.title, DOT_LABEL_WIDTH) for row in rows]
    with style():
        figure = new_figure(6.4, 1.3 + sum(0.28 + 0.16 * label.count("\n") for label in labels))
        axes = figure.add_subplot()
        axes.axvline(0, color=GREY, linewidth=0.8)
        for at, (row, estimate) in enumerate(zip(rows, differences, strict=True)):
            colour, marker = styles[row.group]
            axes.errorbar(
                [estimate.value],
                [at],
                xerr=_error_bars([estimate]),
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=1.2,
                capsize=2,
            )
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(steps=(1, 2, 5, 10)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:+g}" if share else "0"))
        told = f"accuracy minus that of {first.title} ({first.on[0].accuracy.value:.1%}), points"
        axes.set_xlabel(fill(told, DOT_LABEL_WIDTH))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        _legend(axes, styles, rows)
    texts = "; ".join(
        f"{row.title} {100 * estimate.value:+.1f}" for row, estimate in zip(rows, differences, strict=True)
    )
    return ReportFigure(
        name,
        figure,
        f"{results.title}: accuracy minus that of {first.title} on the same pictures, with the paired 95 % interval, "
        f"{_where(results)}.",
        f"Dot plot of {len(rows)} differences in points. {texts}.",
    )


def _marker_styles(rows: Sequence[Row]) -> dict[str, MarkerStyle]:
    groups = dict.fromkeys(row.group for row in rows)
    return dict(zip(groups, cycle(zip(COLOURS, MARKERS, strict=True)), strict=False))


def _x(row: Row) -> float:
    return row.timings[-1].pictures_per_s


def _area(row: Row) -> float:
    return BUBBLE + BUBBLE_PER_MILLION * (row.parameters or 0) / 1e6


def _bubble(axes: Axes, row: Row, marker_style: MarkerStyle) -> None:
    accuracy, (colour, marker) = row.on[0].accuracy, marker_style
    axes.errorbar([_x(row)], [accuracy.value], yerr=_error_bars([accuracy]), color=colour, linewidth=0.8, alpha=0.6)
    axes.scatter([_x(row)], [accuracy.value], s=_area(row), color=colour, marker=marker, alpha=0.85, edgecolor="white")


def _error_bars(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Distances from each value to the ends of its interval: lower, upper."""
    return [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]


def _pareto_front(axes: Axes, rows: Sequence[Row]) -> None:
    """A line through the entries that no other entry beats in both speed and accuracy."""
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
    return f"pictures/s, batch {timing.batch}, {results.threads} threads of {results.processor}"


def _accuracy_axis(rows: Sequence[Row]) -> str:
    return f"accuracy, % ({rows[0].on[0].tissue}, n = {rows[0].on[0].n})"


def _where(results: Results) -> str:
    first = results.rows[0].on[0]
    return f"{first.tissue}, n = {first.n} {results.block} pictures"


def _legend(axes: Axes, styles: dict[str, MarkerStyle], rows: Sequence[Row]) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=group)
        for group, (colour, marker) in styles.items()
        if group and any(row.group == group for row in rows)
    ]
    if handles:
        axes.figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))


def _label_bubbles(axes: Axes, rows: Sequence[Row]) -> None:
    """Write the title of each row beside its bubble, without overlaps."""
    labels = [
        axes.text(
            _x(row),
            row.on[0].accuracy.value,
            row.title,
            fontsize=LABEL_SIZE,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
        for row in rows
    ]
    for label in labels:
        label.set_in_layout(False)  # or the axes would shrink after the labels are placed
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # computes the layout: the boxes below need the size of the axes
    adjust_text(
        labels,
        objects=[box for row in rows for box in _boxes(axes, row)],
        ax=axes,
        iter_lim=LABEL_ITERATIONS,  # not a time limit: the same plot on every machine
        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5},
    )


def _boxes(axes: Axes, row: Row) -> list[Bbox]:
    """Boxes of a bubble and of its interval, in data coordinates."""
    accuracy = row.on[0].accuracy
    radius = (_area(row) / 2) ** 0.5 * axes.figure.dpi / 72  # pixels; of a diamond, the widest marker
    (x, low), (_, y), (_, high) = axes.transData.transform(
        [(_x(row), value) for value in (accuracy.low, accuracy.value, accuracy.high)]
    )
    boxes = [[x - radius, y - radius], [x + radius, y + radius]], [[x - 2, low], [x + 2, high]]
    return [Bbox(box).transformed(axes.transData.inverted()) for box in boxes]
