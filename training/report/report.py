"""The report of an evaluated run: every figure as PNG and SVG, and one HTML file with all figures and tables."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from model import atomic_file
from model.report.figure import ReportFigure, save
from model.report.html import render
from model.report.page import EmbeddedImage, Page, Section
from training.config import Config
from training.data.images import decode_crop
from training.data.layouts import index_source
from training.data.samples import DataError, Sample, read_image_bytes
from training.data.splits import describe_split
from training.evaluation.metrics import tolerant
from training.evaluation.scores import Scores, scores_of_run
from training.evaluation.tables import diagnosis_tables, evaluation_tables, temperature_text
from training.report.figures.cells import (
    MAP_CELLS,
    Cell,
    CellMaps,
    gallery_figure,
    gallery_rows,
    maps_figure,
    top_probabilities,
)
from training.report.figures.classes import classes_figure, confusion_figure
from training.report.figures.confidence import coverage_figure, reliability_figure
from training.report.figures.curves import curve_figures, read_curves
from training.report.figures.ranking import patients_figure, ranking_figures
from training.report.figures.responses import responses_figure
from training.run import Evaluation, ExternalModel, RunFolder

NOTICE = "Research use only. Not a medical device: a person reviews and signs, never the model."
FOOTER = (
    "This report contains pictures of cells from the data sets it names. They are research data under the licences and "
    "rules of these data sets: pass the report on only as those allow."
)
GALLERY_SIZE = 192  # pixels, side of a cell


class CellMapper(NamedTuple):
    """Computes the maps of pictures (N, S, S, 3): attention (N, K, h, w) and evidence (N, C, h, w)."""

    scales: tuple[str, ...]  # names of the attention maps
    maps: Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], ...]]


class CellReader:
    """The test pictures of a run, read from the data folder one at a time."""

    def __init__(self, config: Config, data: Path) -> None:
        self.config = config
        self.data = data
        self.crops = {source.name: source.crop for source in config.data.sources}
        indexes = (index_source(data, source, config.codes).samples for source in config.data.sources)
        self.samples = {sample.key: sample for samples in indexes for sample in samples}

    def image(self, key: tuple[str, str, str], size: int) -> NDArray[np.uint8]:
        """One picture (size, size, 3).

        Raises:
            DataError: the picture is missing.
        """
        sample: Sample | None = self.samples.get(key)
        if sample is None:
            raise DataError(self.data, f"{key[2]} of class {key[1]}, a test picture of {key[0]}, is missing")
        return decode_crop(read_image_bytes(sample), size, self.crops[sample.source])

    def cell(self, scores: Scores, row: int, key: tuple[str, str, str]) -> Cell:
        """A picture with its label and prediction."""
        top = top_probabilities(scores.rows(np.array([row])).probabilities[0], scores.codes)
        return Cell(self.image(key, GALLERY_SIZE), key[1], scores.codes[scores.predicted[row]], top)


def write_report(run: RunFolder, data: Path, out: Path, cell_maps: CellMapper | None = None) -> Path:
    """Write every figure of a run, and the report.

    Args:
        data: folder of the data that the run was evaluated on.
        out: folder for the figures and `report.html`.
        cell_maps: attention and evidence of pictures; None: by the network of the run, if it has one.

    Returns:
        Path of the report.

    Raises:
        RunError: the run has not been evaluated.
        DataError: a picture is missing.
    """
    config, evaluation, scores = run.config(), run.evaluation(), scores_of_run(run, "test")
    cells = CellReader(config, data)
    if cell_maps is None and run.weights.exists():  # pooled folds and external validations have no network
        cell_maps = network_maps(config, run.weights_file())
    out.mkdir(parents=True, exist_ok=True)
    names = class_names(config)
    sections = []
    for source, split in track(list(evaluation.splits.items()), description="drawing", transient=True):
        figures = _source_figures(config, evaluation, scores.of_source(source), cells, source, cell_maps)
        sections.append(Section(split, (), evaluation_tables(evaluation, source, names), _embedded(figures, out)))
    if diagnosed := diagnosis_tables(evaluation):
        responses = [responses_figure(evaluation.responses)] if evaluation.responses else []
        sections.append(
            Section(
                "Decisions" if run.external() else "Calibration block: what the answers depend on",
                (),
                diagnosed,
                _embedded(responses, out),
            )
        )
    sections.append(Section("Training", _training(run), (), _embedded(_curves(run), out)))
    facts = _facts(run, config, evaluation)
    page = Page(f"{config.name} {config.version}: evaluation", NOTICE, facts, sections, FOOTER)
    report = out / "report.html"
    atomic_file.write_text(report, render(page))
    return report


def _source_figures(
    config: Config,
    evaluation: Evaluation,
    scores: Scores,
    cells: CellReader,
    source: str,
    cell_maps: "CellMapper | None",
) -> Iterator[ReportFigure]:
    split, file = evaluation.splits[source], quote(source, safe=" ")  # not every source name is a valid file name
    metrics = [metric for metric in evaluation.metrics if metric.split == split]
    tolerated = tolerant(config.codes, config.evaluation.neighbours)
    counts, names = np.array(evaluation.confusion[split]), class_names(config)
    yield confusion_figure(counts, config.codes, tolerated, f"confusion-{file}", split, names)
    yield classes_figure(metrics, f"classes-{file}", split, names)
    if patients := patients_figure(scores, f"patients-{file}", split):
        yield patients
    yield from ranking_figures(scores, metrics, names, file, split)
    yield reliability_figure(scores, f"reliability-{file}", split)
    yield coverage_figure(scores, f"coverage-{file}", split)
    rows, keys = gallery_rows(scores), scores.keys()
    wrong = int((scores.predicted != scores.labels).sum())
    gallery = [cells.cell(scores, int(row), keys[row]) for row in rows]
    yield gallery_figure(gallery, f"gallery-{file}", split, wrong, len(scores))
    if cell_maps:
        yield _maps_figure(cell_maps, config, cells, scores, _map_rows(scores, rows), f"overlays-{file}", split)


def _map_rows(scores: Scores, gallery: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the gallery to show with maps: half wrong, half correct, if there are enough of both."""
    correct = scores.predicted[gallery] == scores.labels[gallery]
    wrong = gallery[~correct][: MAP_CELLS // 2]
    return np.concatenate([gallery[correct][: MAP_CELLS - len(wrong)], wrong])


def class_names(config: Config) -> dict[str, str]:
    """Code → name of the classes that have another name than their code."""
    return {each.code: each.name for each in config.classes if each.name != each.code}


def network_maps(config: Config, weights: Path) -> CellMapper:
    """The maps of a trained network."""
    from training.evaluation.network_outputs import load_network, maps

    net = load_network(config, weights)
    return CellMapper(tuple(net.attention_scales), lambda images: maps(net, config, images))


def _maps_figure(
    cell_maps: CellMapper,
    config: Config,
    cells: CellReader,
    scores: Scores,
    rows: NDArray[np.int64],
    name: str,
    split: str,
) -> ReportFigure:
    keys = scores.keys()
    images = np.stack([cells.image(keys[row], config.model.input_size) for row in rows])
    shown = [
        CellMaps(
            cells.cell(scores, int(row), keys[row]),
            attention,
            evidence[scores.predicted[row]],
            evidence[scores.labels[row]],
        )
        for row, attention, evidence in zip(rows, *cell_maps.maps(images), strict=True)
    ]
    return maps_figure(shown, cell_maps.scales, name, split)


def _curves(run: RunFolder) -> list[ReportFigure]:
    if not run.weights.exists():
        return []
    training_n = sum(images.total() for images in run.training_images().values())
    return curve_figures(read_curves(run.folder / "curves"), training_n, len(scores_of_run(run, "calibration")))


def _embedded(figures: Iterable[ReportFigure], out: Path) -> list[EmbeddedImage]:
    """Write the figures; returns photographs as PNG and charts as SVG."""
    images = []
    for figure in figures:
        files = save(figure, out)
        suffix, media_type = ("png", "image/png") if figure.photographs else ("svg", "image/svg+xml")
        images.append(EmbeddedImage(files[suffix], media_type, figure.caption, figure.alt))
    return images


def _training(run: RunFolder) -> tuple[str, ...]:
    if about := run.external():
        return (f"{about.model} was not trained here; its model card describes its training.",)
    if run.folds.exists():
        return ("Several trainings pooled; their curves are in their own run folders.",)
    fit = run.fit()
    libraries = ", ".join(f"{name} {version}" for name, version in fit.versions.items())
    minutes = max(round(fit.train_s / 60), 1)
    return (f"{minutes} min on {fit.device} with {fit.config}; {libraries}.",)


def _facts(run: RunFolder, config: Config, evaluation: Evaluation) -> list[tuple[str, str]]:
    split, temperature = describe_split(config.data), temperature_text(evaluation)
    if run.folds.exists():  # the configuration is that of one fold
        split = "folds.csv lists the pooled runs"
        temperature = f"{evaluation.temperature:.3f}, geometric mean over the folds; each picture uses that of its fold"
    if about := run.external():
        return [*_external_facts(about, config, evaluation), *source_facts(config)]
    facts = [
        ("run", run.folder.resolve().name),
        ("network", f"{config.model.variant}, {config.model.input_size} × {config.model.input_size} px"),
        ("classes", f"{len(config.codes)}; all outputs compete"),
        ("split", split),
        ("temperature", temperature),
        ("test time", "each picture once, without augmentation"),
    ]
    if not run.folds.exists():
        for name, images in run.training_images().items():
            facts.append(("trained on", f"{images.total()} pictures of {name}"))
    return facts + source_facts(config)


def _external_facts(about: ExternalModel, config: Config, evaluation: Evaluation) -> list[tuple[str, str]]:
    return [
        ("model", f"{about.model}, {about.file}, sha256 {about.sha256}"),
        ("input", f"{config.model.input_size} × {config.model.input_size} px"),
        ("classes", f"{len(config.codes)}; all outputs compete"),
        ("temperature", f"{evaluation.temperature:.3f}, of the model; not fitted to these pictures"),
        ("known pictures", seen_text(about)),
    ]


def seen_text(about: ExternalModel) -> str:
    """Whether the model was trained on some of the pictures."""
    if about.seen is None:
        return "unknown: the model has no split list, so it may have been trained on these pictures"
    if about.seen:
        return f"{about.seen} have the file name of a training picture: if they are the same, figures are too high"
    return "none has the file name of a training picture"


def source_facts(config: Config) -> list[tuple[str, str]]:
    """Tissue, licence and attribution of each source, as facts of a page."""
    return [
        (f"data: {source.name}", f"{source.tissue}, {source.licence}. {source.attribution}")
        for source in config.data.sources
    ]
