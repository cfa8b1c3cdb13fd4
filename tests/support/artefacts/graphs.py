"""A tiny artefact that fulfils the contract: an ONNX graph with random weights of a fixed seed, and its manifest.

It is built with onnx, without torch, so the service is tested without a trained model. Its answers depend on the
picture: uint8 → scale, normalise → mean over patches → 1×1 convolution → tanh → head.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from model.contract import ATTENTION, CLASSES, INPUT, CellClass, Manifest, manifest_text, read_manifest
from model.trust.fitting import LabelledPredictions, fit_trust
from model.trust.quality import measure
from training.export.probes import with_metadata, with_probes

OPSET = 20
IR_VERSION = 10
PATCH = 16  # pixels; the side of one cell of the maps' grid
EMBEDDING = 12
SCALES = ("3-5-1", "5-7-1", "7-9-1")
MEAN = (0.56, 0.45, 0.69)
STD = (0.24, 0.27, 0.17)
TEMPERATURE = 1.5

Shapes = dict[str, tuple[str | int, ...]]


def write_artefact(
    folder: Path,
    *,
    classes: Sequence[CellClass] = CLASSES,
    input_size: int = 64,
    name: str = "micro",
    version: str = "0.0.1",
    seed: int = 0,
    attention: bool = True,
) -> Path:
    """Write `<name>.onnx` and `<name>.json` into a folder and return the path of the first.

    Without `attention` neither graph nor manifest has this output; the other outputs are the same.
    """
    random = np.random.default_rng(seed)
    bias = random.normal(0, 0.1, len(classes)).astype(np.float32)
    path = folder / f"{name}.onnx"
    shapes = _shapes(len(classes), input_size, attention=attention)
    path.write_bytes(_graph(random, bias, input_size, shapes).SerializeToString())
    manifest = _manifest(path, classes, bias, input_size, shapes, name, version)
    graph, manifest = with_metadata(path.read_bytes(), manifest)
    path.write_bytes(graph)
    path.with_suffix(".json").write_text(manifest.model_dump_json(indent=2))
    return path


def store_probes(artefact: Path) -> Manifest:
    """Write the graph's answers to the probe pictures into the manifest, as an export does."""
    manifest = with_probes(artefact.read_bytes(), read_manifest(artefact.with_suffix(".json")))
    artefact.with_suffix(".json").write_text(manifest_text(manifest))
    return manifest


def mark_inert(artefact: Path, *parts: str) -> Manifest:
    """Write parts of the network that do not matter into the manifest, as an export of such a network does."""
    manifest = read_manifest(artefact.with_suffix(".json"))
    lesions = [{"part": part, "n": 100, "changed": 0.0, "accuracy_change": 0.0} for part in parts]
    manifest = Manifest.model_validate(manifest.model_dump() | {"lesions": lesions, "inert": parts})
    artefact.with_suffix(".json").write_text(manifest_text(manifest))
    return manifest


def add_trust(artefact: Path, pictures: NDArray[np.uint8]) -> Manifest:
    """Fit a trust reference to pictures (N, S, S, 3), with the graph's own answers as labels, into the manifest."""
    session = onnxruntime.InferenceSession(artefact.read_bytes())
    names = ["probabilities", "embedding"]
    probabilities, embeddings = (np.asarray(each) for each in session.run(names, {INPUT: pictures}))
    labels = probabilities.argmax(axis=1)
    manifest = read_manifest(artefact.with_suffix(".json"))
    known = LabelledPredictions(probabilities, embeddings, measure(pictures), labels)
    trust = fit_trust(embeddings, labels, known, manifest.codes, "drawn cells")
    manifest = Manifest.model_validate(manifest.model_dump() | {"trust": trust.model_dump()})
    artefact.with_suffix(".json").write_text(manifest_text(manifest))
    return manifest


def edit_manifest(artefact: Path, **changes: object) -> None:
    """Change top-level keys of the manifest beside an artefact, without asking whether they still make sense."""
    path = artefact.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_graph(artefact: Path, graph: ModelProto) -> None:
    """Replace the graph of an artefact and keep the manifest's sha256 true, so that only the graph is off."""
    artefact.write_bytes(graph.SerializeToString())
    edit_manifest(artefact, sha256=_sha256(artefact))


