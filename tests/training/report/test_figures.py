"""Figures: no text is cut off or overlaps, each states its n, and its numbers are the counts."""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from model.contract import CLASSES
from model.report.figure import ReportFigure, render_figure
from training.config import MATURATION
from training.data.samples import Sample
from training.evaluation.metrics import Pictures, classification_metrics, confusion_matrix, lineages, tolerant
from training.evaluation.scores import Scores, scores_of
from training.report.figures.cells import (
    Cell,
    CellMaps,
    gallery_figure,
    gallery_rows,
    maps_figure,
    overlay,
    top_probabilities,
)
from training.report.figures.classes import classes_figure, confusion_figure
from training.report.figures.confidence import coverage_figure, reliability_figure
from training.report.figures.curves import curve_figures, read_curves

ALL = tuple(cell_class.code for cell_class in CLASSES)
THREE = ("BLA", "PMO", "MYB")
LONG = ("neutrophil-segmented-mature", "neutrophil-band", "lymphocyte_large.granular_cell")
SPLIT = "a source of a long name (bone marrow), 5 folds pooled, 170000 of 171374 pictures tested, each once"


def _scores(codes: Sequence[str], n: int, sure: float = 2.0) -> Scores:
    """Scores with about two thirds of the predictions correct; the others are the next class in the list."""
    random = np.random.default_rng(5)
    labels = random.integers(0, len(codes), n)
    logits = random.normal(0, 1, (n, len(codes)))
    logits[np.arange(n), (labels + (random.random(n) < 0.3)) % len(codes)] += sure
    samples = [Sample("s", codes[label], f"{at}.png", Path(f"{at}.png")) for at, label in enumerate(labels)]
    return scores_of(samples, logits.astype(np.float32), 0.7, tuple(codes))


def _confusion(scores: Scores) -> ReportFigure:
    counts = confusion_matrix(scores.labels, scores.predicted, len(scores.codes))
    return confusion_figure(counts, scores.codes, tolerant(scores.codes, MATURATION), "confusion", SPLIT)


def _classes(scores: Scores) -> ReportFigure:
    pictures = Pictures(scores.labels, scores.predicted)
    tolerated = tolerant(scores.codes, MATURATION)
    return classes_figure(
        classification_metrics(pictures, scores.codes, tolerated, scores.codes, SPLIT), "classes", SPLIT
    )


def _gallery(scores: Scores) -> ReportFigure:
    picture = np.full((32, 32, 3), 200, np.uint8)
    cells = [
        Cell(
            picture,
            scores.codes[scores.labels[row]],
            scores.codes[scores.predicted[row]],
            top_probabilities(scores.probabilities[row], scores.codes),
        )
        for row in gallery_rows(scores)
    ]
    wrong = int((scores.predicted != scores.labels).sum())
    return gallery_figure(cells, "gallery", SPLIT, wrong, len(scores))


def _overlays(scores: Scores) -> ReportFigure:
    picture, grid = np.full((32, 32, 3), 200, np.uint8), np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    cells = [Cell(picture, scores.codes[0], named, ((named, 0.9),)) for named in scores.codes[:2]]
    maps = [CellMaps(cell, np.stack([abs(grid)] * 3), grid, -grid) for cell in cells]
    return maps_figure(maps, ("3-5-1", "5-7-1", "7-9-1"), "overlays", SPLIT)


PLATES: dict[str, Callable[[Scores], ReportFigure]] = {
    "confusion": _confusion,
    "classes": _classes,
    "reliability": lambda scores: reliability_figure(scores, "reliability", SPLIT),
    "coverage": lambda scores: coverage_figure(scores, "coverage", SPLIT),
    "gallery": _gallery,
    "overlays": _overlays,
}


