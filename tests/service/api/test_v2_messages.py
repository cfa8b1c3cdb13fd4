"""The codec of the Open Inference Protocol against tritonclient, in both directions, and contradictory messages."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from examples import examples
from model.contract import OUTPUTS, Manifest, read_manifest
from service.api.v2.codec import MAX_JSON_BYTES, InferenceRequest, decode_uint8, encode_answer, parse_request, row_shape
from service.errors import BodyTooLarge, InvalidTensor, MalformedBody, ServiceError, TooManyPictures

SIDE = 64
FILES = st.lists(st.binary(max_size=300), min_size=1, max_size=6)
FP32 = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.fixture(scope="module")
def manifest(artefact: Path) -> Manifest:
    return read_manifest(artefact.with_suffix(".json"))


def read(manifest: Manifest, body: bytes, json_bytes: int | None = None, max_pictures: int = 8) -> InferenceRequest:
    return parse_request(memoryview(body), json_bytes, manifest, max_pictures)


def sent(tensor: NDArray[Any], datatype: str, **options: Any) -> tuple[bytes, int | None]:
    image = triton.InferInput("image", list(tensor.shape), datatype)
    image.set_data_from_numpy(tensor, binary_data=options.pop("binary", True))
    body, json_bytes = triton.InferenceServerClient.generate_request_body([image], **options)
    return body, json_bytes


@hypothesis_settings(max_examples=examples(20))
@given(seed=st.integers(0, 2**32), count=st.integers(1, 8), binary=st.booleans())
def test_pixels_arrive_as_tritonclient_sends_them(manifest: Manifest, seed: int, count: int, binary: bool) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    found = read(manifest, *sent(pixels, "UINT8", binary=binary))
    np.testing.assert_array_equal(np.stack(found.pictures), pixels)


@given(pixels=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=4, max_side=6)))
def test_pixels_of_any_shape_arrive_as_rows_flat_and_binary(pixels: NDArray[np.uint8]) -> None:
    for data in (pixels.tolist(), pixels.ravel().tolist(), memoryview(pixels.tobytes())):
        np.testing.assert_array_equal(np.stack(decode_uint8(data, pixels.shape)), pixels)


@given(files=FILES, column=st.booleans())
def test_files_arrive_as_tritonclient_sends_them(manifest: Manifest, files: list[bytes], column: bool) -> None:
    tensor = np.array(files, dtype=np.object_).reshape((-1, 1) if column else -1)
    found = read(manifest, *sent(tensor, "BYTES"))
    assert [bytes(picture) for picture in found.pictures] == files


@given(
    id=st.text(max_size=20),
    timeout=st.none() | st.integers(0, 2**63),
    wanted=st.lists(st.tuples(st.sampled_from(OUTPUTS), st.booleans()), unique_by=lambda wish: wish[0]),
)
def test_wishes_arrive(manifest: Manifest, id: str, timeout: int | None, wanted: list[tuple[str, bool]]) -> None:
    asked = [triton.InferRequestedOutput(name, binary_data=binary) for name, binary in wanted]
    body = sent(np.array([b"x"], np.object_), "BYTES", request_id=id, timeout=timeout, outputs=asked)
    found = read(manifest, *body)
    assert found.id == (id or None)
    assert found.timeout_s == (timeout / 1e6 if timeout else None)
    assert list(found.binary.items()) == (wanted or [(name, True) for name in OUTPUTS])


@hypothesis_settings(max_examples=examples(30))
@given(data=st.data(), count=st.integers(1, 3), id=st.none() | st.text(max_size=20))
def test_tritonclient_reads_what_is_answered(
    manifest: Manifest, data: st.DataObject, count: int, id: str | None
) -> None:
    names = data.draw(st.lists(st.sampled_from(OUTPUTS), min_size=1, unique=True))
    binary = {name: data.draw(st.booleans()) for name in names}
    outputs = {
        name: data.draw(arrays.arrays(np.float32, (count, *row_shape(manifest, name)), elements=FP32, fill=FP32))
        for name in names
    }
    request = InferenceRequest([b"x"] * count, binary, id=id)
    chunks, json_bytes = encode_answer(request, manifest, outputs)
    body = b"".join(chunks)
    found = triton.InferenceServerClient.parse_response_body(body, header_length=json_bytes)
    for name in names:
        np.testing.assert_array_equal(found.as_numpy(name), outputs[name])
    assert found.get_response().get("id") == id
    parameters = found.get_response()["parameters"]
    assert (parameters["sha256"], parameters["manifest_sha256"]) == (manifest.sha256, manifest.digest)
    assert (json_bytes is not None) == any(binary.values())
    held = len(body) + sum(array.nbytes for name, array in outputs.items() if not binary[name])
    assert held - 2000 <= request.answer_bytes(manifest)


def tensor(**changes: Any) -> dict[str, Any]:
    base64 = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"content_type": "base64"}}
    found = {**base64, "data": ["eHh4"], **changes}
    return {name: value for name, value in found.items() if value is not ...}


def message(*tensors: Any, **members: Any) -> bytes:
    return orjson.dumps({"inputs": list(tensors or [tensor()]), **members})


def test_base64_in_json_is_read_and_null_is_as_good_as_absent(manifest: Manifest) -> None:
    found = read(manifest, message(id=None, outputs=None, parameters=None, model_name="sent by KServe's client"))
    assert found.pictures == [b"xxx"]
    assert found.binary == dict.fromkeys(OUTPUTS, False)
    assert (found.id, found.timeout_s) == (None, None)


def test_rows_of_numbers_are_read_as_well_as_flat_ones(manifest: Manifest) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    for data in (pixels.tolist(), pixels.ravel().tolist(), pixels.reshape(2, -1).tolist()):
        described = tensor(datatype="UINT8", shape=[2, SIDE, SIDE, 3], parameters=..., data=data)
        np.testing.assert_array_equal(np.stack(read(manifest, message(described)).pictures), pixels)


def test_the_requests_default_holds_where_an_output_says_nothing(manifest: Manifest) -> None:
    outputs = [{"name": "logits"}, {"name": "embedding", "parameters": {"binary_data": False}}]
    found = read(manifest, message(outputs=outputs, parameters={"binary_data_output": True}))
    assert found.binary == {"logits": True, "embedding": False}


ONE = SIDE * SIDE * 3
UINT8 = {"datatype": "UINT8", "shape": [1, SIDE, SIDE, 3], "parameters": ...}
LENGTH = (3).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "JSON cannot be read"),
        (b"[]", "the request must be a JSON object"),
        (b"{}", "the request has no inputs"),
        (b'{"inputs": [1]}', "an input must be a JSON object"),
        (b"[" * 100_000, "JSON cannot be read"),
        (message(tensor(), tensor()), "has 2 inputs; the model takes one, image"),
        (message(tensor(name="picture")), "unknown input name; the model takes image"),
        (message(tensor(name=...)), "an input has no name"),
        (message(tensor(datatype="FP32")), "datatype must be BYTES .* or UINT8"),
        (message(tensor(datatype=3)), "datatype of the input must be a string"),
        (message(tensor(shape=[-1])), "not negative"),
        (message(tensor(shape=[True])), "four integers"),
        (message(tensor(shape=...)), "a shape must be"),
        (message(tensor(shape=[1] * 5)), "at most four"),
        (message(tensor(shape=[])), "one picture per element"),
        (message(tensor(shape=[1, 2])), "one picture per element"),
        (message(tensor(shape=[0], data=[])), "no picture"),
        (message(tensor(shape=[2])), r"has 1 elements, but the shape \[2\] has 2"),
        (message(tensor(data=...)), "the input has no data"),
        (message(tensor(data=["%%"])), "element 0 of the data is not base64"),
        (message(tensor(data=["eHh4", 7], shape=[2])), "element 1 of the data is not base64"),
        (message(tensor(parameters=...)), "BYTES in JSON must be base64"),
        (message(tensor(parameters={"shared_memory_region": "x"})), "unsupported parameter"),
        (message(tensor(**UINT8, data=[0] * (ONE - 1))), f"has {ONE - 1} elements, but the shape .* has {ONE}"),
        (message(tensor(**UINT8, data=[256] * ONE)), "integers of 0..255"),
        (message(tensor(**UINT8, data=[0.5] * ONE)), "integers of 0..255"),
        (message(tensor(**UINT8, data=["7"] * ONE)), "integers of 0..255"),
        (message(tensor(**UINT8, data=[[1], 2])), "mixes rows with single elements"),
        (message(tensor(**UINT8, data=[True] * ONE)), "integers of 0..255"),
        (message(tensor(**UINT8 | {"shape": [1, 32, 32, 3]}, data=[0])), r"the model takes \[N, 64, 64, 3\]"),
        (message(tensor(**UINT8 | {"shape": [2**63, SIDE, SIDE, 3]}, data=[0])), "at most 8 pictures"),
        (message(tensor(shape=[9])), "at most 8 pictures"),
        (message(tensor(data=..., parameters={"binary_data_size": 7})), "is 7, but 0 bytes follow"),
        (message(id=7), "id of the request must be a string"),
        (message(parameters={"timeout": 1.5}), "timeout of the request's parameters must be an integer"),
        (message(parameters={"timeout": True}), "timeout of the request's parameters must be an integer"),
        (message(parameters={"timeout": -1}), "send microseconds, or 0"),
        (message(parameters={"priority": 1}), "unsupported parameter; supported are timeout"),
        (message(parameters={"sequence_id": 1}), "unsupported parameter"),
        (message(outputs=[{"name": "heat"}]), "the outputs are probabilities, logits, attention, evidence, embedding"),
        (message(outputs=[{"name": "logits"}] * 2), "requested twice"),
        (message(outputs=["logits"]), "an output must be a JSON object"),
        (message(outputs=[{"name": "logits", "parameters": {"classification": 3}}]), "unsupported parameter"),
    ],
)
def test_a_message_that_is_off_is_told_in_a_sentence(manifest: Manifest, body: bytes, sentence: str) -> None:
    with pytest.raises((InvalidTensor, MalformedBody, TooManyPictures), match=sentence):
        read(manifest, body)


@pytest.mark.parametrize(
    ("shape", "declared", "data", "sentence"),
    [
        ([1], 8, LENGTH + b"xxx", "is 8, but 7 bytes follow"),
        ([1], 6, LENGTH + b"xxx", "is 6, but 7 bytes follow"),
        ([1], None, LENGTH + b"xxx", "7 bytes follow the JSON, but the input has no binary_data_size"),
        ([1], 6, LENGTH + b"xx", "ends within element 0"),
        ([2], 9, LENGTH + b"xxx" + b"\1\0", "ends within element 1"),
        ([2], 7, LENGTH + b"xxx", r"has 1 elements, but the shape \[2\] has 2"),
        ([1], 14, 2 * (LENGTH + b"xxx"), "more binary data after its 1 elements"),
        ([1], 4, b"\xff\xff\xff\xff", "ends within element 0"),
        ([1, SIDE, SIDE, 3], ONE + 1, b"\0" * (ONE + 1), f"has {ONE + 1} elements, but the shape"),
    ],
)
def test_binary_data_at_odds_with_the_message(
    manifest: Manifest, shape: list[int], declared: int | None, data: bytes, sentence: str
) -> None:
    parameters = {} if declared is None else {"binary_data_size": declared}
    datatype = "BYTES" if len(shape) == 1 else "UINT8"
    head = message(tensor(shape=shape, datatype=datatype, parameters=parameters, data=...))
    with pytest.raises(InvalidTensor, match=sentence):
        read(manifest, head + data, len(head))


@pytest.mark.parametrize("json_bytes", [0, 10**6])
def test_a_length_that_cannot_be_the_jsons(manifest: Manifest, json_bytes: int) -> None:
    with pytest.raises(MalformedBody, match="of JSON, but the body has"):
        read(manifest, message(), json_bytes)


def test_data_beside_binary_data_is_refused(manifest: Manifest) -> None:
    head = message(tensor(parameters={"binary_data_size": 7}))
    with pytest.raises(InvalidTensor, match="both binary_data_size and data"):
        read(manifest, head + LENGTH + b"xxx", len(head))


def test_json_is_bounded_before_it_is_parsed(manifest: Manifest) -> None:
    with pytest.raises(BodyTooLarge, match="send pictures as binary data"):
        read(manifest, b"[" * (MAX_JSON_BYTES + 1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 300) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(data=st.data())
def test_no_message_is_anything_but_read_or_refused(manifest: Manifest, data: st.DataObject) -> None:
    """A valid message with one member of it, its input or its output replaced by any value."""
    image, output = tensor(shape=[1]), {"name": "logits", "parameters": {"binary_data": True}}
    whole: dict[str, Any] = {"id": "1", "inputs": [image], "outputs": [output], "parameters": {"timeout": 5}}
    owner = data.draw(st.sampled_from([whole, image, output, whole["parameters"], image["parameters"]]))
    owner[data.draw(st.sampled_from(sorted(owner)))] = data.draw(JSON)
    body = orjson.dumps(whole) + data.draw(st.binary(max_size=20))
    try:
        found = read(manifest, body, data.draw(st.none() | st.integers(0, len(body) + 1)))
    except ServiceError as error:
        assert str(error)
    else:
        assert found.pictures
