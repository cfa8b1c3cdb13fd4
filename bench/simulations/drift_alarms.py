"""False alarms of input drift: how often undrifted pictures from few slides exceed a threshold.

    python -m bench.simulations.drift_alarms CONFIG.toml --data DATA

The reference is made from the calibration block, once with windows drawn from runs of five files and once from groups
of like colour. The windows to be tested come from the test block. Its slides are unknown: clusters of like background
and stain (training/data/appearance.py) stand for them, which is a proxy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from model.contract import Manifest
from model.drift.distance import DriftMeter, FeatureSums
from model.drift.features import Embeddings, Pictures, features
from model.drift.fitting import ReferenceSamples, fit_reference
from model.drift.reference import KINDS, DriftReference
from service.runtime.artifact import bundled_artefact
from service.runtime.session import open_session
from training.config import Config, read_config
from training.data.appearance import appearance_pairs, measure_appearance
from training.data.images import LabelledImages
from training.data.index import load_split
from training.data.samples import Block, Split
from training.data.splits import group_ids
from training.pipeline import decode_block

RUN_LENGTH, SLIDES = 5, 60
WINDOWS, SIZES = 300, (100, 200, 1000)
SLIDES_A_WINDOW = (5, 10, 20, SLIDES)
_BATCH = 16


@dataclass(frozen=True)
class _Seen:
    """Pictures of a block as the model saw them."""

    images: Pictures
    embeddings: Embeddings
    probabilities: NDArray[np.float32]


def main(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG.toml")],
    data: Annotated[Path, typer.Option()],
    artefact: Annotated[Path | None, typer.Option()] = None,
    draws: Annotated[int, typer.Option()] = 1000,
) -> None:
    """Print the share of windows above each threshold."""
    artefact, config = artefact or bundled_artefact(), read_config(config_path)
    split = _marrow(config, load_split(config.data, data, config.codes, artefact.with_suffix(".split.csv").read_text()))
    calibration, test = (_see(artefact, config, split, block) for block in ("calibration", "test"))
    rows = measure_appearance(split["test"], None)
    pairs = appearance_pairs(split["test"], rows, np.arange(len(split["test"])), SLIDES, seed=1)
    slides = group_ids(len(split["test"]), pairs)
    manifest = open_session(artefact, provider="cpu").manifest
    table = Table("windows drawn from", "slides", "pictures", *(f"{kind}, %" for kind in KINDS), box=None)
    for name, groups in (
        ("runs of five", [at // RUN_LENGTH for at in range(len(calibration.images))]),
        ("like colour", []),
    ):
        reference = _reference(calibration, manifest, groups, draws)
        for of_slides in SLIDES_A_WINDOW:
            for size in SIZES:
                above = _alarms(reference, test, slides, of_slides, size)
                table.add_row(name, str(of_slides), str(size), *(f"{100 * share:.1f}" for share in above))
        thresholds = next(row for row in reference.thresholds if row.pictures == 200)
        table.add_row(name, "", "threshold", *(f"{getattr(thresholds, kind):.2f}" for kind in KINDS), end_section=True)
    Console(highlight=False).print(table)


def _marrow(config: Config, split: Split) -> Split:
    """The pictures of the intended tissue."""
    sources = {source.name for source in config.data.sources if source.tissue == config.card.tissue}
    return {block: [sample for sample in members if sample.source in sources] for block, members in split.items()}


def _see(artefact: Path, config: Config, split: Split, block: Block) -> _Seen:
    session = open_session(artefact, provider="cpu")
    pictures: LabelledImages = decode_block(config, split, block, session.manifest.preprocessing.input_size, None)
    starts = range(0, len(pictures.images), _BATCH)
    outputs = [session.run(np.asarray(pictures.images[start : start + _BATCH])) for start in starts]
    embeddings, probabilities = ([getattr(one, name) for one in outputs] for name in ("embedding", "probabilities"))
    return _Seen(pictures.images, np.concatenate(embeddings), np.concatenate(probabilities))


def _reference(seen: _Seen, manifest: Manifest, groups: list[int], draws: int) -> DriftReference:
    gathered = ReferenceSamples()
    gathered.add(seen.embeddings, seen.probabilities, seen.images, groups)
    return fit_reference(gathered, manifest, "calibration block", draws=draws)


def _alarms(
    reference: DriftReference, test: _Seen, slides: NDArray[np.int64], of_slides: int, size: int
) -> NDArray[np.float64]:
    """Share of the windows above the threshold of each kind, (4,)."""
    meter = DriftMeter(reference)
    rows = features(test.embeddings, test.images, reference.centre, reference.basis())
    predicted, random = test.probabilities.argmax(axis=1), np.random.default_rng(5)
    above = np.zeros(len(KINDS))
    for chosen in _windows(slides, of_slides, size, random):
        sums = FeatureSums.empty(*meter.size)
        sums.add(predicted[chosen], rows[chosen])
        drifted = meter.measure(sums).drifted()
        above += [kind in drifted for kind in KINDS]
    return above / WINDOWS


def _windows(
    slides: NDArray[np.int64], of_slides: int, size: int, random: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Indices of pictures, with replacement, from randomly chosen slides."""
    known = np.unique(slides)
    for _ in range(WINDOWS):
        chosen = random.choice(known, of_slides, replace=False)
        yield random.choice(np.flatnonzero(np.isin(slides, chosen)), size)


if __name__ == "__main__":
    typer.run(main)
