"""The one-operator model: an artefact that keeps the whole contract and takes almost no time.

It reads the pixel in the middle of a picture. One MatMul turns its three numbers into logits, and a few operators shape
the other outputs, so answers differ between pictures and a swapped answer is detected. It has no trust and no drift
reference: its answers have no decision.
"""

import hashlib
import math
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from model.contract import INPUT, Manifest, read_manifest
from model.meaning import as_metadata, meaning_of

NAME = "one-operator"
OPSET = 20
IR_VERSION = 10
CHANNELS = 3


def write_artefact(folder: Path, like: Path) -> Path:
    """Write one-operator.onnx and its manifest with the sizes and classes of another artefact; returns the ONNX path.

    Args:
        like: an artefact's .onnx file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(like.with_suffix(".json"))
    random = np.random.default_rng(0)
    bias = random.normal(0, 0.5, len(manifest.classes)).astype(np.float32)
    path = folder / f"{NAME}.onnx"
    path.write_bytes(_graph(manifest, random, bias).SerializeToString())
    path.with_suffix(".json").write_text(_manifest(manifest, path, bias).model_dump_json(indent=1))
    return path


def _graph(manifest: Manifest, random: np.random.Generator, bias: NDArray[np.float32]) -> ModelProto:
    shapes, size = _shapes(manifest), manifest.preprocessing.input_size
    graph = helper.make_graph(
        [*_nodes(), *(_attention_nodes() if manifest.has_attention else [])],
        NAME.replace("-", "_"),
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", size, size, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shapes[name])) for name in manifest.output_names],
        [numpy_helper.from_array(array, name) for name, array in _weights(manifest, random, bias).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(model, as_metadata(meaning_of(manifest)))
    onnx.checker.check_model(model, full_check=True)
    return model


def _weights(
    manifest: Manifest, random: np.random.Generator, bias: NDArray[np.float32]
) -> dict[str, NDArray[np.generic]]:
    shapes, middle = _shapes(manifest), manifest.preprocessing.input_size // 2
    return {
        **(_attention_weights(shapes["attention"]) if manifest.has_attention else {}),
        "first": np.array([middle, middle], np.int64),
        "beyond": np.array([middle + 1, middle + 1], np.int64),
        "sides": np.array([1, 2], np.int64),
        "flat": np.array([0, CHANNELS], np.int64),
        "positions": np.array([2, 3], np.int64),
        "weight": random.normal(0, 0.03, (CHANNELS, len(bias))).astype(np.float32),
        "bias": bias,
        "grid": np.ones((1, 1, *_sizes(shapes["evidence"][2:])), np.float32),
    }


def _attention_weights(shape: tuple[str | int, ...]) -> dict[str, NDArray[np.generic]]:
    sizes = _sizes(shape[1:])
    return {
        "light": np.array([[[[1 / (3 * 255)]]]], np.float32),
        "ramp": np.linspace(0, 1, math.prod(sizes), dtype=np.float32).reshape(1, *sizes),
        "channels": np.array([1], np.int64),
    }


def _sizes(shape: tuple[str | int, ...]) -> tuple[int, ...]:
    return tuple(int(size) for size in shape)


def _nodes() -> list[NodeProto]:
    node = helper.make_node
    return [
        node("Slice", [INPUT, "first", "beyond", "sides"], ["pixel"]),  # (N, S, S, 3) -> (N, 1, 1, 3)
        node("Cast", ["pixel"], ["colour"], to=TensorProto.FLOAT),
        node("Reshape", ["colour", "flat"], ["embedding"]),  # (N, 3)
        node("MatMul", ["embedding", "weight"], ["mean_evidence"]),  # (N, C)
        node("Add", ["mean_evidence", "bias"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
        node("Unsqueeze", ["mean_evidence", "positions"], ["spots"]),
        node("Mul", ["spots", "grid"], ["evidence"]),  # (N, C, h, w), the same everywhere
    ]


def _attention_nodes() -> list[NodeProto]:
    node = helper.make_node
    return [
        node("ReduceSum", ["embedding", "channels"], ["sum"], keepdims=1),
        node("Unsqueeze", ["sum", "positions"], ["sums"]),  # (N, 1, 1, 1)
        node("Mul", ["sums", "light"], ["brightness"]),  # 0..1
        node("Mul", ["brightness", "ramp"], ["attention"]),
    ]


def _shapes(manifest: Manifest) -> dict[str, tuple[str | int, ...]]:
    return {**manifest.outputs, "embedding": ("N", CHANNELS)}


def _manifest(like: Manifest, path: Path, bias: NDArray[np.float32]) -> Manifest:
    codes = like.codes
    changes = {
        "name": NAME,
        "version": "0.0.1",
        "variant": NAME,
        "training_images": dict.fromkeys(codes, 0),
        "unsupported": codes,
        "temperature": 1.0,
        "bias": [float(value) for value in bias],
        "probes": None,
        "drift_sha256": None,
        "trust": None,
        "outputs": _shapes(like),
        "opset": OPSET,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "sources": [],
        "split": "nothing was learned",
        "split_sha256": hashlib.sha256(b"").hexdigest(),
        "metrics": [],
        "lesions": (),
        "inert": (),
        "intended_use": "measuring servers",
        "limits": ["Has never seen a cell."],
        "licence": "Apache-2.0",
        "attribution": [],
    }
    return Manifest.model_validate(like.model_dump() | changes)
