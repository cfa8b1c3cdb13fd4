"""What an artefact states about its graph: class names in the graph's metadata, probe answers in the manifest."""

import hashlib

import onnx
import onnxruntime

from model.contract import INPUT, Manifest
from model.meaning import as_metadata, difference, from_metadata, meaning_of
from model.probes import STORED, probe_images, recorded


def with_metadata(graph: bytes, manifest: Manifest) -> tuple[bytes, Manifest]:
    """The graph with classes, preprocessing and attention scales in its metadata; the manifest with the new sha256.

    The metadata is appended: two concatenated Protocol Buffers messages are one with the fields of both, so the graph's
    bytes stay as they are. `drift_sha256` is cleared, because a drift reference belongs to one sha256.
    """
    metadata = onnx.ModelProto()
    onnx.helper.set_model_props(metadata, as_metadata(meaning_of(manifest)))
    graph += metadata.SerializeToString()
    return graph, manifest.model_copy(update={"sha256": hashlib.sha256(graph).hexdigest(), "drift_sha256": None})


def with_probes(graph: bytes, manifest: Manifest) -> Manifest:
    """The manifest with the graph's outputs for the probe pictures, computed on the CPU.

    Raises:
        ValueError: onnxruntime cannot run the graph, an output is not finite, or the metadata is
            missing or contradicts the manifest.
    """
    images = probe_images(manifest, STORED)
    try:
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        outputs = session.run(list(manifest.output_names), {INPUT: images})
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"onnxruntime cannot run the graph: {reason}") from error
    probes = recorded(images, dict(zip(manifest.output_names, outputs, strict=True)))
    metadata = from_metadata(session.get_modelmeta().custom_metadata_map)
    if other := difference(metadata, meaning_of(manifest)):
        raise ValueError(other)
    return Manifest.model_validate(manifest.model_dump() | {"probes": probes})
