"""bf16: which part of a graph stays in fp32, which pictures are computed again, and who is refused."""

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import edit_manifest, write_artefact
from numpy.typing import NDArray
from onnx import TensorProto, helper

from service.config.settings import Settings
from service.runtime import session as session_module
from service.runtime.fixed_shapes import FixedShapeCalls
from service.runtime.graph_split import split_graph
from service.runtime.hardware import missing_bf16
from service.runtime.mixed_precision import CLOSE, MixedPrecisionCalls, margins
from service.runtime.providers import NAMES, attempts
from service.runtime.session import ProviderUnavailable, bundled_artefact, offered, open_session

Floats = NDArray[np.float32]
SIZES = (1, 2, 4)


def started(graph: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def noise(count: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 3])
def test_trunk_and_head_compute_what_the_whole_graph_does(artefact: Path, count: int) -> None:
    graph = artefact.read_bytes()
    parts = split_graph(graph)
    names = [output.name for output in started(graph).get_outputs()]
    images = noise(count, 64)
    values = started(parts.trunk).run(list(parts.values), {"image": images})
    found = started(parts.head).run(names, dict(zip(parts.values, values, strict=True)))
    for one, two in zip(found, started(graph).run(names, {"image": images}), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_the_head_of_the_bundled_graph_begins_after_the_last_layers_of_its_trunk() -> None:
    parts = split_graph(bundled_artefact().read_bytes())
    trunk, head = onnx.load_from_string(parts.trunk), onnx.load_from_string(parts.head)
    layers = [node.op_type for node in head.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert sorted(layers) == ["Conv", "Conv", "Gemm"]  # evidence, the mean of the pooling's weights, logits
    kinds = {node.op_type for node in head.graph.node}
    assert {"Sigmoid", "Softmax", "ReduceMean"} <= kinds and "LayerNormalization" not in kinds
    assert len(trunk.graph.node) > 10 * len(head.graph.node)


def test_a_graph_of_one_layer_has_no_trunk() -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [3, 2], [0.0] * 6)
    node = helper.make_node("MatMul", ["image", "weight"], ["logits"])
    graph = helper.make_graph([node], "one", [image], [logits], [weight])
    with pytest.raises(ValueError, match="no layers before its last ones"):
        split_graph(helper.make_model(graph).SerializeToString())


class Counting:
    """Stands for a session of one batch size: answers each image with its first value, and counts calls by size."""

    def __init__(self, size: int, calls: list[int]) -> None:
        self.size, self.calls = size, calls

    def run(self, _: object, inputs: object, /) -> list[Floats]:
        (images,) = inputs.values()  # type: ignore[attr-defined]
        assert len(images) == self.size
        self.calls.append(self.size)
        return [images.reshape(self.size, -1)[:, :1].astype(np.float32)]


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (2, [2]), (3, [2, 1]), (4, [4]), (7, [4, 2, 1]), (9, [4, 4, 1]), (12, [4, 4, 4])]
)
def test_a_batch_is_computed_in_parts_without_padding(count: int, sizes: list[int]) -> None:
    calls: list[int] = []
    images = noise(count, 2)
    (found,) = FixedShapeCalls({size: Counting(size, calls) for size in SIZES}, ["first"]).run(images)
    assert calls == sizes
    np.testing.assert_array_equal(found[:, 0], images.reshape(count, -1)[:, 0])


class Head:
    """Two classes; the value is the probability of the first."""

    def run(self, _: object, inputs: object, /) -> list[Floats]:
        (values,) = inputs.values()  # type: ignore[attr-defined]
        return [np.concatenate([values, 1 - values], axis=1), values.copy()]


def test_pictures_between_two_classes_are_computed_in_fp32_and_only_these() -> None:
    shares = np.array([0.9, 0.52, 0.1, 0.48, 0.53], np.float32)
    seen: list[Floats] = []

    class Trunk:
        def run(self, images: NDArray[np.uint8]) -> list[Floats]:
            return [shares[images[:, 0]][:, None]]

    def fp32(images: NDArray[np.uint8]) -> list[Floats]:
        seen.append(images[:, 0].copy())
        return [np.tile(np.array([[0.0, 1.0]], np.float32), (len(images), 1)), np.full((len(images), 1), 7, np.float32)]

    calls = MixedPrecisionCalls(
        Trunk(),  # type: ignore[arg-type]
        Head(),
        values=("v",),
        outputs=("probabilities", "embedding"),
        fp32=fp32,
    )
    probabilities, embedding = calls.run(np.arange(5, dtype=np.uint8)[:, None])
    assert [rows.tolist() for rows in seen] == [[1, 3]]
    np.testing.assert_allclose(probabilities[:, 0], [0.9, 0, 0.1, 0, 0.53], atol=1e-6)
    np.testing.assert_allclose(embedding[:, 0], [0.9, 7, 0.1, 7, 0.53], atol=1e-6)


def test_a_margin_is_that_of_the_two_highest() -> None:
    rows = np.array([[0.5, 0.2, 0.3], [0.1, 0.45, 0.45]], np.float32)
    np.testing.assert_allclose(margins(rows), [0.2, 0], atol=1e-6)
    assert 0 < CLOSE < 0.2


