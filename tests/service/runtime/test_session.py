"""An artefact that keeps the contract is opened and answers; one that does not is refused with a sentence."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import edit_graph, edit_manifest, write_artefact
from onnx import ModelProto, TensorProto, helper, numpy_helper

from model.contract import CLASSES, OUTPUTS, ArtefactError, CellClass
from service.config.settings import ProviderChoice
from service.runtime import artifact as artefact_module
from service.runtime.parity import compare, mismatch
from service.runtime.providers import tolerance
from service.runtime.session import (
    OnnxSession,
    Outputs,
    ProviderUnavailable,
    engine_folder,
    offered,
    open_session,
    versions,
)

Change = Callable[[ModelProto], None]


@pytest.fixture(scope="module")
def session(artefact: Path) -> OnnxSession:
    return open_session(artefact, provider="cpu")


def noise(count: int, size: int = 64) -> np.ndarray:
    shades = np.random.default_rng(1).integers(0, 192, (count, 1, 1, 3))
    return (shades + np.random.default_rng(2).integers(0, 64, (count, size, size, 3))).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 2, 4, 7, 11])
def test_outputs_have_the_shapes_of_the_manifest_and_keep_its_rules(session: OnnxSession, count: int) -> None:
    outputs = session.run(noise(count))
    assert isinstance(outputs, Outputs)
    assert outputs._fields == OUTPUTS
    for name, array in outputs._asdict().items():
        assert array.dtype == np.float32
        assert array.shape == (count, *session.manifest.outputs[name][1:])
    np.testing.assert_allclose(outputs.probabilities.sum(axis=1), 1, atol=1e-5)
    summed = outputs.evidence.mean(axis=(2, 3)) + np.array(session.manifest.bias)
    np.testing.assert_allclose(summed, outputs.logits, atol=1e-4)


def test_a_picture_is_answered_alike_alone_and_in_a_batch(session: OnnxSession) -> None:
    images = noise(5)
    together = session.run(images)
    for index in range(5):
        alone = session.run(images[index : index + 1])
        np.testing.assert_allclose(alone.probabilities[0], together.probabilities[index], atol=1e-5)
    assert len(np.unique(together.logits.round(3), axis=0)) == 5


def test_other_classes_and_another_size_are_the_manifests_business(tmp_path: Path) -> None:
    classes = [CellClass(code="A", name="one"), CellClass(code="B", name="two"), CellClass(code="C", name="three")]
    session = open_session(write_artefact(tmp_path, classes=classes, input_size=96), provider="cpu")
    assert session.manifest.codes == ("A", "B", "C")
    assert session.run(noise(2, 96)).evidence.shape == (2, 3, 6, 6)


def test_more_threads_give_the_same_answers(artefact: Path, session: OnnxSession) -> None:
    threaded = open_session(artefact, provider="cpu", intra_op_threads=2)
    np.testing.assert_allclose(threaded.run(noise(3)).logits, session.run(noise(3)).logits, atol=1e-5)


def refusal(artefact: Path) -> str:
    with pytest.raises(ArtefactError) as refused:
        open_session(artefact, provider="cpu")
    assert refused.value.path in {artefact, artefact.with_suffix(".json")}
    return refused.value.reason


def test_missing_files(tmp_path: Path) -> None:
    artefact = write_artefact(tmp_path)
    artefact.unlink()
    assert refusal(artefact) == "cannot be read (No such file or directory)"
    artefact.with_suffix(".json").unlink()
    assert refusal(artefact) == "cannot be read (No such file or directory)"


def test_a_truncated_graph(tmp_path: Path) -> None:
    artefact = write_artefact(tmp_path)
    artefact.write_bytes(artefact.read_bytes()[:-1])
    assert "does not match its manifest: its sha256 is" in refusal(artefact)


def test_a_truncated_manifest(tmp_path: Path) -> None:
    artefact = write_artefact(tmp_path)
    manifest = artefact.with_suffix(".json")
    manifest.write_text(manifest.read_text()[:-20])
    assert "not a manifest" in refusal(artefact)


@pytest.mark.parametrize("content", [b"", b"no graph at all", bytes(64)])
def test_what_is_no_graph_at_all(tmp_path: Path, content: bytes) -> None:
    artefact = write_artefact(tmp_path)
    artefact.write_bytes(content)
    edit_manifest(artefact, sha256=artefact_module.sha256(content))
    assert refusal(artefact).startswith("is not an ONNX file: ")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"temperature": 1.51}, "computes probabilities that are not softmax(logits / the manifest's temperature)"),
        ({"bias": [0.5] * 21}, "computes logits that are not the mean of the evidence plus the manifest's bias"),
        ({"unheard_of": 1}, "is not a manifest of schema 1: unheard_of: Extra inputs are not permitted"),
    ],
)
def test_a_manifest_at_odds_with_its_graph(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    artefact = write_artefact(tmp_path)
    edit_manifest(artefact, **changes)
    assert refusal(artefact) == sentence


def test_a_manifest_of_another_input_size(tmp_path: Path) -> None:
    artefact = write_artefact(tmp_path)
    edit_manifest(artefact, preprocessing={"input_size": 96, "mean": [0.5] * 3, "std": [0.5] * 3})
    assert refusal(artefact) == "has image of shape ('N', 64, 64, 3); the manifest says ('N', 96, 96, 3)"


def fixed_batch(graph: ModelProto) -> None:
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def renamed_output(graph: ModelProto) -> None:
    graph.graph.output[2].name = graph.graph.node[-1].output[0] = "heat"


def missing_output(graph: ModelProto) -> None:
    del graph.graph.output[4]


def float_input(graph: ModelProto) -> None:
    graph.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def double_output(graph: ModelProto) -> None:
    graph.graph.node[-1].output[0] = "attention32"
    graph.graph.node.append(helper.make_node("Cast", ["attention32"], ["attention"], to=TensorProto.DOUBLE))
    graph.graph.output[2].type.tensor_type.elem_type = TensorProto.DOUBLE


def fewer_scales(graph: ModelProto) -> None:
    (gate,) = (weight for weight in graph.graph.initializer if weight.name == "gate")
    gate.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(gate)[:2], "gate"))
    graph.graph.output[2].type.tensor_type.shape.dim[1].dim_value = 2


def not_a_number(graph: ModelProto) -> None:
    (std,) = (weight for weight in graph.graph.initializer if weight.name == "std")
    std.CopyFrom(numpy_helper.from_array(np.full(3, np.nan, np.float32), "std"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (fixed_batch, "has image of shape (1, 64, 64, 3); the manifest says ('N', 64, 64, 3)"),
        (renamed_output, "has the outputs ['probabilities', 'logits', 'heat', 'evidence', 'embedding']"),
        (missing_output, "has the outputs ['probabilities', 'logits', 'attention', 'evidence']"),
        (float_input, "has image of type tensor(float); required: tensor(uint8)"),
        (double_output, "has attention of type tensor(double); required: tensor(float)"),
        (fewer_scales, "has attention of shape ('N', 2, 4, 4); the manifest says ('N', 3, 4, 4)"),
        (not_a_number, "with NaN or infinite values"),
    ],
)
def test_a_graph_at_odds_with_the_contract(tmp_path: Path, change: Change, sentence: str) -> None:
    artefact = write_artefact(tmp_path)
    graph = onnx.load(artefact)
    change(graph)
    edit_graph(artefact, graph)
    assert sentence in refusal(artefact)


def test_auto_takes_what_works(artefact: Path) -> None:
    assert open_session(artefact, batch_sizes=(1, 2)).provider in {"cpu", "cuda"}


@pytest.mark.parametrize(("provider", "extra"), [("cuda", "gpu"), ("tensorrt", "tensorrt"), ("openvino", "openvino")])
def test_a_provider_works_at_every_batch_size_or_says_what_to_install(
    artefact: Path, session: OnnxSession, provider: ProviderChoice, extra: str
) -> None:
    try:
        opened = open_session(artefact, provider=provider, batch_sizes=(1, 2, 4))
    except ProviderUnavailable as refused:
        assert f"pip install -e '.[service,{extra}]'" in str(refused)
        return
    assert opened.provider == provider
    for count in (1, 3, 4, 6):
        found, expected = opened.run(noise(count)), session.run(noise(count))
        assert mismatch(compare(found._asdict(), expected._asdict()), tolerance(opened.provider, "fp32")) is None


def test_batch_sizes_bind_no_call_on_the_cpu(artefact: Path, session: OnnxSession) -> None:
    opened = open_session(artefact, provider="cpu", batch_sizes=(2, 4))
    for count in (1, 3, 9):
        np.testing.assert_allclose(opened.run(noise(count)).logits, session.run(noise(count)).logits, atol=1e-5)


def test_outputs_are_the_callers_own(session: OnnxSession) -> None:
    first = session.run(noise(2))
    kept = [array.copy() for array in first]
    session.run(255 - noise(2))
    for array, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_without_a_gpu_there_is_no_folder_for_engines(session: OnnxSession, tmp_path: Path) -> None:
    assert engine_folder(session.manifest, (1, 2), None) is None
    if "TensorrtExecutionProvider" not in offered():
        assert engine_folder(session.manifest, (1, 2), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_versions_are_told_of_what_is_there() -> None:
    assert versions()["onnxruntime"] == onnxruntime.__version__


def test_the_bundled_artefact_is_the_only_one_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefact_module, "WEIGHTS", tmp_path)
    with pytest.raises(ArtefactError, match=r"contains no model; set MARROWLENS_ARTEFACT to an \.onnx file"):
        open_session()
    only = write_artefact(tmp_path)
    assert artefact_module.bundled_artefact() == only
    assert open_session(provider="cpu").manifest.codes == tuple(cell_class.code for cell_class in CLASSES)
    write_artefact(tmp_path, name="second")
    with pytest.raises(ArtefactError, match="contains 2 models"):
        open_session()


def test_without_onnxruntime_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['onnxruntime'] = None; import service.runtime.session"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "pip install -e '.[service,cpu]'" in run.stderr.splitlines()[-1]
