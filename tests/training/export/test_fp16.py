"""fp16 graphs: which nodes stay in fp32, and which networks are refused."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from graphs import edit_manifest, write_artefact
from lesions import lesions
from minimal_config import MICRO
from onnx import ModelProto, TensorProto, numpy_helper

from model.contract import INPUT, OUTPUTS, read_manifest
from model.van import VAN
from service.runtime.artifact import sha256
from service.runtime.session import open_session
from training.export.export import Trained, export
from training.export.fp16 import Fp16Error, check_parity, check_range, drawn_cells, fp16_graph, to_fp16
from training.run import Evaluation

BUNDLED = next(Path("model/weights").glob("*.onnx"))


@pytest.fixture(scope="module")
def full() -> ModelProto:
    return onnx.load(BUNDLED)


@pytest.fixture(scope="module")
def converted(full: ModelProto) -> ModelProto:
    return to_fp16(full)


def types(model: ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.output, *inferred.input)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {weight.name: weight.data_type for weight in inferred.initializer}


def test_input_and_outputs_are_those_of_the_contract(full: ModelProto, converted: ModelProto) -> None:
    assert list(converted.graph.input) == list(full.graph.input)
    assert list(converted.graph.output) == list(full.graph.output)


def test_it_takes_half_the_space(full: ModelProto, converted: ModelProto) -> None:
    assert converted.ByteSize() < 0.56 * full.ByteSize()  # nodes and names keep their size


def test_softmax_the_maps_and_the_scaling_of_pixels_are_in_fp32(converted: ModelProto) -> None:
    kind = types(converted)
    made_by = {name: node for node in converted.graph.node for name in node.output}
    softmaxes = [node for node in converted.graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == 2  # of the cross attention, and of the probabilities
    for node in (*softmaxes, *(made_by[name] for name in OUTPUTS)):
        floats = [name for name in (*node.input, *node.output) if kind.get(name) != TensorProto.INT64]
        assert {kind[name] for name in floats} == {TensorProto.FLOAT}, node.name
    (first,) = (node for node in converted.graph.node if node.input[1:2] == ["scale"])
    assert kind[first.input[0]] == kind["scale"] == kind[first.output[0]] == TensorProto.FLOAT


def test_the_trunk_is_in_fp16_and_the_pooling_in_fp32(converted: ModelProto) -> None:
    kind = types(converted)
    convolutions = [node for node in converted.graph.node if node.op_type == "Conv"]
    in_fp16 = [node for node in convolutions if kind[node.input[1]] == TensorProto.FLOAT16]
    pooling = [node for node in convolutions if node.input[1].startswith("net.pooling.")]
    assert len(pooling) > 10 and not any(node in in_fp16 for node in pooling)
    assert len(in_fp16) >= len(convolutions) - len(pooling) - 4  # the evidence maps, and a kernel that is cropped


def test_no_value_goes_through_fp16_on_its_way_between_two_in_fp32(converted: ModelProto) -> None:
    made_by = {name: node for node in converted.graph.node for name in node.output}
    casts = {node.output[0]: node.attribute[0].i for node in converted.graph.node if node.op_type == "Cast"}
    for name, to in casts.items():
        source = made_by[name].input[0]
        assert not (to == TensorProto.FLOAT and casts.get(source) == TensorProto.FLOAT16)


def test_the_bundled_network_agrees_but_its_values_are_too_large(full: ModelProto, converted: ModelProto) -> None:
    """Products of value and gate reach more than half of the fp16 range."""
    check_parity(converted.SerializeToString(), full.SerializeToString(), 128)
    with pytest.raises(Fp16Error, match="at most 16376 is safe in fp16"):
        check_range(full, 128)


def test_the_service_takes_it_and_the_sum_rule_holds(converted: ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "fp16.onnx"
    path.write_bytes(converted.SerializeToString())
    path.with_suffix(".json").write_bytes(BUNDLED.with_suffix(".json").read_bytes())
    edit_manifest(path, sha256=sha256(path.read_bytes()), precision="fp16")
    session = open_session(path, provider="cpu")
    assert session.manifest.precision == "fp16"
    outputs = session.run(drawn_cells(128)[:2])
    summed = outputs.evidence.mean(axis=(2, 3)) + np.array(session.manifest.bias)
    np.testing.assert_allclose(summed, outputs.logits, atol=1e-4)


def test_a_manifest_without_a_precision_is_of_fp32() -> None:
    assert read_manifest(BUNDLED.with_suffix(".json")).precision == "fp32"


@pytest.fixture
def micro(tmp_path: Path) -> ModelProto:
    return onnx.load(write_artefact(tmp_path))


def scaled(model: ModelProto, name: str, factor: float) -> bytes:
    changed = ModelProto()
    changed.CopyFrom(model)
    (weight,) = (found for found in changed.graph.initializer if found.name == name)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), name))
    return changed.SerializeToString()


def test_any_graph_of_the_contract_can_be_converted(micro: ModelProto) -> None:
    graph = fp16_graph(micro, 64)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    outputs = session.run(list(OUTPUTS), {INPUT: drawn_cells(64)[:3]})
    assert {array.dtype for array in outputs} == {np.dtype(np.float32)}


def test_an_output_that_is_off_is_caught(micro: ModelProto) -> None:
    with pytest.raises(Fp16Error, match="probabilities in fp16: off by"):
        check_parity(scaled(micro, "bias", 30), micro.SerializeToString(), 64)


def test_what_overflows_fp16_is_caught(micro: ModelProto) -> None:
    (weight,) = (found for found in micro.graph.initializer if found.name == "gate")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e6), "gate"))
    with pytest.raises(Fp16Error, match=r"gates reaches .*; at most 16376 is safe in fp16"):
        fp16_graph(micro, 64)


@pytest.mark.slow
def test_an_export_in_fp16_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = VAN("micro", len(MICRO.codes)).eval()
    trained = Trained(
        MICRO,
        net,
        Evaluation(temperature=1.3, metrics=(), confusion={}, lesions=lesions(net)),
        {"drawn": Counter(PMO=90)},
        "none",
        "0" * 64,
    )
    path, manifest = export(trained, tmp_path, "fp16")
    assert manifest.precision == json.loads(path.with_suffix(".json").read_text())["precision"] == "fp16"
    session = open_session(path, provider="cpu")
    assert session.manifest == manifest
    assert manifest.probes
    weights = {weight.data_type for weight in onnx.load(path).graph.initializer}
    assert TensorProto.FLOAT16 in weights
