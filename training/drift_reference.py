"""An artefact's drift reference, from the pictures that its probabilities were calibrated on.

Knows onnxruntime, the split list and an artefact's files. No picture that was learned from is in it, for a network is
surer of those than of any other, and none of the test block; classes are what the graph names, never the labels.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
from rich.progress import track

from model import atomic_file
from model.contract import INPUT, Manifest, manifest_text, read_manifest
from model.drift.fitting import DRAWS, RUN_LENGTH, Gathered, made
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
    """Write NAME.drift.json beside an artefact, and its sha256 into the manifest; all else there stays.

    Args:
        artefact: the .onnx file; its manifest and its split list lie beside it.
        config: what it was trained with.
        data: folder that the sources' folders lie in.
        draws: windows of each size that thresholds are taken from.

    Returns:
        The manifest, and which pictures it was.

    Raises:
        ArtefactError: the manifest cannot be read.
        DataError: the pictures are not those of the split list.
        OSError: a file cannot be read or written.
        ValueError: the graph or the split list is another one, or the pictures are too few.
    """
    manifest, graph = read_manifest(artefact.with_suffix(".json")), artefact.read_bytes()
    if hashlib.sha256(graph).hexdigest() != manifest.sha256:
        raise ValueError(f"{artefact}: its sha256 is not the one that its manifest has")
    split = artefact.with_suffix(".split.csv").read_bytes().decode()
    if sha256_of(split) != manifest.split_sha256:
        raise ValueError(f"{artefact.with_suffix('.split.csv')}: is not the split list of {manifest.name}")
    meant = {source.name for source in config.data.sources if source.tissue == config.card.tissue}
    parts = load_split(config.data, data, config.codes, split)
    parts["calibration"] = [sample for sample in parts["calibration"] if sample.source in meant]
    pictures = decode_block(config, parts, "calibration", manifest.preprocessing.input_size, cache)
    source = (
        f"calibration block of {', '.join(sorted(meant))} ({config.card.tissue}), {len(pictures.samples)} pictures, "
        "which were neither learned from nor tested"
    )
    text = reference_text(made(_gathered(graph, pictures), manifest, source, draws=draws))
    atomic_file.write_text(artefact.with_suffix(SUFFIX), text)
    manifest = manifest.model_copy(update={"drift_sha256": text_sha256(text)})
    atomic_file.write_text(artefact.with_suffix(".json"), manifest_text(manifest))
    return manifest, source


def _gathered(graph: bytes, pictures: LabelledImages) -> Gathered:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    gathered, groups = Gathered(), groups_of(pictures.samples)
    for start in track(range(0, len(pictures.samples), _BATCH), description="drift reference", transient=True):
        images = pictures.images[start : start + _BATCH]
        embeddings, probabilities = session.run(["embedding", "probabilities"], {INPUT: images})
        gathered.add(embeddings, probabilities, images, groups[start : start + _BATCH])
    return gathered


def groups_of(samples: Sequence[Sample]) -> list[int]:
    """The group of each: a patient where patients are known, else neighbours in file order of one class.

    Neighbouring numbers may come from one patient.
    """
    order = sorted(range(len(samples)), key=lambda at: samples[at].sort_key)
    names: dict[int, tuple[str, str, int]] = {}
    run, before = 0, ("", "")
    for at in order:
        sample = samples[at]
        run, before = (run + 1 if before == (sample.source, sample.code) else 0), (sample.source, sample.code)
        names[at] = (sample.source, sample.patient, -1) if sample.patient else (*before, run // RUN_LENGTH)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names.values()))}
    return [numbers[names[at]] for at in range(len(samples))]
