"""Checks of an export: a graph that disagrees with the network is never written."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from lesions import lesions
from minimal_config import MICRO
from torch import nn

from model.attention import MLKA
from model.contract import Manifest, Precision
from model.van import VAN, VARIANTS
from service.runtime.session import open_session
from training.config import ModelConfig
from training.export.card import model_card
from training.export.export import ExportError, Servable, Trained, check_graph, check_mlka_widths, export, to_onnx
from training.export.inert import InertError
from training.networks.build import build
from training.run import Evaluation, EvaluationCount

UNFITTED = Evaluation(temperature=1.0, temperature_fitted=False, metrics=(), confusion={})


@pytest.fixture(scope="module")
def network() -> VAN:
    torch.manual_seed(0)
    net = VAN("micro", len(MICRO.codes)).eval()
    # Layer scales as after training: larger than the initial 0.3, so that an error in a block shows.
    for name, parameter in net.named_parameters():
        if "layer_scale" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    torch.nn.init.normal_(net.head.weight)
    torch.nn.init.normal_(net.head.bias)
    return net


@pytest.fixture(scope="module")
def graph(network: VAN) -> bytes:
    return to_onnx(Servable(network, MICRO, 1.7).eval(), 64).SerializeToString()


def test_a_faithful_graph_passes_and_gives_its_shapes(network: VAN, graph: bytes) -> None:
    shapes = check_graph(graph, Servable(network, MICRO, 1.7).eval(), 64)
    assert shapes == {
        "probabilities": (21,),
        "logits": (21,),
        "attention": (3, 8, 8),
        "evidence": (21, 4, 4),
        "embedding": (48,),
    }


def test_another_temperature_is_caught(network: VAN, graph: bytes) -> None:
    with pytest.raises(ExportError, match="probabilities at batch 1: off by"):
        check_graph(graph, Servable(network, MICRO, 1.0).eval(), 64)


def test_a_changed_weight_is_caught(network: VAN, graph: bytes) -> None:
    other = VAN("micro", len(MICRO.codes)).eval()
    other.load_state_dict(network.state_dict() | {"head.bias": network.head.bias + 1e-3})
    with pytest.raises(ExportError, match="off by"):
        check_graph(graph, Servable(other, MICRO, 1.7).eval(), 64)


class _Leaky(Servable):
    """A network whose evidence does not sum to the logits."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        probabilities, logits, attention, evidence, embedding = super().forward(image)
        return probabilities, logits, attention, evidence * 1.01, embedding


def _leaking(graph: bytes) -> bytes:
    """The graph of a `_Leaky` network: the evidence output is scaled."""
    model = onnx.load_from_string(graph)
    (maker,) = (node for node in model.graph.node if "evidence" in node.output)
    assert not any("evidence" in node.input for node in model.graph.node)  # or more than the output would change
    maker.output[list(maker.output).index("evidence")] = "exact"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.01), "leak"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["exact", "leak"], ["evidence"]))
    return model.SerializeToString()


def test_evidence_that_does_not_sum_to_the_logits_is_caught(network: VAN, graph: bytes) -> None:
    leaky = _Leaky(network, MICRO, 1.7).eval()
    with pytest.raises(ExportError, match="mean of evidence plus bias"):
        check_graph(_leaking(graph), leaky, 64)


