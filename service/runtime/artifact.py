"""An artefact's two files, and whether what was opened from them does what the manifest promises.

Knows the contract, hashes and arrays. Knows no onnxruntime: tensors are told to it as names, types and shapes.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import model.contract
from model.contract import INPUT, OUTPUTS, ArtefactError, Manifest, manifest_of
from model.meaning import difference, digest, from_metadata, meaning_of
from model.regular_file import LARGE_BYTES, SMALL_BYTES, read_regular_file
from service.runtime.onnx_file import NotOnnx, check_self_contained
from service.runtime.providers import FP32_TOLERANCE
from service.runtime.signatures import NO_VERIFICATION, Verifier

_log = logging.getLogger(__name__)

WEIGHTS = Path(model.contract.__file__).parent / "weights"


class Tensor(NamedTuple):
    """A graph's input or output as it declares it; a size that is not a number is not fixed."""

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
    holds = f"holds {len(found)} models" if found else "holds no trained model yet"
    raise ArtefactError(WEIGHTS, f"{holds}; name an .onnx file with MARROWLENS_ARTEFACT")


def read_artefact(path: Path, verifier: Verifier = NO_VERIFICATION) -> tuple[bytes, Manifest]:
    """The graph's bytes, the very ones whose sha256 the manifest gives, and the manifest.

    Raises:
        ArtefactError: a file cannot be read, is not vouched for, or the two do not belong together.
    """
    if path.suffix == ".json":
        raise ArtefactError(path, "is a manifest by its name; name the .onnx file beside it")
    graph = _vouched(path, verifier, LARGE_BYTES)
    manifest = manifest_beside(path, verifier)
    found = sha256(graph)
    if found != manifest.sha256:
        reason = f"is damaged or another model's: its sha256 is {found}, the manifest has {manifest.sha256}"
        raise ArtefactError(path, reason)
    try:
        check_self_contained(graph)
    except NotOnnx as error:
        raise ArtefactError(path, f"is no ONNX file: {error}") from error
    except ValueError as error:
        raise ArtefactError(path, str(error)) from error
    return graph, manifest


def manifest_beside(artefact: Path, verifier: Verifier = NO_VERIFICATION) -> Manifest:
    """The manifest of an `.onnx` file, which itself is not read.

    Raises:
        ArtefactError: it cannot be read, is not vouched for, or is no manifest.
    """
    path = artefact.with_suffix(".json")
    return manifest_of(path, _vouched(path, verifier))


def _vouched(path: Path, verifier: Verifier, limit_bytes: int = SMALL_BYTES) -> bytes:
    try:
        content = read_regular_file(path, limit_bytes)
    except OSError as error:
        raise ArtefactError(path, f"cannot be read ({error.strerror})") from error
    verifier.check(path, content)
    return content


def sha256(graph: bytes) -> str:
    """As the manifest writes it: 64 hexadecimal digits."""
    return hashlib.sha256(graph).hexdigest()


def check_declared(path: Path, manifest: Manifest, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Names, types and shapes that the graph declares against those of the manifest.

    Raises:
        ArtefactError: the first that differs.
    """
    size = manifest.preprocessing.input_size
    _check_tensors(path, "inputs", inputs, "tensor(uint8)", {INPUT: ("N", size, size, 3)})
    _check_tensors(path, "outputs", outputs, "tensor(float)", manifest.outputs)


def _check_tensors(
    path: Path, kind: str, found: Sequence[Tensor], type: str, promised: Mapping[str, tuple[str | int, ...]]
) -> None:
    names = [tensor.name for tensor in found]
    if sorted(names) != sorted(promised):
        raise ArtefactError(path, f"its {kind} are {names}, the contract has {list(promised)}")
    for tensor in found:
        if tensor.type != type:
            raise ArtefactError(path, f"{tensor.name} is {tensor.type}, the contract has {type}")
        if not _agree(tensor.shape, promised[tensor.name]):
            shape = promised[tensor.name]
            raise ArtefactError(path, f"{tensor.name} has the shape {tuple(tensor.shape)}, the manifest has {shape}")


def _agree(found: Sequence[int | str | None], promised: tuple[str | int, ...]) -> bool:
    """A size that the graph leaves open agrees with any; a number agrees with itself, and never with the batch, N."""
    sizes = zip(found, promised, strict=False)
    return len(found) == len(promised) and all(not isinstance(size, int) or size == wanted for size, wanted in sizes)


def check_meaning(path: Path, manifest: Manifest, metadata: Mapping[str, str]) -> None:
    """Which classes in which order, which preprocessing and which maps, as the graph says it, against the manifest.

    A graph that says nothing is held by the digest that the manifest has stored, where it has; else the log warns.

    Raises:
        ArtefactError: the manifest says otherwise.
    """
    try:
        said = from_metadata(metadata)
    except ValueError as error:
        raise ArtefactError(path, "says what its numbers mean in a way that is not read here") from error
    meant, stored = meaning_of(manifest), manifest.probes and manifest.probes.meaning_sha256
    if said is not None and (other := difference(said, meant)):
        raise ArtefactError(path, f"its numbers mean something else than its manifest says: {other}")
    if stored and stored != digest(meant):
        reason = "its manifest was changed: classes, preprocessing or attention scales are not those of its probes"
        raise ArtefactError(path, reason)
    if said is None and not stored:
        _log.warning("nothing holds the class names of %s to its graph: marrowlens-train bind", manifest.name)


def check_computed(
    path: Path, manifest: Manifest, computed: Mapping[str, NDArray[np.float32]], relative: float = FP32_TOLERANCE
) -> None:
    """What the graph made of `probe_images` against the manifest: shapes, the sum rule, bias and temperature.

    Args:
        relative: how far from exact, relative to the largest logit.

    Raises:
        ArtefactError: the first promise that is not kept.
    """
    for name in OUTPUTS:
        shape = (2, *manifest.outputs[name][1:])
        if computed[name].shape != shape:
            raise ArtefactError(path, f"computes {name} of shape {computed[name].shape}, the manifest has {shape}")
        if not np.isfinite(computed[name]).all():
            raise ArtefactError(path, f"computes {name} that are not numbers")
    logits = computed["logits"].astype(np.float64)
    tolerance = relative * max(1.0, float(np.abs(logits).max()))
    summed = computed["evidence"].mean(axis=(2, 3), dtype=np.float64) + np.array(manifest.bias)
    if np.abs(summed - logits).max() > tolerance:
        raise ArtefactError(path, "its evidence maps do not add up to its logits with the manifest's bias")
    if np.abs(_softmax(logits / manifest.temperature) - computed["probabilities"]).max() > tolerance:
        raise ArtefactError(path, "its probabilities are not those of its logits at the manifest's temperature")


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers: NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
    sums: NDArray[np.float64] = powers.sum(axis=1, keepdims=True)
    return powers / sums
