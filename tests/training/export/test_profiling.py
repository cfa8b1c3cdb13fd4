"""Where a model's time goes: each node of a graph finds its part of the network, and the command adds them up."""

from pathlib import Path

import commands
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from training.export.cost import INPUT_SCOPE, OUTPUT_SCOPE, graph_scopes, node_times, optimised_graph_scopes


def _graph() -> onnx.GraphProto:
    """Front, a stem with its BatchNorm, a block whose weight is computed from two tensors, a head, a softmax."""
    node = helper.make_node
    ones, square = np.ones(16, np.float32), np.ones((16, 16, 1, 1), np.float32)
    tensors = {
        "scale": np.float32(2),
        "net.trunk.conv_stem.weight": np.ones((16, 3, 1, 1), np.float32),
        "net.mlka.blocks.0.proj.weight": square,
        "net.mlka.blocks.0.layer_scale": np.ones((16, 1, 1, 1), np.float32),
        "net.head.weight": np.ones((5, 16, 1, 1), np.float32),
    } | {f"net.trunk.bn1.{part}": ones for part in ("weight", "bias", "running_mean", "running_var")}
    norm = [f"net.trunk.bn1.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    nodes = [
        node("Mul", ["image", "scale"], ["scaled"]),
        node("Conv", ["scaled", "net.trunk.conv_stem.weight"], ["stem"]),
        node("BatchNormalization", ["stem", *norm], ["normed"]),
        node("Relu", ["normed"], ["seen"]),
        node("Mul", ["net.mlka.blocks.0.proj.weight", "net.mlka.blocks.0.layer_scale"], ["folded"]),
        node("Conv", ["seen", "folded"], ["mixed"]),
        node("Gelu", ["mixed"], ["bent"]),
        node("Conv", ["bent", "net.head.weight"], ["evidence"]),
        node("Softmax", ["evidence"], ["probabilities"], axis=1),
    ]
    return helper.make_graph(
        nodes,
        "parts",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 5, 8, 8])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )


def test_a_value_belongs_where_the_tensors_of_its_node_do() -> None:
    found = graph_scopes(_graph())
    assert found["image"] == found["scaled"] == INPUT_SCOPE
    assert found["stem"] == found["normed"] == found["seen"] == "trunk.conv_stem"
    assert found["mixed"] == found["bent"] == "mlka"
    assert found["evidence"] == "head"
    assert found["probabilities"] == OUTPUT_SCOPE
    assert "folded" not in found  # the same for every picture: no run computes it


def test_what_a_runtime_put_in_between_belongs_to_what_it_takes() -> None:
    node = helper.make_node
    nodes = [
        node("Conv", ["scaled", "blocked"], ["token_1"], name="seen_nchwc"),
        node("ReorderOutput", ["token_1"], ["seen"], name="ReorderOutput"),
        node("Conv", ["seen", "folded"], ["mixed"], name="renamed"),
    ]
    optimised = helper.make_graph(nodes, "optimised", [], [])
    assert optimised_graph_scopes(optimised, graph_scopes(_graph())) == {
        "seen_nchwc": "trunk.conv_stem",
        "ReorderOutput": "trunk.conv_stem",
        "renamed": "mlka",
    }


def test_every_node_that_runs_is_timed(artefact: Path) -> None:
    found = node_times(artefact, batch=2, runs=3)
    assert {"Conv", "Softmax"} <= {node.operator for node in found}
    assert all(node.scope and node.microseconds >= 0 for node in found)


def test_what_onnxruntime_cannot_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none.onnx: onnxruntime cannot run it"):
        node_times(tmp_path / "none.onnx", 1, 1)


def test_the_command_says_operators_and_parts(artefact: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert commands.run("profile", artefact, "--batch", "2", "--runs", "2", log=log) == 0, log.read_text()
    said = log.read_text()
    assert "least of 2 runs" in said and "batch 2" in said
    assert {"Conv", "Softmax", OUTPUT_SCOPE, "all"} <= {line.split()[0] for line in said.splitlines() if line.split()}
