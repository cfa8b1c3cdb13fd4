"""A graph whose every number is in its own bytes; one that names another file is refused, wherever it does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from cpu_cost import costs_less_than
from graphs import edit_graph, write_artefact
from hypothesis import given
from hypothesis import strategies as st
from keys import bearer, entry, keys_file
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper
from serving import async_client, refused

from model.contract import ArtefactError
from service.runtime.artifact import bundled_artefact, read_artefact
from service.runtime.onnx_file import NotOnnx, check_self_contained

OPERATOR = "mlk_of-an-operator"


def elsewhere(tensor: TensorProto, location: str = "weights.bin") -> TensorProto:
    """The tensor with its data in a file."""
    array = numpy_helper.to_array(tensor)
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(array.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def constant(name: str, **tensor: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], **tensor)


def a_tensor() -> TensorProto:
    return elsewhere(numpy_helper.from_array(np.arange(3, dtype=np.float32), "hidden"))


def in_initializer(model: ModelProto) -> None:
    elsewhere(next(each for each in model.graph.initializer if each.name == "head"))


def in_sparse_initializer(model: ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(a_tensor())


def in_sparse_indices(model: ModelProto) -> None:
    model.graph.sparse_initializer.add().indices.CopyFrom(a_tensor())


def in_attribute(model: ModelProto) -> None:
    model.graph.node.append(constant("unused", value=a_tensor()))


def in_list_of_an_attribute(model: ModelProto) -> None:
    attribute = AttributeProto(name="many", type=AttributeProto.TENSORS, tensors=[a_tensor()])
    model.graph.node.add(op_type="Constant", output=["unused"]).attribute.append(attribute)


def subgraph() -> onnx.GraphProto:
    return onnx.GraphProto(name="inner", initializer=[a_tensor()])


def in_subgraph(model: ModelProto) -> None:
    for _ in range(3):
        model.graph.node.add(op_type="If", output=["unused"]).attribute.append(
            AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=subgraph())
        )


def in_deep_subgraph(model: ModelProto) -> None:
    graph = subgraph()
    for _ in range(30):
        outer = onnx.GraphProto(name="outer")
        outer.node.add(op_type="Loop").attribute.append(
            AttributeProto(name="body", type=AttributeProto.GRAPHS, graphs=[graph])
        )
        graph = outer
    model.graph.node.add(op_type="If").attribute.append(AttributeProto(name="b", type=AttributeProto.GRAPH, g=graph))


def in_function(model: ModelProto) -> None:
    model.functions.add(name="f", domain="d").node.append(constant("unused", value=a_tensor()))


def in_default_of_a_function(model: ModelProto) -> None:
    model.functions.add(name="f", domain="d").attribute_proto.append(
        AttributeProto(name="a", type=AttributeProto.TENSOR, t=a_tensor())
    )


def in_training(model: ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(subgraph())


PLACES = (
    in_initializer,
    in_sparse_initializer,
    in_sparse_indices,
    in_attribute,
    in_list_of_an_attribute,
    in_subgraph,
    in_deep_subgraph,
    in_function,
    in_default_of_a_function,
    in_training,
)


@pytest.mark.parametrize("put", PLACES, ids=lambda put: put.__name__)
def test_external_data_is_refused_wherever_it_stands(tmp_path: Path, put: Callable[[ModelProto], None]) -> None:
    artefact = write_artefact(tmp_path)
    model = onnx.load(artefact)
    put(model)
    edit_graph(artefact, model)
    with pytest.raises(ArtefactError, match="in another file \\(ONNX external data\\), which hash and"):
        read_artefact(artefact)


#: The last is onnxruntime's own word for an address in memory.
LOCATIONS = ["weights.bin", "../weights.bin", "/etc/passwd", "a/../../b", "", "*/_ORT_MEM_ADDR_/*"]


@pytest.mark.parametrize("location", LOCATIONS)
async def test_a_reload_with_external_data_is_refused(
    tmp_path: Path, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the service runs in the model's folder, in which onnxruntime looks for a model that came as bytes."""
    monkeypatch.chdir(tmp_path)
    artefact = write_artefact(tmp_path)
    second = write_artefact(tmp_path, name="second", seed=2)
    model = onnx.load(second)
    (head,) = (each for each in model.graph.initializer if each.name == "head")
    (tmp_path / "weights.bin").write_bytes(numpy_helper.to_array(head).tobytes())
    elsewhere(head, location)
    edit_graph(second, model)
    keys = keys_file(tmp_path, entry(OPERATOR, "operator"))
    async with async_client(artefact, keys_file=keys) as http:
        http.headers.update(bearer(OPERATOR))
        answer = await http.post("/model/reload", json={"artefact": "second.onnx"})
    assert "the tensor 'head' in another file" in refused(answer, 422, "model-refused").detail