def change_weight(artefact: Path, name: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
    """Give a weight of the graph another value, and keep the manifest's sha256 true: only the answers tell."""
    model = onnx.load(artefact)
    (weight,) = (found for found in model.graph.initializer if found.name == name)
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(weight))), name))
    edit_graph(artefact, model)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _weights(random: np.random.Generator, bias: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
    def drawn(*shape: int) -> NDArray[np.float32]:
        return random.normal(0, 1, shape).astype(np.float32)

    return {
        "pixel_scale": np.float32(255),
        "mean": np.array(MEAN, np.float32),
        "std": np.array(STD, np.float32),
        "stem": drawn(EMBEDDING, 3, 1, 1),
        "gate": drawn(len(SCALES), EMBEDDING, 1, 1),
        "head": 2 * drawn(len(bias), EMBEDDING, 1, 1),
        "bias": bias,
        "temperature": np.float32(TEMPERATURE),
        "positions": np.array([2, 3], np.int64),
        "tiny": np.float32(1e-6),
    }


def _nodes() -> list[NodeProto]:
    node = helper.make_node
    return [
        node("Cast", [INPUT], ["pixels"], to=TensorProto.FLOAT),
        node("Div", ["pixels", "pixel_scale"], ["unit"]),
        node("Sub", ["unit", "mean"], ["centred"]),
        node("Div", ["centred", "std"], ["normalised"]),
        node("Transpose", ["normalised"], ["channels_first"], perm=[0, 3, 1, 2]),  # (N, S, S, 3) -> (N, 3, S, S)
        node("AveragePool", ["channels_first"], ["patches"], kernel_shape=[PATCH] * 2, strides=[PATCH] * 2),
        node("Conv", ["patches", "stem"], ["mixed"]),
        node("Tanh", ["mixed"], ["features"]),  # (N, D, h, w)
        node("ReduceMean", ["features", "positions"], ["embedding"], keepdims=0),
        node("Conv", ["features", "head"], ["evidence"]),  # (N, C, h, w)
        node("ReduceMean", ["evidence", "positions"], ["mean_evidence"], keepdims=0),
        node("Add", ["mean_evidence", "bias"], ["logits"]),
        node("Div", ["logits", "temperature"], ["calibrated"]),
        node("Softmax", ["calibrated"], ["probabilities"], axis=1),
    ]


def _attention_nodes() -> list[NodeProto]:
    node = helper.make_node
    return [
        node("Conv", ["features", "gate"], ["gates"]),
        node("Abs", ["gates"], ["gate_sizes"]),
        node("ReduceMin", ["gate_sizes", "positions"], ["lowest"], keepdims=1),
        node("ReduceMax", ["gate_sizes", "positions"], ["highest"], keepdims=1),
        node("Sub", ["gate_sizes", "lowest"], ["above_lowest"]),
        node("Sub", ["highest", "lowest"], ["span"]),
        node("Max", ["span", "tiny"], ["divisor"]),
        node("Div", ["above_lowest", "divisor"], ["attention"]),
    ]


def _shapes(classes: int, input_size: int, *, attention: bool) -> Shapes:
    grid = input_size // PATCH
    shapes: Shapes = {
        "probabilities": ("N", classes),
        "logits": ("N", classes),
        "attention": ("N", len(SCALES), grid, grid),
        "evidence": ("N", classes, grid, grid),
        "embedding": ("N", EMBEDDING),
    }
    return {name: shape for name, shape in shapes.items() if attention or name != ATTENTION}


def _graph(random: np.random.Generator, bias: NDArray[np.float32], input_size: int, shapes: Shapes) -> ModelProto:
    weights = _weights(random, bias)
    if ATTENTION not in shapes:
        del weights["gate"], weights["tiny"]
    graph = helper.make_graph(
        _nodes() + (_attention_nodes() if ATTENTION in shapes else []),
        "micro",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", input_size, input_size, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in shapes.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def _manifest(
    path: Path,
    classes: Sequence[CellClass],
    bias: NDArray[np.float32],
    input_size: int,
    shapes: Shapes,
    name: str,
    version: str,
) -> Manifest:
    codes = [cell_class.code for cell_class in classes]
    return Manifest.model_validate(
        {
            "name": name,
            "version": version,
            "variant": "micro",
            "classes": [cell_class.model_dump() for cell_class in classes],
            "training_images": {code: 0 if code == codes[0] else 100 for code in codes},
            "unsupported": codes[:1],
            "preprocessing": {"input_size": input_size, "mean": MEAN, "std": STD},
            "temperature": TEMPERATURE,
            "bias": bias.tolist(),
            "attention_scales": SCALES if ATTENTION in shapes else (),
            "outputs": shapes,
            "opset": OPSET,
            "sha256": _sha256(path),
            "sources": [],
            "split": "weights drawn from a seed: nothing was learned",
            "split_sha256": hashlib.sha256(b"").hexdigest(),
            "metrics": [],
            "intended_use": "tests of the service",
            "limits": ["Has never seen a cell."],
            "licence": "Apache-2.0",
            "attribution": [],
        }
    )
