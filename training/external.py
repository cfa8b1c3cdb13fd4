"""External validation: a run or an artefact on pictures that are not of its data, with its tables, figures and report.

An artefact needs no torch. The result is a folder that `figures` and `audit` read like a run: config.toml, split.csv,
evaluation.json, predictions.csv, logits.npz, and external.json with what was measured.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomlkit
from numpy.typing import NDArray
from rich.progress import track

from model.contract import INPUT, ArtefactError, read_manifest
from model.trust.decision import Assessor
from model.trust.fitting import LabelledPredictions
from model.trust.quality import measure as measure_quality
from model.trust.reference import TrustReference
from training.config import CardConfig, Config, ModelConfig
from training.data.images import LabelledImages, UnreadableImage, decode_samples
from training.data.layouts import index_source
from training.data.samples import (
    BLOCKS,
    DataError,
    Sample,
    file_name,
    listed_keys,
    patient_numbers,
    split_csv,
)
from training.data_config import DataConfig, SourceConfig
from training.evaluation.calibration import Logits, log_probabilities
from training.evaluation.evaluate import describe_splits, measure
from training.evaluation.scores import scores_of, write_predictions, write_scores
from training.evaluation.trust import measured_decisions
from training.onnx_session import cores, open_session
from training.run import (
    MEASURED_BLOCKS,
    Evaluation,
    ExternalModel,
    MeasuredBlock,
    MeasuredTrust,
    RunError,
    RunFolder,
)

Images = NDArray[np.uint8]  # (N, S, S, 3)
Maps = tuple[NDArray[np.float32], NDArray[np.float32]]  # attention (N, K, h, w), evidence (N, C, h, w)
BATCH_SIZE = 64
TISSUE = "tissue not stated"
#: How the pictures were chosen, as the figures carry it.
CHOSEN = "all pictures, external validation"


@dataclass(frozen=True)
class MeasuredModel:
    """A model to measure: what it is, and how it answers."""

    about: ExternalModel
    config: Config  # name, version, classes, network and neighbours; its sources are replaced
    temperature: float
    outputs: Callable[[Images], tuple[Logits, NDArray[np.float32]]]  # logits (N, C), embeddings (N, D)
    maps: Callable[[Images], Maps]
    scales: tuple[str, ...]  # names of the attention maps; empty: none
    split_list: Path  # may be absent
    trust: TrustReference | None
    unsupported: tuple[str, ...]


@dataclass(frozen=True)
class ExternalResult:
    """The evaluation, and what a reader of its figures must know."""

    evaluation: Evaluation
    about: ExternalModel
    unreadable: list[UnreadableImage]
    left_out: Mapping[str, int]
    passed_over: Mapping[str, int]  # suffix → files that are no pictures, or in no class folder


def external_source(
    data: Path, classes: Mapping[str, str] = {}, leave_out: Sequence[str] = (), patient_pattern: str = ""
) -> tuple[Path, SourceConfig]:
    """The --data folder and the source of a folder of class folders, or of a list (CSV or Parquet).

    Args:
        data: folder or list.
        classes: name of a class in the data → code of the model.
        leave_out: classes of the data to ignore.
        patient_pattern: regular expression on the file name; its group is the patient.
    """
    at = {"folder": Path(".")} if data.is_dir() else {"list": Path(data.name)}
    source = SourceConfig.model_validate(
        {
            **at,
            "name": data.resolve().stem if data.is_file() else data.resolve().name,
            "classes": dict(classes),
            "leave_out": tuple(leave_out),
            "patient_pattern": patient_pattern,
            "tissue": TISSUE,
            "licence": "licence not stated",
            "attribution": f"External pictures in {data.name}.",
        }
    )
    return (data if data.is_dir() else data.parent), source


def artefact_model(path: Path) -> MeasuredModel:
    """An exported model, run by onnxruntime.

    Raises:
        ArtefactError: the manifest cannot be read, or the graph is not the one that it describes.
        ValueError: onnxruntime cannot run it.
    """
    manifest = read_manifest(path.with_suffix(".json"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != manifest.sha256:
        raise ArtefactError(path, "is not the graph that its manifest describes: the sha256 differs")
    session, preprocessing = open_session(path, cores()), manifest.preprocessing
    has_attention = manifest.has_attention

    def run(images: Images, names: Sequence[str]) -> list[NDArray[np.float32]]:
        starts = range(0, len(images), BATCH_SIZE)
        batches = [
            session.run(list(names), {INPUT: np.ascontiguousarray(images[at : at + BATCH_SIZE])})
            for at in track(starts, f"scoring with {path.name}", transient=True)
        ]
        return [np.concatenate(rows) for rows in zip(*batches, strict=True)]

    def outputs(images: Images) -> tuple[Logits, NDArray[np.float32]]:
        logits, embeddings = run(images, ("logits", "embedding"))
        return logits, embeddings

    def maps(images: Images) -> Maps:
        if has_attention:
            attention, evidence = run(images, ("attention", "evidence"))
            return attention, evidence
        (evidence,) = run(images, ("evidence",))
        return np.empty((len(images), 0, 1, 1), np.float32), evidence

    return MeasuredModel(
        ExternalModel(model=f"{manifest.name} {manifest.version}", file=path.name, sha256=digest),
        _config(manifest.name, manifest.version, manifest.classes, preprocessing.input_size),
        manifest.temperature,
        outputs,
        maps,
        tuple(manifest.attention_scales),
        path.with_suffix(".split.csv"),
        manifest.trust,
        tuple(manifest.unsupported),
    )


def _config(name: str, version: str, classes: Sequence[object], size: int) -> Config:
    source = SourceConfig(name="external", folder=Path("."), licence="not stated", attribution="External pictures.")
    return Config.model_validate(
        {
            "name": name,
            "version": version,
            "classes": tuple(classes),
            "model": ModelConfig(input_size=size),
            "data": DataConfig(sources=(source,)),
            "card": CardConfig(intended_use="External validation.", licence="not stated"),
        }
    )


def run_model(run: RunFolder) -> MeasuredModel:
    """A trained run, by torch; with its temperature if it was evaluated, else 1.

    Raises:
        RunError: training has not ended.
    """
    from training.evaluation.network_outputs import load_network, maps, outputs

    config, weights = run.config(), run.weights_file()
    net = load_network(config, weights)
    evaluated: list[MeasuredBlock] = [block for block in MEASURED_BLOCKS if run.is_evaluated(block)]
    intended = {source.name for source in config.data.sources if source.tissue == config.card.tissue}
    images = [counts for source, counts in run.training_images().items() if source in intended]
    total = {code: sum(counts[code] for counts in images) for code in config.codes}

    def answer(pictures: Images) -> tuple[Logits, NDArray[np.float32]]:
        found = outputs(net, config, pictures)
        return found.logits, found.embeddings

    def heat_maps(pictures: Images) -> Maps:
        attention, evidence = maps(net, config, pictures)
        return attention, evidence

    return MeasuredModel(
        ExternalModel(
            model=f"{config.name} {config.version}",
            file=run.folder.resolve().name,
            sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        ),
        config,
        run.evaluation(evaluated[0]).temperature if evaluated else 1.0,
        answer,
        heat_maps,
        tuple(net.attention_scales),
        run.folder / "split.csv",
        run.trust(),
        tuple(code for code, count in total.items() if count < config.card.min_training_images),
    )


def is_external(run: RunFolder, data: Path) -> bool:
    """Whether --data is a list, or a folder without any source of the run but with folders of its classes.

    Raises:
        RunError: the run has no configuration.
    """
    if data.is_file():
        return True
    config = run.config()
    for source in config.data.sources:
        if source.shards or any((data / path).exists() for path in (source.folder, source.list) if path):
            return False
    names = {name for source in config.data.sources for name in (*source.classes, *config.codes)}
    return data.is_dir() and any(entry.is_dir() and entry.name in names for entry in data.iterdir())


def evaluate_external(
    model: MeasuredModel, root: Path, source: SourceConfig, out: Path, cache: Path | None = None
) -> ExternalResult:
    """Measure a model on a source and write the result to a folder.

    Args:
        root: the --data folder of the source.

    Raises:
        DataError: the pictures contradict the class list, or none can be read.
        RunError: the folder contains a trained run.
    """
    run, codes = RunFolder(out), model.config.codes
    if run.weights.exists():
        raise RunError(run.weights, "is a trained run; choose another folder with --out")
    found = index_source(root, source, codes)
    size, crops = model.config.model.input_size, {source.name: source.crop}
    pictures = decode_samples(found.samples, codes, size, crops, "reading pictures", cache)
    if not pictures.samples:
        raise DataError(root, f"no readable picture of a class of the model; its classes: {', '.join(codes)}")
    logits, embeddings = model.outputs(pictures.images)
    config = _with_source(model.config, source)
    scores = scores_of(pictures.samples, logits, model.temperature, codes)
    evaluation = measure(config, scores, model.temperature, describe_splits(config, CHOSEN))
    trust = _decisions(model, pictures, logits, embeddings)
    evaluation = evaluation.model_copy(update={"trust": trust})
    about = model.about.model_copy(update={"seen": _seen(pictures.samples, model.split_list)})
    out.mkdir(parents=True, exist_ok=True)
    write_scores(run.logits, {"test": scores})
    write_predictions(out / "predictions.csv", scores)
    run.write_unreadable(pictures.unreadable)
    run.write_evaluation(evaluation)
    run.write_external(about)
    run.write_start(_toml(config), split_csv({block: pictures.samples if block == "test" else [] for block in BLOCKS}))
    return ExternalResult(evaluation, about, pictures.unreadable, found.left_out, found.passed_over)


def _with_source(config: Config, source: SourceConfig) -> Config:
    """The configuration of the result: the model's, with the source in place of its own."""
    card = config.card.model_copy(update={"tissue": source.tissue})
    return config.model_copy(update={"data": DataConfig(sources=(source,)), "card": card})


