"""What the commands `fit`, `evaluate` and `export` do, without their words: each step of a run, whoever asks for it.

Knows in which order data, network and run folder come together. Knows no command line.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.contract import Manifest, Precision
from training.config import Config
from training.data.images import LabelledImages, UnreadableImage, decode_samples
from training.data.index import index_data, load_split, near_duplicates_line
from training.data.near_duplicates import write_near_duplicates
from training.data.samples import Block, DataError, Split, sha256_of, split_csv
from training.data.splits import describe_split
from training.evaluation.scores import write_evaluation
from training.run import Evaluation, Provenance, RunFolder
from training.terminal import RANK, print_line, warn

if TYPE_CHECKING:
    from training.data.wait_times import Waits
    from training.fit.train import Execution


def start_run(config: Config, text: str, run: RunFolder, data: Path, cache: Path, network: bool = True) -> Split:
    """The blocks of a run: those that it began with, or new ones, which are then written to its folder.

    Of several processes the first alone looks at the folder and compares pictures; the others find the same pictures
    where their --data points.

    Args:
        text: of the configuration.
        data: what --data names.
        cache: where decoded pictures and fingerprints are kept.
        network: whether a network is trained, which may begin with weights and have teachers.

    Raises:
        RunError: the folder holds a run of another configuration.
        InitialError: a new run cannot begin with the weights that it names; said before a picture is read.
        DataError: the pictures are not as the configuration, or the run that has begun, has them.
    """
    from training.fit.distributed import on_all_ranks, on_rank_zero

    began: list[Split] = []

    def split() -> str:
        began.append(_begun(config, text, run, data, cache, network))
        return split_csv(began[0])

    told = on_rank_zero(split)
    return on_all_ranks(lambda: began[0] if began else load_split(config.data, data, config.codes, told))


def _begun(config: Config, text: str, run: RunFolder, data: Path, cache: Path, network: bool) -> Split:
    from training.fit.pretrained import check_pretrained

    if run.begun(config):
        return load_split(config.data, data, config.codes, run.split())
    if network and (advice := check_pretrained(config)):
        warn(advice)
    parts = _new_parts(config, run, data, cache)
    if not RANK:
        _start(config, text, run, split_csv(parts), network)
    return parts


def _start(config: Config, text: str, run: RunFolder, split: str, network: bool) -> None:
    from training.fit.pretrained import provenance_of

    ancestors = provenance_of(config, split) if network else ()
    run.write_ancestors(ancestors)  # first: what a run has begun with must stand there once it counts as begun
    run.start(text, split)
    print_provenance(ancestors, config)


def print_provenance(ancestors: tuple[Provenance, ...], config: Config) -> None:
    """Say what a run began with and who taught it, and complain of what follows for its figures and its licence."""
    from training.fit.pretrained import less_restrictive

    for at, ancestor in enumerate(ancestors):
        print_line(ancestor.attribution[0])
        if ancestor.limit:
            (warn if ancestor.seen else print_line)(ancestor.limit)
        if config.model.init and at == 0 and less_restrictive(config.card.licence, ancestor.licence):
            theirs = ancestor.licence or "not known"
            warn(f"card.licence {config.card.licence!r} asks less than that of what it begins with: {theirs}")


def _new_parts(config: Config, run: RunFolder, data: Path, cache: Path) -> Split:
    """The blocks that a new run will have; tells of twins, and lists them in the run's folder."""
    found = index_data(config.data, data, config.codes, cache)
    print_line(near_duplicates_line(found, config.data))
    if not RANK:
        run.clear()
    if config.data.twins.action != "off" and not RANK:
        write_near_duplicates(run.twins, found.twins, found.samples, found.said, found.blocks)
    return found.parts