def test_a_network_of_nans_is_never_written(network: VAN, tmp_path: Path) -> None:
    sick = VAN("micro", len(MICRO.codes)).eval()
    sick.load_state_dict(network.state_dict() | {"head.bias": torch.full((21,), float("nan"))})
    trained = Trained(
        MICRO,
        sick,
        Evaluation(temperature=1.0, metrics=(), confusion={}, lesions=lesions(sick)),
        {"drawn": Counter(PMO=90)},
        "none",
        "0" * 64,
    )
    with pytest.raises(ExportError, match="off by nan"):
        export(trained, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


@pytest.fixture(scope="module")
def exported(network: VAN, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    evaluation = UNFITTED.model_copy(update={"lesions": lesions(network)})
    trained = Trained(MICRO, network, evaluation, {"drawn": Counter(PMO=90)}, "none", "0" * 64)
    return export(trained, tmp_path_factory.mktemp("exported"))


def test_what_is_exported_opens_and_has_no_half_numbers(exported: tuple[Path, Manifest]) -> None:
    path, manifest = exported
    assert manifest.precision == "fp32"
    assert "precision" not in json.loads(path.with_suffix(".json").read_text())
    assert open_session(path, provider="cpu").manifest == manifest
    weights = {weight.data_type for weight in onnx.load(path).graph.initializer}
    assert onnx.TensorProto.FLOAT in weights and onnx.TensorProto.FLOAT16 not in weights


def test_a_temperature_that_nothing_determines_is_no_calibration(exported: tuple[Path, Manifest]) -> None:
    _, manifest = exported
    assert manifest.temperature == 1
    card = model_card(manifest, "", UNFITTED, EvaluationCount(2, 3))
    assert "Probabilities are not calibrated" in manifest.limits[-1] and manifest.limits[-1] in card
    assert "temperature 1.000, not fitted: the calibration block does not determine it" in card


def test_scaling_and_normalising_are_those_of_the_configuration(network: VAN) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    planes = (images / 255.0 - MICRO.model.mean) / MICRO.model.std
    by_hand = network(torch.from_numpy(planes).permute(0, 3, 1, 2).float()).logits
    torch.testing.assert_close(Servable(network, MICRO, 1.7)(torch.from_numpy(images))[1], by_hand, atol=1e-4, rtol=0)


def test_a_network_in_training_mode_is_refused(network: VAN) -> None:
    with pytest.raises(ValueError, match="training mode"):
        to_onnx(Servable(network, MICRO, 1.0).train(), 64)
    network.eval()


def test_groups_that_onnxruntime_is_slow_at_are_named_with_a_width_that_is_not() -> None:
    for name in ("tiny", "tiny_deep", "mlka_s", "mlka_m", "mlka_l", "van_b0"):
        with torch.device("meta"):
            check_mlka_widths(VAN(VARIANTS[name], len(MICRO.codes)))
    with pytest.raises(ValueError, match="1 gives each scale 10 channels; .* a width that is a multiple of 48"):
        check_mlka_widths(nn.Sequential(nn.Identity(), MLKA(30, ("3-5-1", "5-7-1", "7-9-1"))))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_magnitude_of_features_is_not_served_as_attention(tmp_path: Path, precision: Precision) -> None:
    """A comparison network has no attention that a lesion could test."""
    torch.manual_seed(0)
    config = MICRO.model_copy(update={"model": ModelConfig(variant="convnext_atto", input_size=64)})
    net = build(config.model, len(MICRO.codes)).eval()
    evaluation = UNFITTED.model_copy(update={"lesions": ()})
    trained = Trained(config, net, evaluation, {"drawn": Counter(PMO=90)}, "none", "0" * 64)
    path, manifest = export(trained, tmp_path, precision)
    assert list(manifest.outputs) == ["probabilities", "logits", "evidence", "embedding"]
    assert (manifest.attention_scales, manifest.inert, manifest.lesions) == ((), (), ())
    assert open_session(path, provider="cpu").manifest == manifest


@pytest.mark.parametrize(
    ("changed", "inert"),
    [
        pytest.param(0.05, (), marks=pytest.mark.slow),
        (0.049, ("MLKA", "MLKA in the blocks")),
        pytest.param(
            0.009,
            ("MLKA", "MLKA in the blocks", "MLKA in the pooling", "pooling", "cross-scale attention"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_thresholds_of_inert_parts(network: VAN, tmp_path: Path, changed: float, inert: tuple[str, ...]) -> None:
    evaluation = UNFITTED.model_copy(update={"lesions": lesions(network, changed)})
    trained = Trained(MICRO, network, evaluation, {"drawn": Counter(PMO=90)}, "none", "0" * 64)
    if inert:
        with pytest.raises(InertError) as refused:
            export(trained, tmp_path)
        assert tuple(lesion.part for lesion in refused.value.lesions) == inert
    _, manifest = export(trained, tmp_path, allow_inert=True)
    assert manifest.inert == inert
    assert manifest.has_attention == ("MLKA" not in inert)
