"""Loss and accuracy by epoch (the paper's Figures 4 and 5), over all attempts of an interrupted run.

Knows Lightning's metrics.csv. Knows nothing of how the run was trained.
"""

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from training.report.figures.plate import BLUE, GREEN, GREY, ORANGE, Plate, headed, sheet, styled

#: What is logged → how it is called and drawn.
LOSSES = {"train_loss": ("training", ORANGE, "--"), "calibration_loss": ("calibration block", BLUE, "-")}
RATES = {
    "train_accuracy": ("accuracy, training", ORANGE, "--"),
    "calibration_accuracy": ("accuracy, calibration block", BLUE, "-"),
    "calibration_macro_f1": ("macro F1, calibration block", GREEN, ":"),
}


@dataclass(frozen=True, slots=True)
class Curves:
    """Name → epoch → value, and the epochs with which a later attempt began."""

    values: dict[str, dict[int, float]]
    picked_up: tuple[int, ...]


def read_curves(folder: Path) -> Curves:
    """The curves of a run; an epoch that was trained twice counts as it was trained last.

    Args:
        folder: holds version_0, version_1, … of Lightning's CSV logger.
    """
    values: dict[str, dict[int, float]] = defaultdict(dict)
    picked_up = []
    attempts = sorted(folder.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    for attempt, path in enumerate(attempts):
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("epoch")]
        for row in rows:
            for name in (*LOSSES, *RATES):
                if row.get(name):
                    values[name][int(float(row["epoch"]))] = float(row[name])
        if attempt and rows:
            picked_up.append(int(float(rows[0]["epoch"])))
    return Curves(dict(values), tuple(picked_up))


def curve_plates(curves: Curves, trained_on: int, watched_on: int) -> list[Plate]:
    """The figure of the losses and that of the rates; none of what was not logged.

    Args:
        trained_on: pictures in the training block.
        watched_on: pictures in the calibration block.
    """
    n = f"n = {trained_on} training pictures, {watched_on} of the calibration block"
    interrupted = ", ".join(str(epoch + 1) for epoch in curves.picked_up)
    note = f" Picked up after an interruption in epoch {interrupted} (grey lines)." if interrupted else ""
    augmented = " Training pictures are augmented and their labels softened, so the two losses are not of one kind."
    plates = []
    for name, drawn, unit, remark in (
        ("loss", LOSSES, "cross-entropy (nats)", augmented),
        ("accuracy", RATES, "share", ""),
    ):
        there = {drawn[key]: curves.values[key] for key in drawn if key in curves.values}
        if there:
            caption = f"{name.capitalize()} by epoch, {n}.{remark}{note}"
            plates.append(_plate(name, there, unit, curves.picked_up, caption, n))
    return plates


Line = tuple[str, str, str]  # what it shows, its colour, its dashes


def _plate(
    name: str, lines: dict[Line, dict[int, float]], unit: str, picked_up: tuple[int, ...], caption: str, n: str
) -> Plate:
    with styled():
        figure = sheet(6.4, 3.8)
        headed(figure, n)
        axes = figure.add_subplot()
        for line, by_epoch in lines.items():
            _line(axes, by_epoch, *line)
        for epoch in picked_up:
            axes.axvline(epoch + 0.5, color=GREY, linewidth=0.8)
        axes.set(xlabel="epoch", ylabel=unit)
        if name == "accuracy":
            axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        axes.legend()
    ends = "; ".join(f"{text} {by_epoch[max(by_epoch)]:.3f}" for (text, _, _), by_epoch in lines.items())
    epochs = max(max(by_epoch) for by_epoch in lines.values()) + 1
    return Plate(f"curves-{name}", figure, caption, f"Line chart of {name} over {epochs} epochs. At the end: {ends}.")


def _line(axes: Axes, by_epoch: dict[int, float], text: str, colour: str, line: str) -> None:
    epochs = sorted(by_epoch)
    marker = "o" if len(epochs) == 1 else ""
    axes.plot(
        [epoch + 1 for epoch in epochs],
        [by_epoch[epoch] for epoch in epochs],
        label=text,
        color=colour,
        linestyle=line,
        marker=marker,
    )
