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
from training.data.images import Pictures, Unreadable, decode_all
from training.data.index import recorded, survey, twin_sentence
from training.data.near_duplicates import write_twins
from training.data.samples import Block, DataError, Parts, sha256_of, split_list
from training.data.splits import describe
from training.evaluation.scores import write_evaluation
from training.run import Ancestor, Evaluation, Run
from training.terminal import RANK, complain, say

if TYPE_CHECKING:
    from training.data.wait_times import Waits
    from training.fit.train import Execution


def begin(config: Config, text: str, run: Run, data: Path, cache: Path, network: bool = True) -> Parts:
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
    from training.fit.distributed import agreed, each

    began: list[Parts] = []

    def split() -> str:
        began.append(_begun(config, text, run, data, cache, network))
        return split_list(began[0])

    told = agreed(split)
    return each(lambda: began[0] if began else recorded(config.data, data, config.codes, told))


def _begun(config: Config, text: str, run: Run, data: Path, cache: Path, network: bool) -> Parts:
    from training.fit.pretrained import check_origin

    if run.begun(config):
        return recorded(config.data, data, config.codes, run.split())
    if network and (advice := check_origin(config)):
        complain(advice)
    parts = _new_parts(config, run, data, cache)
    if not RANK:
        _start(config, text, run, split_list(parts), network)
    return parts


def _start(config: Config, text: str, run: Run, split: str, network: bool) -> None:
    from training.fit.pretrained import ancestors_of

    ancestors = ancestors_of(config, split) if network else ()
    run.write_ancestors(ancestors)  # first: what a run has begun with must stand there once it counts as begun
    run.start(text, split)
    tell_of(ancestors, config)


def tell_of(ancestors: tuple[Ancestor, ...], config: Config) -> None:
    """Say what a run began with and who taught it, and complain of what follows for its figures and its licence."""
    from training.fit.pretrained import laxer

    for at, ancestor in enumerate(ancestors):
        say(ancestor.attribution[0])
        if ancestor.limit:
            (complain if ancestor.seen else say)(ancestor.limit)
        if config.model.init and at == 0 and laxer(config.card.licence, ancestor.licence):
            theirs = ancestor.licence or "not known"
            complain(f"card.licence {config.card.licence!r} asks less than that of what it begins with: {theirs}")


def _new_parts(config: Config, run: Run, data: Path, cache: Path) -> Parts:
    """The blocks that a new run will have; tells of twins, and lists them in the run's folder."""
    found = survey(config.data, data, config.codes, cache)
    say(twin_sentence(found, config.data))
    if not RANK:
        run.clear()
    if config.data.twins.action != "off" and not RANK:
        write_twins(run.twins, found.twins, found.samples, found.said, found.blocks)
    return found.parts


def train(
    config: Config,
    parts: Parts,
    run: Run,
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
    from training.fit.distributed import check_alike, first_here
    from training.fit.module import OVERSIZE
    from training.fit.train import Execution, fit

    pictures = first_here(lambda: decoded(config, parts, "train", round(config.model.input_size * OVERSIZE), cache))
    calibration = first_here(lambda: decoded(config, parts, "calibration", config.model.input_size, cache))
    for block in (pictures, calibration):  # row 7 must be the same picture everywhere
        check_alike(sha256_of(repr([sample.key for sample in block.samples])), "the pictures that can be read")
    if not RANK:
        run.write_unreadable([*pictures.unreadable, *calibration.unreadable])
    if len(pictures.samples) < config.fit.batch_size:
        raise DataError(run.folder, f"{len(pictures.samples)} readable training pictures do not fill one batch")
    fit(config, pictures, calibration, run, named, say, execution or Execution(), waits)


def evaluate(run: Run, data: Path, cache: Path) -> Evaluation:
    """Fit the temperature on the calibration block, measure the test block and write both to the run's folder.

    Raises:
        RunError: the run has not been trained.
        DataError: the pictures are not those that it was trained with.
    """
    from training.evaluation.evaluate import load_network, score

    config = run.config()
    net = load_network(config, run.trained_weights())
    return evaluate_with(lambda images: score(net, config, images), run, data, cache)


def evaluate_with(
    logits_of: Callable[[NDArray[np.uint8]], NDArray[np.float32]], run: Run, data: Path, cache: Path
) -> Evaluation:
    """The same with whatever gives logits (N, C) of pictures (N, S, S, 3)."""
    from training.evaluation.evaluate import evaluate as evaluate_logits

    config = run.config()
    parts = recorded(config.data, data, config.codes, run.split())
    calibration, test = (
        decoded(config, parts, block, config.model.input_size, cache) for block in ("calibration", "test")
    )
    logits = logits_of(calibration.images), logits_of(test.images)
    evaluation, scores = evaluate_logits(config, calibration, test, logits)
    write_evaluation(run, evaluation, scores)
    return evaluation


def export(run: Run, out: Path, precision: Precision = "fp32") -> tuple[Path, Manifest]:
    """Write the artefact of an evaluated run: its ONNX, which is returned with the manifest, and the manifest.

    Raises:
        RunError: the run has not been evaluated.
        ValueError: the graph does not do what the network does.
    """
    from training.evaluation.evaluate import load_network
    from training.export.export import ExportError, Trained
    from training.export.export import export as export_network
    from training.export.fp16 import HalfError
    from training.fit.pretrained import ancestors_of

    config, evaluation = run.config(), run.evaluation()
    net = load_network(config, run.trained_weights())
    division = describe(config.data, run.twins.exists())
    ancestors = run.ancestors()
    if ancestors is None:
        ancestors = ancestors_of(config, run.split())
    tell_of(ancestors, config)
    trained = Trained(config, net, evaluation, run.training_images(), division, run.split_sha256(), ancestors)
    try:
        return export_network(trained, out, precision)
    except (ExportError, HalfError) as error:
        raise ValueError(f"not exported: {error}") from error


def decoded(config: Config, parts: Parts, block: Block, size: int, cache: Path | None) -> Pictures:
    """The pictures of a block; those that cannot be read are named on standard error."""
    crops = {source.name: source.crop for source in config.data.sources}
    pictures = decode_all(parts[block], config.codes, size, crops, f"reading {block}", cache)
    list_unreadable(pictures.unreadable)
    return pictures


def list_unreadable(unreadable: list[Unreadable]) -> None:
    """Name them on standard error."""
    for entry in unreadable:
        complain(f"unreadable: {entry.sample.path}: {entry.reason}")
    if unreadable:
        complain(f"{len(unreadable)} unreadable pictures were left out")