def train(
    config: Config,
    parts: Split,
    run: RunFolder,
    cache: Path,
    named: str,
    execution: "Execution | None" = None,
    waits: "Waits | None" = None,
) -> None:
    """Train a run that has begun, or go on with it.

    Args:
        named: the configuration as `marrowlens-train fit` was given it.
        waits: filled with how long each batch was waited for.

    Raises:
        DataError: too few pictures can be read.
        Halted: told to stop, it has saved where.
    """
    from training.fit.distributed import check_identical, local_rank_zero_first
    from training.fit.module import OVERSIZE
    from training.fit.train import Execution, fit

    pictures = local_rank_zero_first(
        lambda: decode_block(config, parts, "train", round(config.model.input_size * OVERSIZE), cache)
    )
    calibration = local_rank_zero_first(
        lambda: decode_block(config, parts, "calibration", config.model.input_size, cache)
    )
    for block in (pictures, calibration):  # row 7 must be the same picture everywhere
        check_identical(sha256_of(repr([sample.key for sample in block.samples])), "the pictures that can be read")
    if not RANK:
        run.write_unreadable([*pictures.unreadable, *calibration.unreadable])
    if len(pictures.samples) < config.fit.batch_size:
        raise DataError(run.folder, f"{len(pictures.samples)} readable training pictures do not fill one batch")
    fit(config, pictures, calibration, run, named, print_line, execution or Execution(), waits)


def evaluate(run: RunFolder, data: Path, cache: Path) -> Evaluation:
    """Fit the temperature on the calibration block, measure the test block and write both to the run's folder.

    Raises:
        RunError: the run has not been trained.
        DataError: the pictures are not those that it was trained with.
    """
    from training.evaluation.evaluate import load_network, score

    config = run.config()
    net = load_network(config, run.trained_weights())
    return evaluate_logits(lambda images: score(net, config, images), run, data, cache)


def evaluate_logits(
    logits_of: Callable[[NDArray[np.uint8]], NDArray[np.float32]], run: RunFolder, data: Path, cache: Path
) -> Evaluation:
    """The same with whatever gives logits (N, C) of pictures (N, S, S, 3)."""
    from training.evaluation.evaluate import evaluate as evaluate_logits

    config = run.config()
    parts = load_split(config.data, data, config.codes, run.split())
    calibration, test = (
        decode_block(config, parts, block, config.model.input_size, cache) for block in ("calibration", "test")
    )
    logits = logits_of(calibration.images), logits_of(test.images)
    evaluation, scores = evaluate_logits(config, calibration, test, logits)
    write_evaluation(run, evaluation, scores)
    return evaluation


def export(run: RunFolder, out: Path, precision: Precision = "fp32") -> tuple[Path, Manifest]:
    """Write the artefact of an evaluated run: its ONNX, which is returned with the manifest, and the manifest.

    Raises:
        RunError: the run has not been evaluated.
        ValueError: the graph does not do what the network does.
    """
    from training.evaluation.evaluate import load_network
    from training.export.export import ExportError, Trained
    from training.export.export import export as export_network
    from training.export.fp16 import Fp16Error
    from training.fit.pretrained import provenance_of

    config, evaluation = run.config(), run.evaluation()
    net = load_network(config, run.trained_weights())
    division = describe_split(config.data, run.twins.exists())
    ancestors = run.ancestors()
    if ancestors is None:
        ancestors = provenance_of(config, run.split())
    print_provenance(ancestors, config)
    trained = Trained(config, net, evaluation, run.training_images(), division, run.split_sha256(), ancestors)
    try:
        return export_network(trained, out, precision)
    except (ExportError, Fp16Error) as error:
        raise ValueError(f"not exported: {error}") from error


def decode_block(config: Config, parts: Split, block: Block, size: int, cache: Path | None) -> LabelledImages:
    """The pictures of a block; those that cannot be read are named on standard error."""
    crops = {source.name: source.crop for source in config.data.sources}
    pictures = decode_samples(parts[block], config.codes, size, crops, f"reading {block}", cache)
    warn_unreadable(pictures.unreadable)
    return pictures


def warn_unreadable(unreadable: list[UnreadableImage]) -> None:
    """Name them on standard error."""
    for entry in unreadable:
        warn(f"unreadable: {entry.sample.path}: {entry.reason}")
    if unreadable:
        warn(f"{len(unreadable)} unreadable pictures were left out")