def _toml(config: Config) -> str:
    return tomlkit.dumps(config.model_dump(mode="json", exclude_defaults=True, exclude_none=True))


def _seen(samples: Sequence[Sample], split_list: Path) -> int | None:
    """How many pictures bear the file name of a training picture of the model; None without its split list."""
    if not split_list.is_file():
        return None
    names = {file_name(name) for _, _, name in listed_keys(split_list, "train")}
    return sum(file_name(sample.name) in names for sample in samples)


def _decisions(
    model: MeasuredModel, pictures: LabelledImages, logits: Logits, embeddings: NDArray[np.float32]
) -> MeasuredTrust | None:
    """Decisions and prediction sets on the pictures of supported classes; None if the model has no thresholds."""
    codes = model.config.codes
    known = np.flatnonzero([sample.code not in model.unsupported for sample in pictures.samples])
    if model.trust is None or not len(known):
        return None
    probabilities = np.exp(log_probabilities(logits[known], model.temperature)).astype(np.float32)
    measures = measure_quality(np.asarray(pictures.images)[known])
    cells = LabelledPredictions(probabilities, embeddings[known], measures, pictures.labels[known])
    assessor = Assessor(model.trust, codes, list(model.unsupported))
    patients = patient_numbers([pictures.samples[row] for row in known])
    return measured_decisions(codes, cells, assessor, "external pictures", model.trust.sets.coverage, patients)
