"""Accuracy of exported models on the same pictures, side by side.

Only the calibration block of a run is read, so that models can be chosen without a test picture. Pictures that a model
learned from are left out for all of them, by the split lists beside the artefacts. Of the classes, those count that all
models support; every model still chooses among all its outputs.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from model.contract import INPUT, Manifest, read_manifest
from training.compare.speed import cores, open_session
from training.config import Config
from training.data.images import decode_samples
from training.data.index import load_split
from training.data.samples import DataError, Sample, listed_keys
from training.evaluation.metrics import wilson
from training.evaluation.paired import Labels, bootstrap, holm, mean_scores, middle_95, p_value
from training.evaluation.tables import Table
from training.run import RunFolder

#: Pictures of one run of a graph.
BATCH_SIZE = 64


class Pictures(NamedTuple):
    """The pictures that all models are measured on, and what was left out."""

    samples: list[Sample]
    codes: tuple[str, ...]  # of the classes that count
    learned: int  # pictures left out because a model learned from them
    without_list: tuple[str, ...]  # models without a split list: what they learned from is unknown


def accuracy_table(artefacts: Mapping[str, Path], run: RunFolder, data: Path, cache: Path | None) -> Table:
    """Accuracy and macro F1 of every model, and the difference to the first with McNemar's test.

    Args:
        artefacts: name → ONNX file with its manifest beside it.
        run: its calibration block of the intended tissue (`card.tissue`) is used.
        cache: folder of decoded pictures.

    Raises:
        ArtefactError, ValueError: an artefact cannot be read or run.
        DataError: no picture is left.
    """
    config = run.config()
    manifests = {name: read_manifest(path.with_suffix(".json")) for name, path in artefacts.items()}
    pictures = _pictures(config, run, data, artefacts, manifests.values())
    labels = np.array([config.codes.index(sample.code) for sample in pictures.samples], dtype=np.int64)
    predicted = {
        name: _predictions(path, manifests[name], config, pictures.samples, cache) for name, path in artefacts.items()
    }
    return _table(labels, predicted, pictures)


def _pictures(
    config: Config, run: RunFolder, data: Path, artefacts: Mapping[str, Path], manifests: Iterable[Manifest]
) -> Pictures:
    block = load_split(config.data, data, config.codes, run.split())["calibration"]
    supported = set(config.codes).intersection(*({*m.codes} - {*m.unsupported} for m in manifests))
    intended = {source.name for source in config.data.sources if source.tissue == config.card.tissue}
    chosen = [sample for sample in block if sample.source in intended and sample.code in supported]
    lists = {name: path.with_suffix(".split.csv") for name, path in artefacts.items()}
    learned = {key for path in lists.values() if path.exists() for key in listed_keys(path, "train")}
    kept = [sample for sample in chosen if sample.key not in learned]
    if not kept:
        raise DataError(
            data, "no calibration picture is left that no model learned from, of a class that all models support"
        )
    codes = tuple(code for code in config.codes if code in {sample.code for sample in kept})
    without_list = tuple(name for name, path in lists.items() if not path.exists())
    return Pictures(kept, codes, len(chosen) - len(kept), without_list)


def _predictions(
    path: Path, manifest: Manifest, config: Config, samples: Sequence[Sample], cache: Path | None
) -> Labels:
    """Predicted classes (n,) as indices of the run's classes; -1 for a class that the run does not have."""
    crops = {source.name: source.crop for source in config.data.sources}
    size, title = manifest.preprocessing.input_size, f"reading for {path.name}"
    pictures = decode_samples(samples, config.codes, size, crops, title, cache)
    if pictures.unreadable:
        raise DataError(pictures.unreadable[0].sample.path, pictures.unreadable[0].reason)
    session = open_session(path, cores())
    starts = track(range(0, len(samples), BATCH_SIZE), description=f"scoring with {path.name}", transient=True)
    rows = [session.run(["logits"], {INPUT: _batch(pictures.images, start)})[0].argmax(axis=1) for start in starts]
    index = {code: at for at, code in enumerate(config.codes)}
    return np.array([index.get(code, -1) for code in manifest.codes], dtype=np.int64)[np.concatenate(rows)]


def _batch(images: NDArray[np.uint8], start: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(images[start : start + BATCH_SIZE])


def _table(labels: Labels, predicted: Mapping[str, Labels], pictures: Pictures) -> Table:
    first = next(iter(predicted.values()))
    draws = {name: bootstrap(labels, of_model[None]).accuracy for name, of_model in predicted.items()}
    others = list(predicted)[1:]
    corrected = holm([p_value(labels, first[None], predicted[name][None]) for name in others])
    base = next(iter(draws.values()))
    differences = {
        name: (_difference(labels, predicted[name], first, *middle_95(draws[name] - base)), f"{p:.3g}")
        for name, p in zip(others, corrected, strict=True)
    }
    rows = tuple(
        (name, *_scores(labels, of_model), *differences.get(name, ("", ""))) for name, of_model in predicted.items()
    )
    return Table(
        f"Calibration block, n = {len(labels)}, classes {', '.join(pictures.codes)}",
        ("model", "accuracy", "macro F1", "− first, points", "p"),
        rows,
        _note(pictures),
    )


def _scores(labels: Labels, predicted: Labels) -> tuple[str, str]:
    hits, n = int((predicted == labels).sum()), len(labels)
    low, high = wilson(hits, n)
    return f"{hits / n:.3f} ({low:.3f}–{high:.3f})", f"{mean_scores(labels, predicted[None]).macro_f1:.3f}"


def _difference(labels: Labels, predicted: Labels, first: Labels, low: float, high: float) -> str:
    change = (predicted == labels).mean() - (first == labels).mean()
    return f"{100 * change:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _note(pictures: Pictures) -> str:
    text = (
        "Classes that all models support; each model chooses among all its outputs. In brackets: 95 % interval "
        "(accuracy: Wilson; difference: paired bootstrap). p: McNemar's exact test, after Holm."
    )
    if pictures.learned:
        text += f" Left out: {pictures.learned} pictures that a model learned from."
    if pictures.without_list:
        text += (
            f" Without a split list, so it may have learned from these pictures: {', '.join(pictures.without_list)}."
        )
    return text