@pytest.mark.parametrize(
    ("flags", "has"),
    [("fpu avx512f avx512_bf16", True), ("fpu amx_tile amx_bf16", True), ("fpu avx2 avx512f", False), ("", False)],
)
def test_bf16_is_read_from_the_processors_flags(tmp_path: Path, flags: str, has: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n")
    said = missing_bf16(cpuinfo)
    assert (said is None) == has
    assert (
        has or f"Some CPU has neither AVX512-BF16 nor AMX (avx512_bf16 or amx_bf16 in the flags of {cpuinfo})" == said
    )


def test_what_is_tried_for_each_precision() -> None:
    cpu, both = [NAMES["cpu"]], [NAMES["openvino"], NAMES["cpu"]]
    tried = attempts("auto", "fp32", both, engines_built=False)
    assert tried == (("cpu", "fp32"),)
    assert attempts("auto", "bf16", cpu, engines_built=False) == (("openvino", "bf16"),)
    assert attempts("openvino", "auto", both, engines_built=False) == (("openvino", "bf16"), ("openvino", "fp32"))
    assert attempts("auto", "auto", both, engines_built=False) == (("openvino", "bf16"), ("cpu", "fp32"))
    assert attempts("auto", "auto", cpu, engines_built=False) == (("cpu", "fp32"),)
    assert attempts("cpu", "auto", both, engines_built=False) == (("cpu", "fp32"),)


@pytest.mark.parametrize("provider", ["cpu", "cuda", "tensorrt"])
def test_bf16_with_another_provider_is_an_invalid_setting(provider: str) -> None:
    with pytest.raises(ValueError, match="MARROWLENS_PRECISION=bf16 needs the provider openvino"):
        Settings(precision="bf16", provider=provider)  # type: ignore[arg-type]
    assert Settings(precision="auto", provider=provider).precision == "auto"  # type: ignore[arg-type]


def test_a_processor_without_bf16_is_refused_and_auto_stays_in_fp32(
    artefact: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session_module, "offered", lambda: list(NAMES.values()))
    monkeypatch.setattr(session_module, "missing_bf16", lambda: "this processor has none")
    with pytest.raises(ProviderUnavailable, match="this processor has none; set MARROWLENS_PRECISION=fp32"):
        open_session(artefact, precision="bf16")
    opened = open_session(artefact, precision="auto", provider="auto")
    assert opened.precision == "fp32"
    assert "Provider openvino in bf16 is not used: bf16 is not possible" in caplog.text


@pytest.mark.skipif(NAMES["openvino"] in offered(), reason="openvino is installed")
def test_without_openvino_bf16_says_what_to_install(artefact: Path) -> None:
    with pytest.raises(ProviderUnavailable, match=r"pip install -e '\.\[service,openvino\]'"):
        open_session(artefact, precision="bf16")


def test_an_artefact_in_fp16_is_not_computed_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = write_artefact(tmp_path)
    edit_manifest(half, precision="fp16")
    monkeypatch.setattr(session_module, "offered", lambda: list(NAMES.values()))
    monkeypatch.setattr(session_module, "missing_bf16", lambda: None)
    with pytest.raises(ProviderUnavailable, match="bf16 needs weights in fp32, and those of micro are fp16"):
        open_session(half, precision="bf16")
    assert open_session(half, precision="fp32").precision == "fp16"


#: Runs in the environment of `make serve RUNTIME=openvino`, whose onnxruntime excludes that of the tests.
SCRIPT = """
import json
import numpy as np
from service.runtime.session import open_session
fp32, bf16 = open_session(provider="cpu"), open_session(precision="bf16", batch_sizes=(1, 2, 4))
images = np.random.default_rng(0).integers(0, 256, (9, *[bf16.manifest.preprocessing.input_size] * 2, 3), np.uint8)
found, expected = bf16.run(images), fp32.run(images)
summed = found.evidence.mean(axis=(2, 3)) + np.array(bf16.manifest.bias)
print(json.dumps({
    "opened": [bf16.provider, bf16.precision],
    "sum_rule": float(np.abs(summed - found.logits).max()),
    "probabilities": float(np.abs(found.probabilities - expected.probabilities).max()),
    "same_alone": all(np.allclose(bf16.run(images[i:i + 1]).logits, found.logits[i], atol=1e-4) for i in range(9)),
}))
"""
OPENVINO = Path(".venv-serve-openvino/bin/python")


@pytest.mark.slow
@pytest.mark.skipif(not OPENVINO.exists(), reason="make serve RUNTIME=openvino makes the environment")
def test_a_session_in_bf16_keeps_the_sum_rule_and_the_answers_or_is_refused_by_the_processor() -> None:
    run = subprocess.run([OPENVINO, "-c", SCRIPT], capture_output=True, text=True, check=False)
    if (reason := missing_bf16()) is not None:
        assert run.returncode == 1 and f"bf16 is not possible: {reason}; set MARROWLENS_PRECISION=fp32" in run.stderr, (
            run.stderr
        )
        return
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["opened"] == ["openvino", "bf16"]
    assert found["sum_rule"] < 1e-4
    assert 0 < found["probabilities"] < 0.1
    assert found["same_alone"]
