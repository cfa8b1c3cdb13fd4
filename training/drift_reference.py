"""Drift reference of an artefact, from its calibration pictures.

Training pictures are excluded, because a network is more certain of them than of new ones; test pictures are excluded
too. Classes are those that the graph predicts, not the labels.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
from rich.progress import track

from model import atomic_file
from model.contract import INPUT, Manifest, manifest_text, read_manifest
from model.drift.fitting import DRAWS, ReferenceSamples, fit_reference
from model.drift.reference import SUFFIX, reference_text, text_sha256
from training.config import Config
from training.data.images import LabelledImages
from training.data.index import load_split
from training.data.samples import Sample, sha256_of
from training.pipeline import decode_block

_BATCH = 16


def store_drift_reference(
    artefact: Path, config: Config, data: Path, cache: Path | None = None, draws: int = DRAWS
) -> tuple[Manifest, str]:
    """Write NAME.drift.json beside an artefact and its sha256 into the manifest.

    Args:
        artefact: the .onnx file, with its manifest and split list beside it.
        config: the configuration that it was trained with.
        data: the --data folder.
        draws: random windows of each size, from which thresholds are computed.

    Returns:
        The manifest, and a description of the pictures.

    Raises:
        ArtefactError: the manifest cannot be read.
        DataError: the pictures are not those of the split list.
        OSError: a file cannot be read or written.
        ValueError: graph or split list do not match the manifest, or there are too few pictures.
    """
    manifest, graph = read_manifest(artefact.with_suffix(".json")), artefact.read_bytes()
    if hashlib.sha256(graph).hexdigest() != manifest.sha256:
        raise ValueError(f"{artefact}: its sha256 differs from the one in its manifest")
    split = artefact.with_suffix(".split.csv").read_bytes().decode()
    if sha256_of(split) != manifest.split_sha256:
        raise ValueError(f"{artefact.with_suffix('.split.csv')}: not the split list of {manifest.name}")
    sources = {source.name for source in config.data.sources if source.tissue == config.card.tissue}
    blocks = load_split(config.data, data, config.codes, split)
    blocks["calibration"] = [sample for sample in blocks["calibration"] if sample.source in sources]
    pictures = decode_block(config, blocks, "calibration", manifest.preprocessing.input_size, cache)
    groups = patient_groups(pictures.samples)
    drawn = "patient" if groups else "groups of like colour, because patients are unknown"
    source = (
        f"calibration block of {', '.join(sorted(sources))} ({config.card.tissue}), {len(pictures.samples)} pictures, "
        f"not used for training or testing, drawn by {drawn}"
    )
    text = reference_text(fit_reference(_gathered(graph, pictures, groups), manifest, source, draws=draws))
    atomic_file.write_text(artefact.with_suffix(SUFFIX), text)
    manifest = manifest.model_copy(update={"drift_sha256": text_sha256(text)})
    atomic_file.write_text(artefact.with_suffix(".json"), manifest_text(manifest))
    return manifest, source


def _gathered(graph: bytes, pictures: LabelledImages, groups: Sequence[int]) -> ReferenceSamples:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    gathered = ReferenceSamples()
    for start in track(range(0, len(pictures.samples), _BATCH), description="drift reference", transient=True):
        images = pictures.images[start : start + _BATCH]
        embeddings, probabilities = session.run(["embedding", "probabilities"], {INPUT: images})
        gathered.add(embeddings, probabilities, images, groups[start : start + _BATCH])
    return gathered


def patient_groups(samples: Sequence[Sample]) -> list[int]:
    """Group number of each sample by its patient; empty if a patient is unknown."""
    patients = [(sample.source, sample.patient) for sample in samples]
    if not all(patient for _, patient in patients):
        return []
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    return [numbers[patient] for patient in patients]
