"""A graph that says itself what its numbers mean: at its export, or later for an artefact whose graph says nothing.

Knows ONNX files, the contract and an artefact's files. Knows no network. What a graph computes is never touched: the
words are put behind its bytes.
"""

import hashlib
from pathlib import Path

import onnx

from model import atomic_file
from model.contract import Manifest, manifest_text, read_manifest
from model.meaning import as_metadata, from_metadata, meaning_of
from training.export.probes import with_probes


def bound(graph: bytes, manifest: Manifest) -> tuple[bytes, Manifest]:
    """The graph with what its manifest says of its numbers, and the manifest with the sha256 of that.

    Without a drift reference, which is of a graph by its sha256.

    Two messages of Protocol Buffers one after the other are one that has the fields of both: all bytes of the graph
    stay where they are.
    """
    words = onnx.ModelProto()
    onnx.helper.set_model_props(words, as_metadata(meaning_of(manifest)))
    graph += words.SerializeToString()
    return graph, manifest.model_copy(update={"sha256": hashlib.sha256(graph).hexdigest(), "drift_sha256": None})


def bind(artefact: Path) -> Manifest:
    """Do that for an artefact whose graph says nothing yet: it answers the same, under another sha256.

    The manifest gets that sha256 and the answers to the probe pictures, and a card beside it, where there is one, the
    sha256.

    Args:
        artefact: the .onnx file; its manifest lies beside it.

    Raises:
        ArtefactError: the manifest cannot be read.
        OSError: a file cannot be read or written.
        ValueError: the graph says already what its numbers mean, or is not the manifest's; see also `with_probes`.
    """
    from training.export.card import CARD

    path, card = artefact.with_suffix(".json"), artefact.with_name(CARD)
    old, graph = read_manifest(path), artefact.read_bytes()
    if hashlib.sha256(graph).hexdigest() != old.sha256:
        raise ValueError(f"{artefact}: its sha256 is not the one that its manifest has")
    if from_metadata({entry.key: entry.value for entry in onnx.load_from_string(graph).metadata_props}) is not None:
        raise ValueError(f"{artefact}: says already what its numbers mean; other classes need an export of their own")
    graph, manifest = bound(graph, old)
    manifest = with_probes(graph, manifest)
    # Between these two a service that reads them anew refuses them, and its model stays.
    atomic_file.write_bytes(artefact, graph)
    atomic_file.write_bytes(path, manifest_text(manifest).encode())
    if card.exists():
        atomic_file.write_bytes(card, card.read_bytes().replace(old.sha256.encode(), manifest.sha256.encode()))
    return manifest
