"""What an artefact's graph makes of the probe pictures, for its manifest: at its export, or later where it has none.

Knows onnxruntime and the contract. Knows no torch and no network: whoever stores the answers vouches for the graph.
"""

import hashlib
from pathlib import Path

import onnxruntime

from model import atomic_file
from model.contract import INPUT, OUTPUTS, Manifest, manifest_text, read_manifest
from model.meaning import difference, digest, from_metadata, meaning_of
from model.probes import STORED, probe_images, recorded


def with_probes(graph: bytes, manifest: Manifest) -> Manifest:
    """The manifest, and in it what the graph makes of the probe pictures on the CPU.

    Of a graph that does not say what its numbers mean, also the digest of what the manifest says of it.

    Raises:
        ValueError: onnxruntime cannot run the graph, it computes what is no number, or says that its numbers mean
            something else.
    """
    images = probe_images(manifest, STORED)
    try:
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        outputs = session.run(list(OUTPUTS), {INPUT: images})
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"onnxruntime cannot run the graph: {reason}") from error
    probes = recorded(images, dict(zip(OUTPUTS, outputs, strict=True)))
    said, meant = from_metadata(session.get_modelmeta().custom_metadata_map), meaning_of(manifest)
    if said is None:
        probes = probes.model_copy(update={"meaning_sha256": digest(meant)})
    elif other := difference(said, meant):
        raise ValueError(other)
    return Manifest.model_validate(manifest.model_dump() | {"probes": probes})


def store_probes(artefact: Path) -> Manifest:
    """Compute them for an artefact whose manifest has none, and write them into it; all else there stays.

    Answers from before there was the digest of what a graph's numbers mean stay, and get it.

    Args:
        artefact: the .onnx file; its manifest lies beside it.

    Raises:
        ArtefactError: the manifest cannot be read.
        OSError: the graph cannot be read, or the manifest not be written.
        ValueError: the manifest has probes already or is another graph's; see also `with_probes`.
    """
    path = artefact.with_suffix(".json")
    manifest, graph = read_manifest(path), artefact.read_bytes()
    if hashlib.sha256(graph).hexdigest() != manifest.sha256:
        raise ValueError(f"{artefact}: its sha256 is not the one that its manifest has")
    probed = with_probes(graph, manifest)
    if manifest.probes and probed.probes:
        found = {"meaning_sha256": probed.probes.meaning_sha256}
        probed = manifest.model_copy(update={"probes": manifest.probes.model_copy(update=found)})
        if probed == manifest:
            raise ValueError(f"{path}: has probes already; another graph needs a manifest of its own")
    atomic_file.write_text(path, manifest_text(probed))  # a service that reads it anew finds the old one or this
    return probed
