"""A trained network → the artefact: one ONNX file that holds preprocessing and calibration, and its manifest.

Knows torch, ONNX and the contract. An artefact that disagrees with the network is never written.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import materialize_reshape_shape_rule
from torch import Tensor, nn

from model import atomic_file
from model.contract import INPUT, OUTPUTS, DataSource, Manifest, Precision, Preprocessing, manifest_text
from training.config import Config
from training.export.binding import bound
from training.export.fp16 import in_half
from training.export.fusion import folded
from training.export.probes import with_probes
from training.networks.build import Network, variant_title
from training.run import Evaluation, Provenance

OPSET = 20
ATOL = 1e-4
PARITY_BATCHES = (1, 2, 7)

Arrays = dict[str, NDArray[np.float32]]


class ExportError(Exception):
    """The exported graph does not do what the network does: which check, and by how much."""


class Servable(nn.Module):
    """The network with everything around it that must not differ between training and serving.

    uint8 pictures (N, S, S, 3) → the contract's five outputs, in its order.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: Network, config: Config, temperature: float) -> None:
        super().__init__()
        self.net = net
        self.temperature = temperature
        mean, std = torch.tensor(config.model.mean), torch.tensor(config.model.std)
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1))
        self.register_buffer("shift", (-mean / std).view(3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        planes = image.permute(0, 3, 1, 2).float()  # (N, S, S, 3) -> (N, 3, S, S)
        out = self.net(planes * self.scale + self.shift)
        probabilities = torch.softmax(out.logits / self.temperature, dim=1)
        return probabilities, out.logits, out.attention, out.evidence, out.embedding


@dataclass(frozen=True)
class Trained:
    """All that an export needs of a run."""

    config: Config
    net: Network  # in eval mode
    evaluation: Evaluation
    training_images: dict[str, Counter[str]]  # source → class → pictures
    split: str  # in a sentence
    split_sha256: str
    ancestors: tuple[Provenance, ...] = ()


def export(trained: Trained, folder: Path, precision: Precision = "fp32") -> tuple[Path, Manifest]:
    """Write `<name>.onnx` and `<name>.json` to a folder, once the graph has passed every gate.

    Raises:
        ExportError: onnxruntime and PyTorch disagree by more than 1e-4 at batch 1, 2 or 7, or evidence does not sum
            to the logits.
        HalfError: in fp16 the graph disagrees with itself in fp32.
        ValueError: see `to_onnx`.
    """
    config = trained.config
    servable = Servable(trained.net, config, trained.evaluation.temperature).eval()
    model = to_onnx(servable, config.model.input_size)
    graph = model.SerializeToString()
    shapes = check(graph, servable, config.model.input_size)
    if precision == "fp16":
        graph = in_half(model, config.model.input_size)
    graph, manifest = bound(graph, _manifest(trained, hashlib.sha256(graph).hexdigest(), shapes, precision))
    manifest = with_probes(graph, manifest)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{config.name}.onnx"
    atomic_file.write_bytes(path, graph)
    atomic_file.write_text(path.with_suffix(".json"), manifest_text(manifest))
    return path, manifest


def to_onnx(servable: nn.Module, size: int) -> onnx.ModelProto:
    """The ONNX graph of the network arranged for inference (training/export/fusion.py); see `trace`.

    Raises:
        ValueError: onnxruntime would compute an MLKA of these widths several times more slowly than others.
    """
    return trace(folded(servable), size)


def trace(servable: nn.Module, size: int) -> onnx.ModelProto:
    """The ONNX graph, batch dynamic, without the exporter's notes on where each node came from.

    Every tensor of the network is in it under its own name, whole, so that a training can begin with an artefact. The
    exporter's optimiser would fold BatchNorms into convolutions, from which no training gets them out again, and cut
    kernels; runtimes do both when they load a graph, at the same speed.
    """
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        servable,
        (example,),
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_shapes={"image": {0: torch.export.Dim("N")}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
        optimize=False,
    )
    assert program is not None, "the dynamo exporter returns a program"
    _fold_constants(program.model)
    proto = program.model_proto
    # The notes hold stack traces with the paths of the machine that exported.
    for entry in (
        *proto.graph.node,
        *proto.graph.value_info,
        *proto.graph.input,
        *proto.graph.output,
        proto.graph,
        proto,
    ):
        del entry.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _fold_constants(model: ir.Model) -> None:
    """Compute what is the same for every picture, but for the network's tensors, and tidy up."""

    def touches_a_weight(node: ir.Node) -> bool | None:
        named = any(value is not None and (value.name or "").startswith("net.") for value in node.inputs)
        return False if named else None

    passes.InlinePass()(model)
    fold_constants_ir(model, should_fold=touches_a_weight)
    rewrite(model, [materialize_reshape_shape_rule])  # -1 for the batch, which else is computed for every reshape
    passes.RemoveUnusedNodesPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)


def check(graph: bytes, servable: Servable, size: int) -> dict[str, tuple[int, ...]]:
    """Hold the graph against the network at batch sizes 1, 2 and 7, and the evidence against its sum rule.

    Returns:
        Output name → shape without the batch.

    Raises:
        ExportError: see `export`.
    """
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    arrays: Arrays = {}
    for batch in PARITY_BATCHES:
        images = generator.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        images[0] = 0  # where a map may be flat, and its scaling divides by nothing
        arrays = dict(zip(OUTPUTS, session.run(list(OUTPUTS), {INPUT: images}), strict=True))
        with torch.inference_mode():
            expected = servable(torch.from_numpy(images))
        for name, tensor in zip(OUTPUTS, expected, strict=True):
            _within(name, batch, arrays[name], tensor.numpy())
        sums = arrays["evidence"].mean(axis=(2, 3)) + servable.net.head.bias.detach().numpy()
        _within("the mean of evidence plus bias", batch, sums, arrays["logits"])
    return {name: array.shape[1:] for name, array in arrays.items()}


def _within(name: str, batch: int, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    if found.shape != expected.shape:
        raise ExportError(f"{name} at batch {batch}: shape {found.shape}, expected {expected.shape}")
    gap = float(np.abs(found - expected).max())
    if not gap <= ATOL:  # also catches NaN
        raise ExportError(f"{name} at batch {batch}: off by {gap:.2e}, allowed {ATOL:.0e}")


def _manifest(
    trained: Trained, sha256: str, shapes: dict[str, tuple[int, ...]], precision: Precision = "fp32"
) -> Manifest:
    config, card = trained.config, trained.config.card
    of_tissue: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for source in config.data.sources:
        counts = trained.training_images.get(source.name, Counter())
        total += counts
        of_tissue += counts if source.tissue == card.tissue else Counter()
    sources = [
        DataSource(
            name=source.name,
            tissue=source.tissue,
            licence=source.licence,
            attribution=source.attribution,
            training_images=dict(trained.training_images.get(source.name, {})),
        )
        for source in config.data.sources
    ]
    return Manifest(
        name=config.name,
        version=config.version,
        variant=variant_title(config.model),
        classes=config.classes,
        training_images={code: total[code] for code in config.codes},
        unsupported=tuple(code for code in config.codes if of_tissue[code] < card.min_training_images),
        preprocessing=Preprocessing(input_size=config.model.input_size, mean=config.model.mean, std=config.model.std),
        temperature=trained.evaluation.temperature,
        bias=tuple(trained.net.head.bias.tolist()),
        attention_scales=trained.net.attention_scales,
        outputs={name: ("N", *shape) for name, shape in shapes.items()},
        opset=OPSET,
        precision=precision,
        sha256=sha256,
        sources=tuple(sources),
        split=trained.split,
        split_sha256=trained.split_sha256,
        metrics=trained.evaluation.metrics,
        intended_use=card.intended_use,
        limits=(*card.limits, *_found_limits(trained)),
        licence=card.licence,
        attribution=_attribution(trained),
    )


def _found_limits(trained: Trained) -> list[str]:
    """What no configuration could know: where the calibration was too little, and who has seen the test pictures."""
    found = [ancestor.limit for ancestor in trained.ancestors if ancestor.limit]
    if not trained.evaluation.temperature_fitted:
        found.insert(0, "Its probabilities are not calibrated: the calibration block does not determine a temperature.")
    return found


def _attribution(trained: Trained) -> tuple[str, ...]:
    """Of the data, then of what the training began with and of its teachers; nobody twice."""
    named = [source.attribution for source in trained.config.data.sources]
    named += [text for ancestor in trained.ancestors for text in ancestor.attribution]
    return tuple(dict.fromkeys(named))