def _texts(plate: ReportFigure) -> list[Text]:
    return [text for text in plate.figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def _boxes(plate: ReportFigure) -> dict[str, list[tuple[float, float, float, float]]]:
    """Drawn text → its boxes as shares of the figure, without ticks outside the axis limits."""
    canvas = FigureCanvasAgg(plate.figure)
    canvas.draw()
    width, height = plate.figure.bbox.size
    unseen = {
        id(label)
        for axes in plate.figure.axes
        for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim())))
        for tick in (*axis.majorTicks, *axis.minorTicks)
        for label in (tick.label1, tick.label2)
        if not axes.axison or not low <= tick.get_loc() <= high
    }
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for text in _texts(plate):
        if id(text) not in unseen:
            box = text.get_window_extent()
            ends = (box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height)
            found.setdefault(text.get_text(), []).append(ends)
    return found


@pytest.mark.parametrize("codes", [THREE, ALL, LONG], ids=["three", "all 21", "long"])
@pytest.mark.parametrize("name", PLATES)
def test_no_text_is_cut_off(name: str, codes: Sequence[str]) -> None:
    for text, boxes in _boxes(PLATES[name](_scores(codes, 150))).items():
        for box in boxes:
            assert min(box) > -0.002 and max(box) < 1.002, text


@pytest.mark.parametrize("codes", [THREE, LONG], ids=["three", "long"])
@pytest.mark.parametrize("name", ["gallery", "overlays"])
def test_the_words_under_a_cell_do_not_run_into_those_of_the_next(name: str, codes: Sequence[str]) -> None:
    boxes = [box for of_text in _boxes(PLATES[name](_scores(codes, 150))).values() for box in of_text]
    for at, (x0, y0, x1, y1) in enumerate(boxes):
        for u0, v0, u1, v1 in boxes[at + 1 :]:
            apart = x1 <= u0 + 0.001 or u1 <= x0 + 0.001 or y1 <= v0 + 0.001 or v1 <= y0 + 0.001
            assert apart, (x0, y0, u0, v0)


@pytest.mark.parametrize("name", PLATES)
def test_each_says_by_itself_what_it_shows_and_how_much(name: str) -> None:
    plate = PLATES[name](_scores(THREE, 150))
    heading = plate.figure.get_suptitle().replace("\n", " ").replace("\u00a0", " ")
    assert heading.startswith(SPLIT)
    assert ("2 cells" if name == "overlays" else "n = 150") in heading
    assert SPLIT in plate.caption
    assert plate.alt.endswith(".")


def _numbers(axes: Axes) -> dict[tuple[float, float], str]:
    return {text.get_position(): text.get_text() for text in axes.texts}


def test_the_heat_map_holds_the_counts_and_frames_the_forgiven() -> None:
    counts = np.array([[9, 1, 0], [2, 996, 2], [0, 0, 4]])
    plate = confusion_figure(counts, THREE, tolerant(THREE, MATURATION), "c", "test")
    pictures, percent = plate.figure.axes
    assert _numbers(pictures) == {(0, 0): "9", (1, 0): "1", (0, 1): "2", (1, 1): "996", (2, 1): "2", (2, 2): "4"}
    told = {(0, 0): "90", (1, 0): "10", (0, 1): "<1", (1, 1): ">99", (2, 1): "<1", (2, 2): "100"}
    assert _numbers(percent) == told
    assert [label.get_text() for label in pictures.get_yticklabels()] == ["BLA (10)", "PMO (1000)", "MYB (4)"]
    assert [label.get_text() for label in pictures.get_xticklabels()] == ["BLA (11)", "PMO (997)", "MYB (6)"]
    framed = {(patch.get_x() + 0.5, patch.get_y() + 0.5) for patch in pictures.patches}
    assert framed == {(1, 0), (0, 1), (2, 1)}
    assert (
        "Most frequent: PMO predicted as BLA 2 times, PMO predicted as MYB 2 times, BLA predicted as PMO 1 times."
        in plate.alt
    )