def test_a_location_without_any_of_the_usual_words_is_refused_too() -> None:
    for fields in ({"data_location": TensorProto.EXTERNAL}, {"external_data": [onnx.StringStringEntryProto()]}):
        model = ModelProto(ir_version=10)
        model.graph.initializer.append(TensorProto(name="w", **fields))
        with pytest.raises(ValueError, match="'w' in another file"):
            check_self_contained(model.SerializeToString())


def test_an_enumeration_that_is_cut_to_32_bits_is_refused() -> None:
    """protobuf reads 2^32 + 1 as 1: external."""
    tensor = bytes([14 << 3]) + b"\x81\x80\x80\x80\x10"
    graph = bytes([(5 << 3) | 2, len(tensor)]) + tensor
    model = bytes([1 << 3, 10, (7 << 3) | 2, len(graph)]) + graph
    assert ModelProto.FromString(model).graph.initializer[0].data_location == TensorProto.EXTERNAL
    with pytest.raises(ValueError, match="in another file"):
        check_self_contained(model)


def test_a_graph_that_comes_in_two_pieces_is_looked_through_in_both() -> None:
    """protobuf merges a message that comes twice."""
    whole, more = ModelProto(ir_version=10), ModelProto()
    whole.graph.name = "first"
    more.graph.initializer.append(a_tensor())
    both = whole.SerializeToString() + more.SerializeToString()
    assert len(ModelProto.FromString(both).graph.initializer) == 1
    with pytest.raises(ValueError, match="'hidden' in another file"):
        check_self_contained(both)


def test_a_compiled_engine_is_refused() -> None:
    model = ModelProto(ir_version=10)
    node = helper.make_node("EPContext", [], ["y"], domain="com.microsoft", embed_mode=0, ep_cache_context="../engine")
    model.graph.node.append(node)
    with pytest.raises(ValueError, match="compiled engine"):
        check_self_contained(model.SerializeToString())


def test_whole_models_pass_and_the_bundled_one_quickly(artefact: Path) -> None:
    check_self_contained(artefact.read_bytes())
    graph = bundled_artefact().read_bytes()
    with costs_less_than(100):
        check_self_contained(graph)


@pytest.mark.parametrize("content", [b"", b"\x00", b"PK\x03\x04", b"{}", b"ORTM" * 100, b"\x08\x0a\x3b", b"\xff" * 20])
def test_what_is_no_onnx_is_refused_as_such(tmp_path: Path, content: bytes) -> None:
    artefact = write_artefact(tmp_path)
    artefact.write_bytes(content)
    with pytest.raises(ArtefactError, match="sha256"):
        read_artefact(artefact)
    with pytest.raises(NotOnnx):
        check_self_contained(content)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        check_self_contained(b"\x08\x0a" + content)
    except ValueError:
        return


@given(st.integers(0, 4000), st.integers(0, 255))
def test_whatever_byte_is_changed_external_data_stays_seen_or_onnx_sees_none(at: int, value: int) -> None:
    model = ModelProto(ir_version=10)
    model.graph.initializer.extend([numpy_helper.from_array(np.zeros(2, np.float32), "a"), a_tensor()])
    content = bytearray(model.SerializeToString())
    content[at % len(content)] = value
    try:
        found = ModelProto.FromString(bytes(content))
    except Exception:  # protobuf's own DecodeError, of one of three implementations
        return
    hidden = any(each.data_location == TensorProto.EXTERNAL for each in found.graph.initializer)
    if hidden:
        with pytest.raises(ValueError):
            check_self_contained(bytes(content))
