"""Export: a trained network as one ONNX file with preprocessing and calibration in the graph, and its manifest.

An artefact that disagrees with the network is never written.
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
from model.attention import MLKA
from model.contract import (
    ATTENTION,
    INPUT,
    OUTPUTS,
    DataSource,
    Lesion,
    Manifest,
    Precision,
    Preprocessing,
    manifest_text,
)
from model.trust.reference import TrustReference
from training.config import Config
from training.export.fp16 import fp16_graph
from training.export.inert import check_not_inert, effect, inert_parts, serves_attention
from training.export.probes import with_metadata, with_probes
from training.networks.build import Network, variant_title
from training.run import Evaluation, Provenance

OPSET = 20
#: For evidence relative to its largest value: with attention pooling, a position may hold the whole sum.
TOLERANCE = 1e-4
#: Scaling to 0..1 stretches a map with its rounding errors, a nearly flat one a hundredfold (model.heads.FLAT).
ATTENTION_TOLERANCE = 1e-3
PARITY_BATCHES = (1, 2, 7)
#: Channel block of onnxruntime's NCHWc layout; depthwise convolutions of other widths are several times slower.
CHANNEL_BLOCK = 16


class ExportError(Exception):
    """The exported graph disagrees with the network: which check failed, and by how much."""


class Servable(nn.Module):
    """The network with preprocessing and temperature scaling, as it is served.

    uint8 pictures (N, S, S, 3) → the contract's outputs, in its order.

    Args:
        attention: whether `attention` is one of the outputs.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: Network, config: Config, temperature: float, *, attention: bool = True) -> None:
        super().__init__()
        self.net = net
        self.outputs = tuple(name for name in OUTPUTS if attention or name != ATTENTION)
        self.temperature = temperature
        mean, std = torch.tensor(config.model.mean), torch.tensor(config.model.std)
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1))
        self.register_buffer("shift", (-mean / std).view(3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        planes = image.permute(0, 3, 1, 2).float()  # (N, S, S, 3) -> (N, 3, S, S)
        out = self.net(planes * self.scale + self.shift)
        computed = out._asdict() | {"probabilities": torch.softmax(out.logits / self.temperature, dim=1)}
        return tuple(computed[name] for name in self.outputs)


@dataclass(frozen=True)
class Trained:
    """Everything that an export needs of a run."""

    config: Config
    net: Network  # in eval mode
    evaluation: Evaluation
    training_images: dict[str, Counter[str]]  # source → class → pictures
    split: str  # description of the split
    split_sha256: str
    provenance: tuple[Provenance, ...] = ()
    trust: TrustReference | None = None  # None: answers have no decision


def export(
    trained: Trained, folder: Path, precision: Precision = "fp32", *, allow_inert: bool = False
) -> tuple[Path, Manifest]:
    """Write `<name>.onnx` and `<name>.json` to a folder, after all checks have passed.

    The graph has the output `attention` only if the answers depend on the gates that it shows.

    Args:
        allow_inert: export a network with parts that the answers do not depend on; the manifest names them.

    Raises:
        InertError: a part is inert and that is not allowed, or the evaluation does not contain the parts' lesions.
        ExportError: onnxruntime and PyTorch differ by more than TOLERANCE at batch size 1, 2 or 7, or evidence does not
            sum to the logits.
        Fp16Error: the fp16 graph differs too much from the fp32 graph.
        ValueError: see `to_onnx`.
    """
    config, inert = trained.config, inert_parts(trained.net, trained.evaluation)
    if not allow_inert:
        check_not_inert(inert)
    attention = serves_attention(trained.net, inert)
    servable = Servable(trained.net, config, trained.evaluation.temperature, attention=attention).eval()
    model = to_onnx(servable, config.model.input_size)
    graph = model.SerializeToString()
    shapes = check_graph(graph, servable, config.model.input_size)
    if precision == "fp16":
        graph = fp16_graph(model, config.model.input_size)
    graph, manifest = with_metadata(
        graph, _manifest(trained, hashlib.sha256(graph).hexdigest(), shapes, inert, precision)
    )
    manifest = with_probes(graph, manifest)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{config.name}.onnx"
    atomic_file.write_bytes(path, graph)
    atomic_file.write_text(path.with_suffix(".json"), manifest_text(manifest))
    return path, manifest


def to_onnx(servable: Servable, size: int) -> onnx.ModelProto:
    """The ONNX graph, with a dynamic batch size and without exporter metadata.

    The graph contains every tensor of the network whole and under its own name, so that a training can be initialised
    from an artefact. The exporter's own optimiser is off: it would fold BatchNorms into convolutions and crop kernels
    for good. Runtimes do both when they load a graph, at the same speed.

    Args:
        servable: in eval mode.
        size: input size S in pixels.

    Raises:
        ValueError: the network is in training mode, or MLKA widths are slow in onnxruntime (see `check_mlka_widths`).
    """
    if servable.training:
        raise ValueError("the network is in training mode: its BatchNorms would use batch statistics; call eval()")
    check_mlka_widths(servable)
    program = torch.onnx.export(
        servable,
        (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
        input_names=[INPUT],
        output_names=list(servable.outputs),
        dynamic_shapes={"image": {0: torch.export.Dim("N")}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
        optimize=False,
    )
    assert program is not None, "the dynamo exporter returns a program"
    _fold_constants(program.model)
    proto = program.model_proto
    graph = proto.graph
    # The metadata contains stack traces with paths of the exporting machine.
    for entry in (*graph.node, *graph.value_info, *graph.input, *graph.output, graph, proto):
        del entry.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    onnx.checker.check_model(proto, full_check=True)
    return proto


def check_mlka_widths(net: nn.Module) -> None:
    """Check that every MLKA splits its channels into multiples of 16.

    Raises:
        ValueError: it does not; names the module and a width that would.
    """
    for name, module in net.named_modules():
        if isinstance(module, MLKA) and module.share % CHANNEL_BLOCK:
            step = CHANNEL_BLOCK * len(module.scales)
            raise ValueError(
                f"{name} gives each scale {module.share} channels; onnxruntime computes depthwise convolutions fast "
                f"only in blocks of {CHANNEL_BLOCK}: choose a width that is a multiple of {step}"
            )


def _fold_constants(model: ir.Model) -> None:
    """Precompute what does not depend on the input or on the network's tensors, and remove unused nodes."""

    def uses_weight(node: ir.Node) -> bool | None:
        named = any(value is not None and (value.name or "").startswith("net.") for value in node.inputs)
        return False if named else None

    passes.InlinePass()(model)
    fold_constants_ir(model, should_fold=uses_weight)
    rewrite(model, [materialize_reshape_shape_rule])  # -1 for the batch size, instead of computing it at each reshape
    passes.RemoveUnusedNodesPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.RemoveUnusedFunctionsPass()(model)


def check_graph(graph: bytes, servable: Servable, size: int) -> dict[str, tuple[int, ...]]:
    """Compare the graph with the network at batch sizes 1, 2 and 7, and check that evidence sums to the logits.

    Returns:
        Output name → shape without the batch dimension.

    Raises:
        ExportError: see `export`.
    """
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    arrays: dict[str, NDArray[np.float32]] = {}
    for batch in PARITY_BATCHES:
        images = generator.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        images[0] = 0  # its maps may be constant: a division by zero in their scaling
        arrays = dict(zip(servable.outputs, session.run(list(servable.outputs), {INPUT: images}), strict=True))
        with torch.inference_mode():
            expected = servable(torch.from_numpy(images))
        for name, tensor in zip(servable.outputs, expected, strict=True):
            _check_close(name, batch, arrays[name], tensor.numpy())
        sums = arrays["evidence"].mean(axis=(2, 3)) + servable.net.head.bias.detach().numpy()
        _check_close("mean of evidence plus bias", batch, sums, arrays["logits"])
    return {name: array.shape[1:] for name, array in arrays.items()}


def _check_close(name: str, batch: int, actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    if actual.shape != expected.shape:
        raise ExportError(f"{name} at batch {batch}: shape {actual.shape}, expected {expected.shape}")
    difference = float(np.abs(actual - expected).max())
    allowed = ATTENTION_TOLERANCE if name == ATTENTION else TOLERANCE
    if name == "evidence":
        allowed *= max(1.0, float(np.abs(expected).max()))
    if not difference <= allowed:  # also true for NaN
        raise ExportError(f"{name} at batch {batch}: off by {difference:.2e}, allowed {allowed:.0e}")


def _manifest(
    trained: Trained,
    sha256: str,
    shapes: dict[str, tuple[int, ...]],
    inert: tuple[Lesion, ...],
    precision: Precision,
) -> Manifest:
    config, card = trained.config, trained.config.card
    images = {source.name: trained.training_images.get(source.name, Counter[str]()) for source in config.data.sources}
    total, of_tissue = Counter[str](), Counter[str]()
    for source in config.data.sources:
        total += images[source.name]
        of_tissue += images[source.name] if source.tissue == card.tissue else Counter()
    sources = tuple(
        DataSource(
            name=source.name,
            tissue=source.tissue,
            licence=source.licence,
            attribution=source.attribution,
            training_images=dict(images[source.name]),
        )
        for source in config.data.sources
    )
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
        attention_scales=trained.net.attention_scales if ATTENTION in shapes else (),
        outputs={name: ("N", *shape) for name, shape in shapes.items()},
        opset=OPSET,
        precision=precision,
        sha256=sha256,
        sources=sources,
        split=trained.split,
        split_sha256=trained.split_sha256,
        metrics=trained.evaluation.metrics,
        lesions=tuple(
            Lesion.model_validate(lesion.model_dump(include=set(Lesion.model_fields)))
            for lesion in trained.evaluation.lesions or ()
        ),
        inert=tuple(lesion.part for lesion in inert),
        trust=trained.trust,
        intended_use=card.intended_use,
        limits=(*card.limits, *_derived_limits(trained, inert)),
        licence=card.licence,
        attribution=_attribution(trained),
    )


def _derived_limits(trained: Trained, inert: tuple[Lesion, ...]) -> list[str]:
    """Limits found after the configuration: inert parts, no fitted temperature, weights that saw test pictures."""
    limits = [f"Answers do not depend on {lesion.part}: {effect(lesion)}." for lesion in inert]
    limits += [weights.limit for weights in trained.provenance if weights.limit]
    if not trained.evaluation.temperature_fitted:
        limits.insert(0, "Probabilities are not calibrated: the calibration block does not determine a temperature.")
    return limits


def _attribution(trained: Trained) -> tuple[str, ...]:
    """Attributions of the data, then of initial weights and teachers, without duplicates."""
    texts = [source.attribution for source in trained.config.data.sources]
    texts += [text for weights in trained.provenance for text in weights.attribution]
    return tuple(dict.fromkeys(texts))
