"""An evaluated run → its figures, as PNG and SVG, and one HTML report that holds them all.

Knows which figures a run has and in which order they are read. Draws none and measures nothing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from model import atomic_file
from training.config import Config
from training.data.images import decode_crop
from training.data.layouts import index_source
from training.data.samples import DataError, Sample, read_image_bytes
from training.data.splits import describe_split
from training.evaluation.evaluate import load_network, maps
from training.evaluation.maturation import tolerant
from training.evaluation.scores import Scores, scores_of_run
from training.evaluation.tables import tables
from training.report.figures.classes import classes_plate
from training.report.figures.confusion import confusion_plate
from training.report.figures.coverage import coverage_plate
from training.report.figures.curves import curve_plates, read_curves
from training.report.figures.gallery import Cell, drawn_cells, gallery_plate, top_probabilities
from training.report.figures.overlays import ROWS, Maps, overlays_plate
from training.report.figures.plate import Plate, write
from training.report.figures.reliability import reliability_plate
from training.report.html import Page, Picture, Section, render
from training.run import Evaluation, RunFolder

NOTICE = "Research use only. Not a medical device: a person reviews and signs, never the model."
FOOTER = (
    "This report holds pictures of cells from the data sets it names: research data, under their licences and under "
    "the rules of whoever gave it. Pass it on only where those allow it."
)
#: Side of a cell in a gallery, in pixels.
SHOWN_SIZE = 192


class Cells:
    """The test pictures of a run, read from the data folder one by one as they are shown."""

    def __init__(self, config: Config, data: Path) -> None:
        self.config = config
        self.data = data
        self.crops = {source.name: source.crop for source in config.data.sources}
        found = (index_source(data, source, config.codes).samples for source in config.data.sources)
        self.samples = {sample.key: sample for samples in found for sample in samples}

    def image(self, key: tuple[str, str, str], size: int) -> NDArray[np.uint8]:
        """One picture (size, size, 3).

        Raises:
            DataError: it is not there.
        """
        sample: Sample | None = self.samples.get(key)
        if sample is None:
            raise DataError(self.data, f"{key[2]} of class {key[1]}, a test picture of {key[0]}, is not there")
        return decode_crop(read_image_bytes(sample), size, self.crops[sample.source])

    def cell(self, scores: Scores, row: int, key: tuple[str, str, str]) -> Cell:
        """A picture as a gallery shows it."""
        top = top_probabilities(scores.rows(np.array([row])).probabilities[0], scores.codes)
        return Cell(self.image(key, SHOWN_SIZE), key[1], scores.codes[scores.predicted[row]], top)


def illustrate(run: RunFolder, data: Path, out: Path) -> Path:
    """Write every figure of a run, and the report.

    Args:
        data: what the run was evaluated on; the pictures in the figures are read from it.
        out: folder for the figures and `report.html`.

    Returns:
        The report.

    Raises:
        RunError: the run has not been evaluated.
        DataError: its pictures are not there.
    """
    config, evaluation, scores = run.config(), run.evaluation(), scores_of_run(run, "test")
    cells = Cells(config, data)
    out.mkdir(parents=True, exist_ok=True)
    sections = []
    for source, split in track(list(evaluation.splits.items()), description="drawing", transient=True):
        plates = _of_source(run, config, evaluation, scores.of_source(source), cells, source)
        sections.append(Section(split, (), tables(evaluation.metrics, split), _pictures(plates, out)))
    sections.append(Section("How it was trained", _trained(run), (), _pictures(_curves(run), out)))
    facts = _facts(run, config, evaluation)
    page = Page(f"{config.name} {config.version}: evaluation", NOTICE, facts, sections, FOOTER)
    report = out / "report.html"
    atomic_file.write_text(report, render(page))
    return report


def _of_source(
    run: RunFolder, config: Config, evaluation: Evaluation, scores: Scores, cells: Cells, source: str
) -> Iterator[Plate]:
    split, file = evaluation.splits[source], quote(source, safe=" ")  # a source may be called what no file can be
    metrics = [metric for metric in evaluation.metrics if metric.split == split]
    tolerated = tolerant(config.codes, config.evaluation.neighbours)
    counts = np.array(evaluation.confusion[split])
    yield confusion_plate(counts, config.codes, tolerated, f"confusion-{file}", split)
    yield classes_plate(metrics, f"classes-{file}", split)
    yield reliability_plate(scores, f"reliability-{file}", split)
    yield coverage_plate(scores, f"coverage-{file}", split)
    drawn, keys = drawn_cells(scores), scores.keys()
    wrong = int((scores.predicted != scores.labels).sum())
    chosen = [cells.cell(scores, int(row), keys[row]) for row in drawn]
    yield gallery_plate(chosen, f"gallery-{file}", split, wrong, len(scores))
    if run.weights.exists():  # pooled folds have no network of their own
        yield _overlays(run, config, cells, scores, _shown_rows(scores, drawn), f"overlays-{file}", split)


def _shown_rows(scores: Scores, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the cells in the gallery, as many wrong as right ones where there are."""
    right = scores.predicted[drawn] == scores.labels[drawn]
    wrong = drawn[~right][: ROWS // 2]
    return np.concatenate([drawn[right][: ROWS - len(wrong)], wrong])


def _overlays(
    run: RunFolder, config: Config, cells: Cells, scores: Scores, rows: NDArray[np.int64], name: str, split: str
) -> Plate:
    net, keys = load_network(config, run.trained_weights()), scores.keys()
    attention, evidence = maps(net, config, np.stack([cells.image(keys[row], config.model.input_size) for row in rows]))
    shown = [
        Maps(
            cells.cell(scores, int(row), keys[row]),
            attention[at],
            spoke[scores.predicted[row]],
            spoke[scores.labels[row]],
        )
        for at, (row, spoke) in enumerate(zip(rows, evidence, strict=True))
    ]
    return overlays_plate(shown, net.attention_scales, name, split)


def _curves(run: RunFolder) -> list[Plate]:
    if not run.weights.exists():
        return []
    trained_on = sum(images.total() for images in run.training_images().values())
    return curve_plates(read_curves(run.folder / "curves"), trained_on, len(scores_of_run(run, "calibration")))


def _pictures(plates: Iterator[Plate] | Sequence[Plate], out: Path) -> list[Picture]:
    """Write the figures; give those for the report: photographs as PNG, charts as SVG, sharp at every size."""
    pictures = []
    for plate in plates:
        written = write(plate, out)
        suffix, media_type = ("png", "image/png") if plate.photographs else ("svg", "image/svg+xml")
        pictures.append(Picture(written[suffix], media_type, plate.caption, plate.alt))
    return pictures


def _trained(run: RunFolder) -> tuple[str, ...]:
    if run.folds.exists():
        return ("Pooled from several trainings, whose curves lie in their own folders.",)
    fit = run.fit()
    libraries = ", ".join(f"{name} {version}" for name, version in fit.versions.items())
    minutes = max(round(fit.train_s / 60), 1)
    return (f"{minutes} min on {fit.device} with {fit.config}; {libraries}.",)


def _facts(run: RunFolder, config: Config, evaluation: Evaluation) -> list[tuple[str, str]]:
    split, fitted = describe_split(config.data, run.twins.exists()), "fitted on the calibration block alone"
    if not evaluation.temperature_fitted:
        fitted = "the calibration block does not determine one"
    if run.folds.exists():  # its configuration is that of one fold
        split, fitted = "folds.csv names the runs that were pooled", "the geometric mean; each picture has its fold's"
    facts = [
        ("run", run.folder.resolve().name),
        ("network", f"{config.model.variant}, {config.model.input_size} × {config.model.input_size} px"),
        ("classes", f"{len(config.codes)}; all outputs compete"),
        ("split", split),
        ("temperature", f"{evaluation.temperature:.3f}, {fitted}"),
        ("at test time", "each picture once, as it is; nothing is turned, flipped or averaged"),
    ]
    if not run.folds.exists():
        for name, images in run.training_images().items():
            facts.append(("trained on", f"{images.total()} pictures of {name}"))
    for source in config.data.sources:
        facts.append((f"data: {source.name}", f"{source.tissue}, {source.licence}. {source.attribution}"))
    return facts
