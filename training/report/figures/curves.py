"""Training curves: loss and accuracy by epoch (the paper's Figures 4 and 5), over all attempts of a run."""

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from model.report.figure import BLUE, GREEN, GREY, ORANGE, ReportFigure, add_heading, new_figure, style

LineStyle = tuple[str, str, str]  # label, colour, dashes

#: Logged name → its line.
LOSSES: dict[str, LineStyle] = {
    "train_loss": ("training", ORANGE, "--"),
    "calibration_loss": ("calibration block", BLUE, "-"),
}
ACCURACIES: dict[str, LineStyle] = {
    "train_accuracy": ("accuracy, training", ORANGE, "--"),
    "calibration_accuracy": ("accuracy, calibration block", BLUE, "-"),
    "calibration_macro_f1": ("macro F1, calibration block", GREEN, ":"),
}


@dataclass(frozen=True, slots=True)
class Curves:
    """Name → epoch → value, and the epochs in which the run was resumed."""

    values: dict[str, dict[int, float]]
    resumed: tuple[int, ...]


def read_curves(folder: Path) -> Curves:
    """The curves of a run; the last attempt counts where an epoch was trained twice.

    Args:
        folder: contains version_0, version_1, … of Lightning's CSVLogger.
    """
    values: dict[str, dict[int, float]] = defaultdict(dict)
    resumed = []
    attempts = sorted(folder.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    for attempt, path in enumerate(attempts):
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("epoch")]
        for row in rows:
            for name in (*LOSSES, *ACCURACIES):
                if row.get(name):
                    values[name][int(float(row["epoch"]))] = float(row[name])
        if attempt and rows:
            resumed.append(int(float(rows[0]["epoch"])))
    return Curves(dict(values), tuple(resumed))


def curve_figures(curves: Curves, training_n: int, calibration_n: int) -> list[ReportFigure]:
    """The loss figure and the accuracy figure; a figure without logged values is left out.

    Args:
        training_n: pictures in the training block.
        calibration_n: pictures in the calibration block.
    """
    n = f"n = {training_n} training pictures, {calibration_n} of the calibration block"
    resumed = ", ".join(str(epoch + 1) for epoch in curves.resumed)
    note = f" Resumed after an interruption in epoch {resumed} (grey lines)." if resumed else ""
    remark = " Training pictures are augmented and their labels smoothed, so the two losses are not comparable."
    figures = []
    for name, lines, unit, about in (
        ("loss", LOSSES, "cross-entropy (nats)", remark),
        ("accuracy", ACCURACIES, "share", ""),
    ):
        logged = {lines[key]: curves.values[key] for key in lines if key in curves.values}
        if logged:
            figures.append(
                _figure(name, logged, unit, curves.resumed, f"{name.capitalize()} by epoch, {n}.{about}{note}", n)
            )
    return figures


def _figure(
    name: str, lines: dict[LineStyle, dict[int, float]], unit: str, resumed: tuple[int, ...], caption: str, n: str
) -> ReportFigure:
    with style():
        figure = new_figure(6.4, 3.8)
        add_heading(figure, n)
        axes = figure.add_subplot()
        for line, by_epoch in lines.items():
            _line(axes, by_epoch, *line)
        for epoch in resumed:
            axes.axvline(epoch + 0.5, color=GREY, linewidth=0.8)
        axes.set(xlabel="epoch", ylabel=unit)
        if name == "accuracy":
            axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        axes.legend()
    last = "; ".join(f"{label} {by_epoch[max(by_epoch)]:.3f}" for (label, _, _), by_epoch in lines.items())
    epochs = max(max(by_epoch) for by_epoch in lines.values()) + 1
    alt = f"Line chart of {name} over {epochs} epochs. In the last: {last}."
    return ReportFigure(f"curves-{name}", figure, caption, alt)


def _line(axes: Axes, by_epoch: dict[int, float], label: str, colour: str, dashes: str) -> None:
    epochs = sorted(by_epoch)
    axes.plot(
        [epoch + 1 for epoch in epochs],
        [by_epoch[epoch] for epoch in epochs],
        label=label,
        color=colour,
        linestyle=dashes,
        marker="o" if len(epochs) == 1 else "",
    )
