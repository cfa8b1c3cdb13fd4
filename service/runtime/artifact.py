"""The two files of an artefact, ONNX graph and manifest, and the checks that the graph matches the manifest."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import model.contract
from model.contract import INPUT, ArtefactError, Manifest, manifest_of
from model.meaning import difference, from_metadata, meaning_of
from model.regular_file import LARGE_BYTES, SMALL_BYTES, read_regular_file
from service.runtime.onnx_file import NotOnnx, check_self_contained
from service.runtime.providers import FP32_TOLERANCE
from service.runtime.signatures import NO_VERIFICATION, Verifier

WEIGHTS = Path(model.contract.__file__).parent / "weights"


class Tensor(NamedTuple):
    """An input or output as the graph declares it; a dimension that is not an int is dynamic."""

    name: str
    type: str
    shape: Sequence[int | str | None]


def bundled_artefact() -> Path:
    """The artefact that comes with the package.

    Raises:
        ArtefactError: there is none, or more than one.
    """
    found = sorted(WEIGHTS.glob("*.onnx"))
    if len(found) == 1:
        return found[0]
    contents = f"contains {len(found)} models" if found else "contains no model"
    raise ArtefactError(WEIGHTS, f"{contents}; set MARROWLENS_ARTEFACT to an .onnx file")


def read_artefact(path: Path, verifier: Verifier = NO_VERIFICATION) -> tuple[bytes, Manifest]:
    """The bytes of the graph, whose sha256 is the manifest's, and the manifest.

    Raises:
        ArtefactError: a file cannot be read or verified, the two do not match, or the graph is not self-contained.
    """
    if path.suffix == ".json":
        raise ArtefactError(path, "is a manifest; give the path of the .onnx file beside it")
    graph = _read_verified(path, verifier, LARGE_BYTES)
    manifest = read_manifest_of(path, verifier)
    found = sha256(graph)
    if found != manifest.sha256:
        reason = f"does not match its manifest: its sha256 is {found}, the manifest says {manifest.sha256}"
        raise ArtefactError(path, reason)
    try:
        check_self_contained(graph)
    except NotOnnx as error:
        raise ArtefactError(path, f"is not an ONNX file: {error}") from error
    except ValueError as error:
        raise ArtefactError(path, str(error)) from error
    return graph, manifest


def read_manifest_of(artefact: Path, verifier: Verifier = NO_VERIFICATION) -> Manifest:
    """The manifest beside an `.onnx` file. The `.onnx` file itself is not read.

    Raises:
        ArtefactError: the manifest cannot be read or verified, or is invalid.
    """
    path = artefact.with_suffix(".json")
    return manifest_of(path, _read_verified(path, verifier))


def _read_verified(path: Path, verifier: Verifier, limit_bytes: int = SMALL_BYTES) -> bytes:
    try:
        content = read_regular_file(path, limit_bytes)
    except OSError as error:
        raise ArtefactError(path, f"cannot be read ({error.strerror})") from error
    verifier.check(path, content)
    return content


def sha256(graph: bytes) -> str:
    """The sha256 as the manifest has it: 64 hexadecimal digits."""
    return hashlib.sha256(graph).hexdigest()


def check_declared(path: Path, manifest: Manifest, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Check the names, types and shapes that the graph declares.

    Raises:
        ArtefactError: the first one that differs from the manifest.
    """
    size = manifest.preprocessing.input_size
    _check_tensors(path, "inputs", inputs, "tensor(uint8)", {INPUT: ("N", size, size, 3)})
    _check_tensors(path, "outputs", outputs, "tensor(float)", manifest.outputs)


def _check_tensors(
    path: Path, kind: str, found: Sequence[Tensor], type: str, shapes: Mapping[str, tuple[str | int, ...]]
) -> None:
    names = [tensor.name for tensor in found]
    if sorted(names) != sorted(shapes):
        raise ArtefactError(path, f"has the {kind} {names}; required: {list(shapes)}")
    for tensor in found:
        if tensor.type != type:
            raise ArtefactError(path, f"has {tensor.name} of type {tensor.type}; required: {type}")
        shape = shapes[tensor.name]
        if not _compatible(tensor.shape, shape):
            raise ArtefactError(path, f"has {tensor.name} of shape {tuple(tensor.shape)}; the manifest says {shape}")


def _compatible(found: Sequence[int | str | None], expected: tuple[str | int, ...]) -> bool:
    """Whether shapes agree: a dynamic dimension with any size, a fixed one with itself and never with the batch, N."""
    sizes = zip(found, expected, strict=False)
    return len(found) == len(expected) and all(not isinstance(size, int) or size == wanted for size, wanted in sizes)


def check_meaning(path: Path, manifest: Manifest, metadata: Mapping[str, str]) -> None:
    """Check classes and their order, preprocessing and attention scales in the graph's metadata against the manifest.

    Raises:
        ArtefactError: the manifest differs, or the metadata is missing or cannot be read.
    """
    try:
        in_graph = from_metadata(metadata)
    except ValueError as error:
        reason = "has no readable metadata of classes, preprocessing and attention scales; export the model again"
        raise ArtefactError(path, reason) from error
    if differs := difference(in_graph, meaning_of(manifest)):
        raise ArtefactError(path, f"does not match its manifest: {differs}")


def check_computed(
    path: Path, manifest: Manifest, computed: Mapping[str, NDArray[np.float32]], relative: float = FP32_TOLERANCE
) -> None:
    """Check the outputs for two probe images: shapes, finite values, sum rule of the evidence, temperature.

    Args:
        relative: tolerance, relative to the largest logit.

    Raises:
        ArtefactError: the first check that fails.
    """
    for name, (_, *row) in manifest.outputs.items():
        shape = (2, *row)
        if computed[name].shape != shape:
            raise ArtefactError(path, f"computes {name} of shape {computed[name].shape}; the manifest says {shape}")
        if not np.isfinite(computed[name]).all():
            raise ArtefactError(path, f"computes {name} with NaN or infinite values")
    logits = computed["logits"].astype(np.float64)
    tolerance = relative * max(1.0, float(np.abs(logits).max()))
    summed = computed["evidence"].mean(axis=(2, 3), dtype=np.float64) + np.array(manifest.bias)
    if np.abs(summed - logits).max() > tolerance:
        raise ArtefactError(path, "computes logits that are not the mean of the evidence plus the manifest's bias")
    if np.abs(_softmax(logits / manifest.temperature) - computed["probabilities"]).max() > tolerance:
        raise ArtefactError(path, "computes probabilities that are not softmax(logits / the manifest's temperature)")


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers: NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
    sums: NDArray[np.float64] = powers.sum(axis=1, keepdims=True)
    return powers / sums