def test_classes_that_neither_occur_nor_are_named_are_not_drawn() -> None:
    counts = np.zeros((21, 21), np.int64)
    counts[3, 3] = counts[3, 20] = 5
    plate = confusion_figure(counts, ALL, tolerant(ALL, MATURATION), "c", "test")
    assert [label.get_text() for label in plate.figure.axes[0].get_yticklabels()] == ["BLA (10)", "PMO (0)"]


def test_numbers_on_a_heat_map_are_legible_on_their_shade() -> None:
    plate = confusion_figure(np.array([[100, 0], [48, 52]]), ("A", "B"), np.eye(2, dtype=bool), "c", "test")
    inks = {text.get_text(): text.get_color() for text in plate.figure.axes[0].texts}
    assert (inks["100"], inks["48"]) == ("white", "black")


def test_names_stand_beside_the_codes() -> None:
    names = {"EOS": "Eosinophil", "NGS": "Segmented neutrophil of an unusually long name"}
    counts, codes = np.array([[9, 1], [2, 8]]), ("EOS", "NGS")
    first, second = confusion_figure(counts, codes, np.eye(2, dtype=bool), "c", "test", names).figure.axes
    expected = ["EOS Eosinophil (10)", "NGS Segmented neutrophil of… (10)"]
    assert [label.get_text() for label in first.get_yticklabels()] == expected
    assert [label.get_text() for label in second.get_yticklabels()] == ["EOS (10)", "NGS (10)"]
    pictures = Pictures(np.repeat([0, 1], 10), np.repeat([0, 1, 0, 1], [9, 1, 2, 8]))
    metrics = classification_metrics(pictures, codes, np.eye(2, dtype=bool), codes, "test")
    left, _ = classes_figure(metrics, "c", "test", names).figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == expected


def test_tolerant_dots_stand_only_where_they_differ_and_undefined_ones_nowhere() -> None:
    """BLA is predicted PMO (tolerated), EOS is predicted BLA (an error), and nothing is predicted EOS."""
    codes = ("BLA", "PMO", "EOS")
    pictures = Pictures(np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 0, 0]))
    groups = lineages([cell_class for cell_class in CLASSES if cell_class.code in codes])
    metrics = classification_metrics(pictures, codes, tolerant(codes, MATURATION), groups, "test")
    recall, precision = classes_figure(metrics, "c", "test").figure.axes
    drawn = [len(container[0].get_xdata()) for container in recall.containers]
    assert drawn == [3, 1]
    assert [len(container[0].get_xdata()) for container in precision.containers] == [2, 1]
    assert [text.get_text() for text in precision.texts] == ["never predicted: undefined"]


def test_both_histograms_share_a_scale_that_holds_the_higher() -> None:
    scores = _scores(THREE, 300, sure=0.1)  # before temperature scaling all are in few bins
    upper, _, before, after = reliability_figure(scores, "r", "test").figure.axes
    heights = [max(bar.get_height() for bar in axes.patches) for axes in (before, after)]
    assert heights[0] != heights[1]
    assert before.get_ylim() == after.get_ylim()
    assert before.get_ylim()[1] > max(heights)
    assert [sum(bar.get_height() for bar in axes.patches) for axes in (before, after)] == [300, 300]
    assert upper.get_title(loc="left").startswith("before temperature: ECE ")


def test_the_risk_at_full_coverage_is_the_error_rate() -> None:
    scores = _scores(THREE, 150)
    (axes,) = coverage_figure(scores, "c", "test").figure.axes
    curve = next(line for line in axes.lines if line.get_label() == "by top probability")
    errors = float((scores.predicted != scores.labels).mean())
    assert (curve.get_xdata()[-1], curve.get_ydata()[-1]) == (1, pytest.approx(100 * errors))
    best = next(line for line in axes.lines if line.get_label() == "best possible order")
    assert best.get_ydata()[-1] == pytest.approx(100 * errors)
    assert (best.get_ydata() <= np.interp(best.get_xdata(), curve.get_xdata(), curve.get_ydata()) + 1e-9).all()


