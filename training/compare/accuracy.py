"""Accuracy of exported models on the same pictures, side by side.

Only the calibration block of a run is read, so that models can be chosen without a test picture. Pictures that a model
learned from or was tested on are left out for all of them, by the split lists beside the artefacts; what its teachers
and initial weights learned from is not checked. Only classes that all models support count; every model still chooses
among all its outputs.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from model.agreement.class_averages import Labels
from model.agreement.clustered import proportion
from model.contract import INPUT, ArtefactError, Manifest, read_manifest
from model.report.page import Table
from training.config import Config
from training.data.images import decode_samples
from training.data.index import load_split
from training.data.samples import DataError, Sample, file_name, listed_keys, patient_numbers
from training.evaluation.paired import Scores, draw_scores, holm, p_value
from training.evaluation.tables import patients_sentence
from training.onnx_session import cores, open_session
from training.run import RunFolder

#: Pictures of one run of a graph.
BATCH_SIZE = 64


class Pictures(NamedTuple):
    """The pictures that all models are measured on, and what was left out."""

    samples: list[Sample]
    codes: tuple[str, ...]  # of the classes that count
    learned: int  # pictures left out because a model learned from them or was tested on them
    unreadable: int
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
    manifests = {name: _manifest(path) for name, path in artefacts.items()}
    chosen = _pictures(config, run, data, artefacts, manifests.values())
    sizes = {manifest.preprocessing.input_size for manifest in manifests.values()}
    pictures, images = _decoded(chosen, config, sizes, cache)
    labels = np.array([config.codes.index(sample.code) for sample in pictures.samples], dtype=np.int64)
    predicted = {
        name: _predictions(path, manifests[name], config, images[manifests[name].preprocessing.input_size])
        for name, path in artefacts.items()
    }
    return _table(labels, predicted, pictures, len(config.codes))


def _manifest(path: Path) -> Manifest:
    manifest = read_manifest(path.with_suffix(".json"))
    if hashlib.sha256(path.read_bytes()).hexdigest() != manifest.sha256:
        raise ArtefactError(path, "is not the graph that its manifest describes: the sha256 differs")
    return manifest


def _pictures(
    config: Config, run: RunFolder, data: Path, artefacts: Mapping[str, Path], manifests: Iterable[Manifest]
) -> Pictures:
    block = load_split(config.data, data, config.codes, run.split())["calibration"]
    supported = set(config.codes).intersection(*({*m.codes} - {*m.unsupported} for m in manifests))
    intended = {source.name for source in config.data.sources if source.tissue == config.card.tissue}
    chosen = [sample for sample in block if sample.source in intended and sample.code in supported]
    lists = {name: path.with_suffix(".split.csv") for name, path in artefacts.items()}
    unreadable = run.unreadable_keys()
    readable = [sample for sample in chosen if sample.key not in unreadable]
    kept = readable
    for path in lists.values():
        kept = _unused(kept, path) if path.exists() else kept
    if not kept:
        raise DataError(data, "no calibration picture is left that no model learned from, of a class that all support")
    codes = tuple(code for code in config.codes if code in {sample.code for sample in kept})
    without_list = tuple(name for name, path in lists.items() if not path.exists())
    return Pictures(kept, codes, len(readable) - len(kept), len(chosen) - len(readable), without_list)


def _unused(samples: Sequence[Sample], split_list: Path) -> list[Sample]:
    """The samples that are neither training nor test pictures of a split list.

    Pictures of a source that the list names are compared by source, class and file, others by file name: the same data
    may have another name there.
    """
    used = listed_keys(split_list, "train") | listed_keys(split_list, "test")
    sources = {source for source, _, _ in used}
    names = {file_name(file) for _, _, file in used}
    return [
        sample
        for sample in samples
        if sample.key not in used and (sample.source in sources or file_name(sample.name) not in names)
    ]


def _decoded(
    pictures: Pictures, config: Config, sizes: Iterable[int], cache: Path | None
) -> tuple[Pictures, dict[int, NDArray[np.uint8]]]:
    """Size → pictures (n, size, size, 3), without those that cannot be decoded."""
    crops = {source.name: source.crop for source in config.data.sources}
    decoded = {
        size: decode_samples(pictures.samples, config.codes, size, crops, f"reading at {size} px", cache)
        for size in sorted(sizes)
    }
    failed = {entry.sample.key for found in decoded.values() for entry in found.unreadable}
    kept = [sample for sample in pictures.samples if sample.key not in failed]
    images = {
        size: found.images[[at for at, sample in enumerate(found.samples) if sample.key not in failed]]
        for size, found in decoded.items()
    }
    return pictures._replace(samples=kept, unreadable=pictures.unreadable + len(failed)), images


def _predictions(path: Path, manifest: Manifest, config: Config, images: NDArray[np.uint8]) -> Labels:
    """Predicted classes (n,) as indices of the run's classes; their number for any class that the run does not have."""
    session = open_session(path, cores())
    starts = track(range(0, len(images), BATCH_SIZE), description=f"scoring with {path.name}", transient=True)
    rows = [session.run(["logits"], {INPUT: images[at : at + BATCH_SIZE]})[0].argmax(axis=1) for at in starts]
    index = {code: at for at, code in enumerate(config.codes)}
    own = np.array([index.get(code, len(index)) for code in manifest.codes], dtype=np.int64)
    return own[np.concatenate(rows)]


