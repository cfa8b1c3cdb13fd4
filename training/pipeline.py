"""The steps of a run as functions, for `fit`, `compare` and the other commands: start, train, evaluate and export.

Modules that import torch are imported inside the functions, so that other commands start quickly.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.contract import Manifest, Precision
from model.plural import plural
from training.config import Config
from training.data.images import LabelledImages, UnreadableImage, decode_samples
from training.data.index import DataIndex, index_data, leak_lines, left_out_lines, load_split
from training.data.near_duplicates import write_near_duplicates
from training.data.overlaps import write_overlaps
from training.data.samples import Block, DataError, Split, sha256_of, split_csv
from training.data.splits import describe_split
from training.evaluation.scores import write_development, write_evaluation
from training.run import Evaluation, MeasuredBlock, Provenance, RunFolder
from training.terminal import RANK, print_line, warn

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from training.evaluation.predictor import Predictor
    from training.evaluation.trust import RunTrust
    from training.fit.dataloader_timing import DataLoaderTimer
    from training.fit.train import Execution


def start_run(config: Config, text: str, run: RunFolder, data: Path, cache: Path, network: bool = True) -> Split:
    """The split of a run: read from its folder, or made and written there for a new run.

    Rank 0 makes the split; the other ranks find the same pictures under their own --data.

    Args:
        text: text of the configuration.
        data: the --data folder.
        cache: folder for decoded pictures and fingerprints.
        network: whether a network is trained (with pretrained weights and teachers).

    Raises:
        RunError: the folder holds a run of another configuration.
        PretrainedError: `model.init` does not fit; raised before pictures are read.
        DataError: the pictures contradict the configuration or the started run.
    """
    from training.fit.distributed import on_all_ranks, on_rank_zero

    own: list[Split] = []

    def split_text() -> str:
        own.append(_split(config, text, run, data, cache, network))
        return split_csv(own[0])

    received = on_rank_zero(split_text)
    return on_all_ranks(lambda: own[0] if own else load_split(config.data, data, config.codes, received))


def _split(config: Config, text: str, run: RunFolder, data: Path, cache: Path, network: bool) -> Split:
    from training.fit.pretrained import check_pretrained, provenance_of

    if run.started(config):
        return load_split(config.data, data, config.codes, run.split())
    if network and (advice := check_pretrained(config)):
        warn(advice)
    index = index_data(config.data, data, config.codes, cache)
    for line in (*left_out_lines(index), *leak_lines(index, config.data)):
        print_line(line)
    check_trainable(config, index.split, run.folder)
    if not RANK:
        run.prepare()
        write_leaks(run, index, config)
        split = split_csv(index.split)
        provenance = provenance_of(config, split) if network else ()
        run.write_provenance(provenance)  # before write_start, which marks the run as started
        run.write_start(text, split)
        print_provenance(provenance, config)
    return index.split


def check_network(config: Config) -> None:
    """Check that the network can be built.

    Raises:
        ValueError: it cannot.
    """
    from training.networks.build import check_model

    check_model(config.model)


def check_trainable(config: Config, split: Split, where: Path) -> None:
    """Check that the blocks are enough to train on.

    Raises:
        DataError: fewer training pictures than a batch, or no calibration picture of the intended tissue.
    """
    train = len(split["train"])
    if train < config.fit.batch_size:
        raise DataError(where, f"{train} training pictures are fewer than fit.batch_size {config.fit.batch_size}")
    intended = {source.name for source in config.data.sources if source.tissue == config.card.tissue}
    if not any(sample.source in intended for sample in split["calibration"]):
        raise DataError(
            where,
            f"no calibration picture of the tissue {config.card.tissue!r} (card.tissue): use more pictures, or a "
            "larger calibration share (data.split)",
        )


def write_leaks(run: RunFolder, index: DataIndex, config: Config) -> None:
    """Write twins.csv and overlaps.csv, pairs of pictures that must be in one block, as far as they were searched."""
    if config.data.twins.action != "off":
        write_near_duplicates(run.twins, index.duplicates, index.samples, index.planned, index.blocks)
    if config.data.overlaps.action != "off":
        write_overlaps(run.overlaps, index.overlaps, index.samples, index.planned, index.blocks)


def print_provenance(provenance: tuple[Provenance, ...], config: Config) -> None:
    """Print pretrained weights and teachers; warn where they saw test pictures or have a more restrictive licence."""
    from training.fit.pretrained import less_restrictive

    for at, weights in enumerate(provenance):
        print_line(weights.attribution[0])
        if weights.limit:
            (warn if weights.seen else print_line)(weights.limit)
        if config.model.init and at == 0 and less_restrictive(config.card.licence, weights.licence):
            theirs = weights.licence or "unknown"
            warn(f"card.licence {config.card.licence!r} is less restrictive than the pretrained weights' ({theirs})")


def train(
    config: Config,
    split: Split,
    run: RunFolder,
    data: Path,
    cache: Path,
    named: str,
    execution: "Execution | None" = None,
    timer: "DataLoaderTimer | None" = None,
    callbacks: "Sequence[Callback]" = (),
) -> None:
    """Train a started run, or resume it.

    Args:
        named: the configuration as `marrowlens-train fit` was given it.
        timer: records how long each batch was waited for.
        callbacks: further callbacks of Lightning.

    Raises:
        DataError: too few readable pictures.
        TrainingStopped: stopped early, with a checkpoint.
    """
    from training.fit.distributed import check_identical, local_rank_zero_first
    from training.fit.module import OVERSIZE
    from training.fit.train import Execution, fit

    size = config.model.input_size
    masks = config.needs_masks
    train = local_rank_zero_first(lambda: decode_block(config, split, "train", round(size * OVERSIZE), cache, masks))
    calibration = local_rank_zero_first(lambda: decode_block(config, split, "calibration", size, cache))
    for block in (train, calibration):  # every rank indexes the same list of pictures
        check_identical(sha256_of(repr([sample.key for sample in block.samples])), "the readable pictures")
    if not RANK:
        run.write_unreadable([*train.unreadable, *calibration.unreadable])
    if len(train.samples) < config.fit.batch_size:
        raise DataError(
            run.folder,
            f"{len(train.samples)} readable training pictures are fewer than fit.batch_size {config.fit.batch_size}",
        )
    outliers = _exposed(config, data, train.images.shape[1])
    fit(config, train, calibration, run, named, print_line, execution or Execution(), timer, callbacks, outliers)


def _exposed(config: Config, data: Path, size: int) -> NDArray[np.uint8] | None:
    """Pictures of no class, (M, S, S, 3), for outlier exposure; None without it."""
    from training.evaluation.trust import decode_folder

    pictures = []
    for folder in config.data.outliers:
        pictures.append(decode_folder(data / folder, size))
        if not len(pictures[-1]):
            raise DataError(data / folder, "no readable pictures (data.outliers)")
    return np.concatenate(pictures) if pictures else None


def evaluate(
    run: RunFolder, data: Path, cache: Path, block: MeasuredBlock = "test", *, thorough: bool = False
) -> Evaluation:
    """Fit the temperature and measure lesions on the calibration block, measure a block and write the result.

    Args:
        block: "test", or "calibration" for development figures; test pictures are then not read.
        thorough: also test the maps, fit the trust reference, and measure decisions and the response to disturbances.

    Raises:
        RunError: the run has not been trained.
        DataError: the pictures are not those of the run's split.
    """
    from training.evaluation.evaluate import fitted_temperature
    from training.evaluation.lesion import measure_lesions
    from training.evaluation.network_outputs import load_network, score
    from training.evaluation.predictor import Predictor
    from training.evaluation.robustness import measure_responses
    from training.evaluation.saliency import measure_maps

    config = run.config()
    net = load_network(config, run.weights_file())

    def diagnoses(
        calibration: LabelledImages, logits: NDArray[np.float32], test: LabelledImages | None
    ) -> Mapping[str, object]:
        lesions = {"lesions": measure_lesions(net, config, calibration)}
        if not thorough:
            return lesions
        predictor = Predictor(net, config, fitted_temperature(config, calibration, logits) or 1.0)
        trust = _fit_trust(run, data, cache, predictor, calibration)
        return lesions | {
            "maps": measure_maps(net, config, calibration),
            "responses": measure_responses(predictor, calibration, trust.decide_cross_validated if trust else None),
            "trust": trust.measured(test, _outliers(config, data)) if trust else None,
        }

    logits_of = partial(score, net, config)
    return evaluate_logits(logits_of, run, data, cache, run.weights, block, diagnoses_of=diagnoses)


def _fit_trust(
    run: RunFolder, data: Path, cache: Path, predictor: "Predictor", calibration: LabelledImages
) -> "RunTrust | None":
    """Fit the trust reference and write it to the run; None, with a warning, if there are too few cells."""
    from training.evaluation.trust import RunTrust

    config = predictor.config
    split = load_split(config.data, data, config.codes, run.split())
    train = decode_block(config, split, "train", config.model.input_size, cache)
    try:
        trust = RunTrust(predictor, train, calibration)
    except ValueError as error:
        warn(f"answers will have no decision: {error}")
        run.write_trust(None)
        return None
    for code in trust.reference.sets.never_excluded():
        count = trust.reference.sets.pictures[code]
        warn(f"{code} is in every prediction set: {count} calibration cells are too few to exclude it")
    run.write_trust(trust.reference)
    return trust


def _outliers(config: Config, data: Path) -> dict[str, NDArray[np.uint8]]:
    """Folder name → pictures of the configured outliers; a folder without pictures is left out, with a warning."""
    from training.evaluation.trust import decode_folder

    found = {}
    for folder in config.trust.outliers:
        pictures = decode_folder(data / folder, config.model.input_size)
        if len(pictures):
            found[folder.as_posix()] = pictures
        else:
            warn(f"{data / folder} contains no readable pictures: rejection is not measured on it (trust.outliers)")
    return found


def evaluate_logits(
    logits_of: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    run: RunFolder,
    data: Path,
    cache: Path,
    weights: Path,
    block: MeasuredBlock = "test",
    *,
    diagnoses_of: Callable[
        [LabelledImages, NDArray[np.float32], LabelledImages | None], Mapping[str, object]
    ] = lambda *_: {"lesions": ()},
) -> Evaluation:
    """As `evaluate`, for any function from pictures (N, S, S, 3) to logits (N, C).

    Args:
        weights: file of the weights, whose digest is recorded when the test block is measured.
        diagnoses_of: called with the calibration pictures, their logits and the test pictures (None unless the test
            block is measured); returns further fields of the evaluation. Default: the model has no named parts.
    """
    from training.evaluation.evaluate import evaluate as evaluate_blocks
    from training.evaluation.evaluate import evaluate_development

    config = run.config()
    split, size = load_split(config.data, data, config.codes, run.split()), config.model.input_size
    calibration = decode_block(config, split, "calibration", size, cache)
    logits = logits_of(calibration.images)
    if block == "calibration":
        evaluation, developed = evaluate_development(config, calibration, logits)
        evaluation = evaluation.model_copy(update=diagnoses_of(calibration, logits, None))
        write_development(run, evaluation, developed)
        return evaluation
    test = decode_block(config, split, "test", size, cache)
    test_logits = logits_of(test.images)
    diagnoses = diagnoses_of(calibration, logits, test)
    run.record_evaluation(weights, len(test.samples))
    evaluation, scores = evaluate_blocks(config, calibration, test, (logits, test_logits))
    evaluation = evaluation.model_copy(update=diagnoses)
    write_evaluation(run, evaluation, scores)
    return evaluation


def export(
    run: RunFolder,
    out: Path,
    precision: Precision = "fp32",
    block: MeasuredBlock = "test",
    *,
    allow_inert: bool = False,
) -> tuple[Path, Manifest]:
    """Write the ONNX graph and the manifest of an evaluated run; returns the graph's path and the manifest.

    Args:
        block: the block whose evaluation gives temperature and metrics.
        allow_inert: export a network with parts that the answers do not depend on.

    Raises:
        RunError: the run has not been evaluated.
        ValueError: a part is inert or was not measured, or the graph and the network disagree.
    """
    from training.evaluation.network_outputs import load_network
    from training.export.export import ExportError, Trained
    from training.export.export import export as export_network
    from training.export.fp16 import Fp16Error

    config, evaluation, provenance = run.config(), run.evaluation(block), run.provenance()
    net = load_network(config, run.weights_file())
    description = describe_split(config.data)
    print_provenance(provenance, config)
    trained = Trained(
        config,
        net,
        evaluation,
        run.training_images(),
        description,
        run.split_sha256(),
        provenance,
        run.trust(),
    )
    try:
        return export_network(trained, out, precision, allow_inert=allow_inert)
    except (ExportError, Fp16Error) as error:
        raise ValueError(f"not exported: {error}") from error


def decode_block(
    config: Config, split: Split, block: Block, size: int, cache: Path | None, masks: bool = False
) -> LabelledImages:
    """Decode the pictures of a block, see `decode_samples`; lists unreadable ones on standard error."""
    crops = {source.name: source.crop for source in config.data.sources}
    pictures = decode_samples(split[block], config.codes, size, crops, f"reading {block}", cache, masks)
    warn_unreadable(pictures.unreadable)
    return pictures


def warn_unreadable(unreadable: list[UnreadableImage]) -> None:
    """List unreadable pictures on standard error."""
    for entry in unreadable:
        warn(f"unreadable: {entry.sample}: {entry.reason}")
    if unreadable:
        warn(f"{plural(len(unreadable), 'unreadable picture')} skipped")