def test_a_gallery_is_drawn_by_lot_and_goes_round_the_classes() -> None:
    scores = _scores(ALL[:5], 400)
    rows = gallery_rows(scores)
    right = scores.predicted[rows] == scores.labels[rows]
    assert right.tolist() == [True] * 12 + [False] * 12
    assert len(set(rows.tolist())) == 24
    shares = np.bincount(scores.labels[rows[:12]], minlength=5)
    assert sorted(shares.tolist()) == [2, 2, 2, 3, 3]
    assert (gallery_rows(scores) == rows).all()


def test_a_perfect_model_has_a_gallery_without_wrong_answers() -> None:
    scores = _scores(THREE, 5, sure=0)
    perfect = scores_of(
        [Sample("s", THREE[label], "x", Path("x")) for label in scores.labels],
        10 * np.eye(3, dtype=np.float32)[scores.labels],
        1.0,
        THREE,
    )
    assert len(gallery_rows(perfect)) == 5
    assert "0 of 0 wrong ones" in _gallery(perfect).caption


def test_a_dozen_cells_fill_whole_rows() -> None:
    for codes in (THREE, ALL, LONG):
        shown = [axes for axes in _gallery(_scores(codes, 150)).figure.axes if axes.images]
        assert len(shown) == len(shown[0].figure.axes) == 24


def test_a_map_that_says_nothing_leaves_the_cell_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    assert (overlay(np.zeros((4, 4), np.float32), picture, signed=True) == picture).all()
    toward, against = (overlay(np.full((4, 4), end, np.float32), picture, signed=True) for end in (1, -1))
    assert toward[..., 0].mean() > toward[..., 2].mean() and against[..., 2].mean() > against[..., 0].mean()


def _attempt(folder: Path, number: int, losses: dict[int, float]) -> None:
    path = folder / f"version_{number}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("epoch", "train_loss", "calibration_accuracy"))
        for epoch, loss in losses.items():
            rows.writerow((epoch, "", 0.5))
            rows.writerow((epoch, loss, ""))


def test_an_epoch_that_was_trained_twice_counts_as_the_last_time(tmp_path: Path) -> None:
    _attempt(tmp_path, 0, {0: 3.0, 1: 2.0})
    _attempt(tmp_path, 2, {1: 1.5, 2: 1.0})
    _attempt(tmp_path, 10, {2: 0.75, 3: 0.5})  # after 2, although not in alphabetical order
    curves = read_curves(tmp_path)
    assert curves.values["train_loss"] == {0: 3.0, 1: 1.5, 2: 0.75, 3: 0.5}
    assert curves.resumed == (1, 2)
    loss, accuracy = curve_figures(curves, 800, 75)
    assert (loss.name, accuracy.name) == ("curves-loss", "curves-accuracy")
    for plate in (loss, accuracy):
        assert plate.figure.get_suptitle() == "n\u00a0=\u00a0800 training pictures, 75 of the calibration block"
        assert "in epoch 2, 3 (grey lines)" in plate.caption
        assert all(0 <= end <= 1.002 for of_text in _boxes(plate).values() for box in of_text for end in box)
    (line,) = (line for line in loss.figure.axes[0].lines if line.get_label() == "training")
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 2, 3, 4], [3.0, 1.5, 0.75, 0.5])


def test_what_was_not_logged_has_no_curve(tmp_path: Path) -> None:
    assert curve_figures(read_curves(tmp_path), 1, 1) == []


@pytest.mark.parametrize("file_format", ["png", "svg"])
def test_a_figure_has_the_same_bytes_each_time(file_format: str) -> None:
    scores = _scores(THREE, 60)
    first, second = (render_figure(coverage_figure(scores, "c", "test"), file_format) for _ in range(2))
    assert first == second
    if file_format == "svg":
        assert not re.search(rb"<dc:date>", first)