def _table(labels: Labels, predicted: Mapping[str, Labels], pictures: Pictures, classes: int) -> Table:
    first, *others = predicted
    patients = patient_numbers(pictures.samples)
    classes += any((of_model == classes).any() for of_model in predicted.values())
    drawn = {name: draw_scores(labels, of_model[None], classes, patients) for name, of_model in predicted.items()}
    corrected = holm([p_value(labels, predicted[first][None], predicted[name][None]) for name in others])
    differences = {
        name: (_difference(drawn[name], drawn[first]), f"{p:.3g}") for name, p in zip(others, corrected, strict=True)
    }
    rows = tuple(
        (name, *_scores(predicted[name] == labels, of_model, patients), *differences.get(name, ("", "")))
        for name, of_model in drawn.items()
    )
    return Table(
        f"Calibration block, n = {len(labels)}, classes {', '.join(pictures.codes)}",
        ("model", "accuracy", "macro F1", "balanced accuracy", "− first, points", "p"),
        rows,
        _note(pictures, patients),
    )


def _scores(right: NDArray[np.bool_], drawn: Scores, patients: Labels | None) -> tuple[str, ...]:
    share = proportion(right, patients)
    averages = ((one.value, *one.interval()) for one in (drawn.macro_f1, drawn.balanced_accuracy))
    ends = ((drawn.accuracy.value, share.low, share.high), *averages)
    return tuple(f"{value:.3f} ({low:.3f}–{high:.3f})" for value, low, high in ends)


def _difference(drawn: Scores, first: Scores) -> str:
    change = drawn.accuracy - first.accuracy
    low, high = change.difference_interval()
    return f"{100 * change.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _note(pictures: Pictures, patients: Labels | None) -> str:
    text = (
        "Classes that all models support; each model chooses among all its outputs. In brackets: 95 % interval "
        "(accuracy: Wilson; the others, and differences: Bayesian bootstrap). p: McNemar's exact test, after Holm. "
        f"{patients_sentence(None if patients is None else len(np.unique(patients)))}"
    )
    if pictures.learned:
        text += f" Left out: {pictures.learned} that a model learned from or was tested on."
    if pictures.unreadable:
        text += f" Unreadable: {pictures.unreadable}."
    if pictures.without_list:
        text += (
            f" Without a split list, so it may have learned from these pictures: {', '.join(pictures.without_list)}."
        )
    return text
