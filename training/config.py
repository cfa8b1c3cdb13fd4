"""The training configuration: one TOML file, read once into frozen, typed tables."""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from model.contract import CLASSES, SIZE_MULTIPLE, CellClass, Countable, Lineage
from model.fields import Code
from training.data_config import DataConfig
from training.distil_config import DistilConfig
from training.split_config import ConfigTable

Scale = Literal["3-5-1", "5-7-1", "7-9-1"]
Stem = Literal["mcnn", "overlap"]
Gating = Literal["van", "man"]
ChannelAttention = Literal["none", "se", "eca", "epsa", "cbam", "gc", "fca"]
#: One number per stage; empty: the variant's own.
Stages = tuple[Annotated[int, Field(ge=1)], ...]
STAGES = 4
#: Names that other programs use → the key.
SYNONYMS = MappingProxyType(
    {
        "arch": "variant",
        "architecture": "variant",
        "augmentation": "augment",
        "augmentations": "augment",
        "backbone": "variant",
        "batch": "batch_size",
        "checkpoint": "init",
        "dataset": "data",
        "dropout": "drop_path",
        "image_size": "input_size",
        "img_size": "input_size",
        "imgsz": "input_size",
        "learning_rate": "lr",
        "lr0": "lr",
        "max_epochs": "epochs",
        "network": "model",
        "num_epochs": "epochs",
        "optimizer": "optimiser",
        "patience": "early_stopping_patience",
        "pretrained": "init",
        "scheduler": "schedule",
        "train": "fit",
        "trainer": "fit",
        "training": "fit",
        "transforms": "augment",
        "warmup": "warmup_epochs",
        "wd": "weight_decay",
        "weights": "init",
    }
)


class ModelConfig(ConfigTable):
    """Network architecture and input.

    `stem` to `embed_dims` each change one property of the variant, for ablations; unset: the variant's own.
    """

    variant: str = Field(
        "tiny",
        description="name of the network: VAN-MLKA micro, tiny, tiny_deep, mlka_s, mlka_m, mlka_l; van_mlka_lite0 to "
        "van_mlka_lite2 behind first layers with ImageNet weights; VAN van_b0 to van_b3; for comparison "
        "efficientnet_lite0 to efficientnet_lite2, resnet18, resnext50, densenet121, convnext_atto, dagdnet, "
        "dagdnet121, samfn, asaenet; or timm:NAME, any convolutional backbone of timm",
    )
    stem: Stem | None = Field(
        None, description="mcnn: parallel 3x3, 5x5 and 7x7 convolutions; overlap: VAN's 7x7 convolution of stride 4"
    )
    fusion: bool | None = Field(None, description="multi-scale cross attention; false: last stage only")
    scales: tuple[tuple[Scale, ...], ...] = Field(
        (), description="kernels of the gate by stage: several (MLKA, equal shares of the channels) or one (LKA)"
    )
    gating: Gating | None = Field(
        None, description="van: one tensor is gated value and input of the gate; man: two, and attention pooling"
    )
    channel_attention: ChannelAttention = Field(
        "none", description="in the ConvFFN of every block: epsa replaces its 3x3 convolution, others weight its output"
    )
    depths: Stages = Field((), description="blocks per stage")
    mlp_ratios: Stages = Field((), description="width of the ConvFFN per stage, as a multiple of the stage's width")
    embed_dims: Stages = Field((), description="width per stage; MLKA is fast at multiples of 48")
    input_size: int = Field(
        96, ge=SIZE_MULTIPLE, le=1024, multiple_of=SIZE_MULTIPLE, description="side of the square input, in pixels"
    )
    drop_path: float = Field(0.1, ge=0, lt=1, description="stochastic depth rate at the last block")
    init: str = Field(
        "",
        description="pretrained weights: imagenet, or a run folder, .safetensors, .onnx or .pth, relative to the "
        "working directory; empty: random",
    )
    mean: tuple[float, float, float] = Field(
        (0.485, 0.456, 0.406), description="mean per channel that is subtracted (pixels in 0..1); must match init"
    )
    std: tuple[float, float, float] = Field(
        (0.229, 0.224, 0.225), description="standard deviation per channel; must match init"
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        for key in ("scales", "depths", "mlp_ratios", "embed_dims"):
            given = len(getattr(self, key))
            if given not in (0, STAGES):
                raise ValueError(f"{key} has {given} entries; expected {STAGES}, one per stage")
        for stage, scales in enumerate(self.scales, start=1):
            if not scales or len(set(scales)) < len(scales):
                raise ValueError(f"scales of stage {stage} must name one or more different kernels")
        return self


Table = TypeVar("Table", bound=ConfigTable)

#: Maturation chains, immature to mature; adjacent classes are neighbours.
#: Inferred, not published: Matek et al. 2021 (doi 10.1182/blood.2020010568) print tolerant figures in Table 1 without
#: the list behind them. These links explain every difference between its strict and its tolerant columns, and without
#: any one of them the table contradicts itself. Hairy cells are neighbours of lymphocytes for that reason alone.
MATURATION: tuple[tuple[str, ...], ...] = (
    ("BLA", "PMO", "MYB", "MMZ", "NGB", "NGS"),
    ("PEB", "EBO"),
    ("LYI", "LYT", "HAC"),
)


def closest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Up to `most` known names similar to a name."""
    return get_close_matches(name, list(known), n=most, cutoff=0.5)


def suggest(name: str, known: Iterable[str], most: int = 1) -> str:
    """The end of an error message about an unknown name: up to `most` similar known names, else all of them."""
    known = list(known)
    near = closest(name, known, most)
    return f"did you mean {', '.join(map(repr, near))}?" if near else f"expected one of {', '.join(known)}"


class ConfigError(Exception):
    """An invalid configuration: the file, the key and what was expected."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class AugmentConfig(ConfigTable):
    """Augmentation of training pictures; drawn anew for each picture and epoch. 0 turns one off."""

    rotation_degrees: float = Field(180.0, ge=0, le=180, description="largest rotation in either direction, in degrees")
    shift: float = Field(0.08, ge=0, le=0.5, description="largest shift, as a share of the side")
    zoom: float = Field(0.15, ge=0, lt=1, description="the scale is between 1 - zoom and 1 + zoom")
    flip: bool = Field(True, description="mirror half of the pictures")
    stain: float = Field(0.15, ge=0, lt=1, description="largest relative change of the optical density per channel")
    stain_transfer: float = Field(
        0.0, ge=0, le=1, description="share of the pictures that take colours of another picture of the batch"
    )
    background: float = Field(0.0, ge=0, le=1, description="share of the cells put on another picture's background")
    blur: float = Field(0.0, ge=0, le=1, description="share of the pictures out of focus")
    blur_sigma: float = Field(1.3, gt=0, le=8, description="largest standard deviation of that blur, in pixels")
    jpeg: float = Field(0.0, ge=0, le=1, description="share of the pictures encoded as JPEG once more")
    jpeg_quality: int = Field(30, ge=1, le=95, description="lowest quality of that JPEG; the highest is 95")
    mixup_alpha: float = Field(0.0, ge=0, description="alpha of mixup (arXiv 1710.09412); 0: off")
    cutmix_alpha: float = Field(0.0, ge=0, description="alpha of CutMix (arXiv 1905.04899); 0: off")
    mixed_share: float = Field(0.5, ge=0, le=1, description="share of the batches with mixup or CutMix")


class FitConfig(ConfigTable):
    """Optimiser, schedule and class imbalance."""

    epochs: int = Field(30, ge=1, description="epochs of the first cosine cycle; with early stopping: the most")
    restarts: tuple[Annotated[int, Field(ge=1)], ...] = Field((), description="epochs of further cosine cycles (SGDR)")
    restart_lr: float = Field(
        0.6, gt=0, le=1, description="initial learning rate of a cycle, as a share of that of the previous one"
    )
    batch_size: int = Field(64, ge=2, description="pictures per optimiser step, over all devices")
    optimiser: Literal["adamw", "adam"] = Field("adamw", description="adam applies weight_decay as an L2 penalty")
    lr: float = Field(1e-3, gt=0, description="learning rate after the warm-up")
    schedule: Literal["cosine", "plateau"] = Field("cosine", description="learning rate schedule")
    plateau_factor: float = Field(0.1, gt=0, lt=1, description="factor on the learning rate at a plateau")
    plateau_patience: int = Field(10, ge=0, description="epochs without improvement before lr is reduced")
    early_stopping_patience: int = Field(
        0, ge=0, description="epochs without a lower calibration loss before training ends; 0: off"
    )
    keep: Literal["last", "best"] = Field(
        "last", description="keep the last epoch or that of the lowest calibration loss"
    )
    weight_decay: float = Field(0.05, ge=0, description="applied to matrices and kernels, not biases and norms")
    warmup_epochs: float = Field(2.0, ge=0, description="epochs of linear warm-up")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing")
    localisation: float = Field(
        0.0, ge=0, description="weight of the loss on attention and evidence outside a rough mask of the cell; 0: off"
    )
    outlier_weight: float = Field(0.5, gt=0, description="weight of the loss on data.outliers (outlier exposure)")
    outlier_share: float = Field(
        0.125, gt=0, le=1, description="pictures of data.outliers in each step, as a share of batch_size"
    )
    trunk_lr: float = Field(1.0, gt=0, description="factor on lr for the trunk, which has pretrained weights")
    layer_lr_decay: float = Field(
        1.0, gt=0, le=1, description="factor on lr from each block of trunk and stages to the one before it; 1: off"
    )
    freeze: tuple[str, ...] = Field(
        (),
        description='tensors that are not trained, by the beginning of their names: "trunk", "stages.0"; "*": all but '
        "the head",
    )
    ema_decay: float = Field(0.998, ge=0, lt=1, description="decay of the moving average of the weights; 0: off")
    clip_norm: float = Field(5.0, ge=0, description="largest norm of the gradient; 0: no clipping")
    precision: Literal["32-true", "bf16-mixed"] = Field(
        "32-true", description="of the arithmetic; weights stay in 32 bits"
    )
    sizes: tuple[tuple[int, int], ...] = Field(
        (), description="progressive resizing: pairs [first epoch, input size], ending with model.input_size"
    )
    imbalance: Literal["none", "sampling", "logit_adjustment", "loss_weights"] = Field(
        "none", description="handling of class imbalance"
    )
    imbalance_power: float = Field(1.0, ge=0, description="0: off; 1: all classes equal; tau of logit adjustment")
    imbalance_beta: float = Field(
        1.0, ge=0, le=1, description="below 1: n pictures count as (1 - beta^n) / (1 - beta) (arXiv 1901.05555)"
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        watched = self.schedule == "plateau" or self.early_stopping_patience > 0 or self.keep == "best"
        if self.schedule == "plateau" and (self.restarts or self.warmup_epochs):
            raise ValueError(
                "schedule 'plateau' allows neither warm-up nor restarts: set warmup_epochs = 0 and restarts = []"
            )
        if self.sizes and watched:
            raise ValueError(
                "sizes change the calibration loss; do not combine them with 'plateau', early stopping or keep = 'best'"
            )
        if self.sizes and [first for first, _ in self.sizes] != sorted({0, *(first for first, _ in self.sizes)}):
            raise ValueError("sizes must start at epoch 0, with ascending epochs")
        return self


class LoggingConfig(ConfigTable):
    """Loggers beside the curves of the run folder. They change nothing that is trained; a run may be resumed with
    others."""

    tensorboard: bool = Field(False, description="write event files to RUN/tensorboard")
    mlflow: str = Field("", description="tracking URI of MLflow: http://… or sqlite:///…; empty: off")
    experiment: str = Field("", description="experiment in MLflow; empty: the name of the model")


class EvaluationConfig(ConfigTable):
    """Tolerant figures: confusions of neighbouring classes count as correct."""

    neighbours: tuple[Annotated[tuple[Code, ...], Field(min_length=2)], ...] = Field(
        MATURATION, description="maturation chains; adjacent classes are neighbours"
    )


class TrustConfig(ConfigTable):
    """Decisions, prediction sets and novelty; fitted by `evaluate` to the calibration block."""

    coverage: float = Field(
        0.9, gt=0.5, lt=1, description="share of the cells of each class whose prediction set contains their class"
    )
    review_p: float = Field(0.1, gt=0, lt=1, description="share of known cells that novelty sends to review")
    reject_p: float = Field(
        0.03, gt=0, lt=1, description="share of known cells that novelty rejects; a part of review_p"
    )
    outliers: tuple[Path, ...] = Field(
        (),
        description="folders of pictures of other classes, relative to --data; rejection is measured on them",
    )

    @model_validator(mode="after")
    def _rejected_are_reviewed(self) -> Self:
        if self.reject_p > self.review_p:
            raise ValueError("reject_p is larger than review_p; rejected cells are a part of the reviewed ones")
        return self


class CardConfig(ConfigTable):
    """Statements for the manifest and the model card."""

    tissue: str = Field("bone marrow", description="the model's tissue; classes without pictures of it are unsupported")
    min_training_images: int = Field(
        50, ge=1, description="fewest training pictures of that tissue; a class with fewer is unsupported"
    )
    intended_use: str = Field(description="intended use and what is excluded")
    limits: tuple[str, ...] = Field(
        (), description="limitations known before training, one sentence each; no measured figure: export adds those"
    )
    licence: str = Field(description="licence of the weights; as restrictive as those of data and pretrained weights")


class Config(ConfigTable):
    """One training run."""

    name: Code = Field(description="name of the model and its files")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$", description="version of the model")
    seed: int = Field(0, ge=0, lt=2**32, description="random seed; on one CPU, equal seeds give identical weights")
    classes: tuple[CellClass, ...] = Field(
        CLASSES, min_length=2, description="classes in logit order; default: the 21 of Matek et al. 2021"
    )
    data: DataConfig = Field(description="data")
    model: ModelConfig = Field(ModelConfig(), description="network")
    augment: AugmentConfig = Field(AugmentConfig(), description="augmentation")
    fit: FitConfig = Field(FitConfig(), description="optimisation")
    logging: LoggingConfig = Field(LoggingConfig(), description="loggers")
    distil: DistilConfig = Field(DistilConfig(), description="knowledge distillation")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="evaluation")
    trust: TrustConfig = Field(TrustConfig(), description="decisions and prediction sets")
    card: CardConfig = Field(description="statements for the model card")

    @field_validator("classes", mode="before")
    @classmethod
    def _tables(cls, classes: Any) -> Any:
        """Explain the form of a class where the value is something else."""
        named = classes if isinstance(classes, list | tuple) else [classes]
        other = next((one for one in named if not isinstance(one, Mapping | CellClass)), None)
        if other is None and named:
            return classes
        raise ValueError(
            f'each class is a table: [[classes]] with code = "{other or "NGS"}" and name = "...", optionally lineage = '
            f'"{" | ".join(get_args(Lineage))}" and countable = "{" | ".join(get_args(Countable))}"; '
            "`marrowlens-train classes FOLDER` writes the tables of a folder"
        )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        """Check tables against each other, before a training instead of at the export."""
        names = [source.name for source in self.data.sources]
        tissues = sorted({source.tissue for source in self.data.sources})
        if len(set(names)) != len(names):
            raise ValueError(f"data.sources have equal names: {', '.join(names)}")
        if len(set(self.codes)) != len(self.codes):
            raise ValueError("classes have equal codes")
        if self.card.tissue not in tissues:
            raise ValueError(
                f"card.tissue {self.card.tissue!r} is not the tissue of a source; expected {', '.join(tissues)}"
            )
        if "neighbours" in self.evaluation.model_fields_set:  # the default may name classes that this list lacks
            self._know("evaluation.neighbours", (code for chain in self.evaluation.neighbours for code in chain))
        self._know("data.training_shares", self.data.training_shares)
        for learned, measured in product(self.data.outliers, self.trust.outliers):
            if learned.is_relative_to(measured) or measured.is_relative_to(learned):
                raise ValueError(
                    f"data.outliers {str(learned)!r} and trust.outliers {str(measured)!r} share pictures: rejection "
                    "must be measured on pictures that were not learned"
                )
        if (self.augment.mixup_alpha or self.augment.cutmix_alpha) and self.fit.batch_size % 2:
            raise ValueError("fit.batch_size must be even: mixup and CutMix combine pairs of pictures")
        sizes = [size for _, size in self.fit.sizes]
        if sizes and (sizes[-1] != self.model.input_size or any(size % SIZE_MULTIPLE for size in sizes)):
            raise ValueError(f"fit.sizes must be multiples of {SIZE_MULTIPLE} and end with model.input_size")
        if any(not SIZE_MULTIPLE <= size <= self.model.input_size for size in sizes):
            raise ValueError("fit.sizes must not exceed model.input_size")
        return self

    def _know(self, key: str, codes: Iterable[str]) -> None:
        for code in codes:
            if code not in self.codes:
                raise ValueError(f"{key}: unknown class {code!r}; {suggest(code, self.codes)}")

    def trained_as(self, other: "Config") -> bool:
        """Whether both train the same; loggers do not count."""
        return self.model_copy(update={"logging": other.logging}) == other

    @property
    def needs_masks(self) -> bool:
        """Whether the training needs rough masks of the cells."""
        return self.augment.background > 0 or self.fit.localisation > 0

    @property
    def codes(self) -> tuple[str, ...]:
        """Class codes in logit order."""
        return tuple(cell_class.code for cell_class in self.classes)


def differences(own: object, other: object, key: str = "") -> Iterator[str]:
    """KEY: value here → value there, for every key that differs; lists are compared entry by entry."""
    if isinstance(own, dict) and isinstance(other, dict):
        pairs = [(name, own.get(name), other.get(name)) for name in dict.fromkeys([*own, *other])]
    elif isinstance(own, list) and isinstance(other, list) and len(own) == len(other):
        pairs = [(str(at), *both) for at, both in enumerate(zip(own, other, strict=True))]
    else:
        if own != other:
            yield f"{key}: {json.dumps(own)} → {json.dumps(other)}"
        return
    for name, one, two in pairs:
        yield from differences(one, two, f"{key}.{name}".lstrip("."))


def read_config(path: Path) -> Config:
    """Read a training configuration.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key or an invalid value.
    """
    return validate_table(Config, read_toml(path), path)


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file.

    Raises:
        ConfigError: unreadable, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(path, f"cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path, f"not TOML: {error}") from error


def validate_table(kind: type[Table], keys: Mapping[str, Any], path: Path) -> Table:
    """Validate the keys of a file as a table.

    Args:
        path: the file, for error messages.

    Raises:
        ConfigError: an unknown key or an invalid value.
    """
    try:
        return kind.model_validate(keys)
    except ValidationError as error:
        raise ConfigError(path, "; ".join(_sentence(found, kind) for found in error.errors())) from error


def _sentence(found: Any, kind: type[ConfigTable]) -> str:
    key, known = _key_and_siblings(found["loc"], kind)
    if found["type"] == "union_tag_not_found":
        return f"{key}: {found['ctx']['discriminator']} is missing"
    if found["type"] != "extra_forbidden":
        return f"{key or 'the file'}: {found['msg'].removeprefix('Value error, ')}"
    return f"unknown key {key!r}; {_hint(str(found['loc'][-1]), known, kind)}"


def _hint(name: str, known: Sequence[str], kind: type[ConfigTable]) -> str:
    """What an unknown key may mean: a name that other programs use, a key of another table, or a similar key."""
    if (synonym := SYNONYMS.get(name.lower(), "")) in known:
        return f"did you mean {synonym!r}?"
    places = [table for table, keys in _tables_of(kind) if name in keys or synonym in keys]
    if places and not closest(name, known):
        return f"did you mean {synonym or name!r} in [{places[0]}]?"
    return suggest(name, known)


def _tables_of(kind: type[ConfigTable], path: str = "") -> Iterator[tuple[str, frozenset[str]]]:
    """The path of every single table below a table, and its keys."""
    for name, found in kind.model_fields.items():
        inner = found.annotation
        if isinstance(inner, type) and issubclass(inner, ConfigTable):
            where = f"{path}.{name}".lstrip(".")
            yield where, frozenset(inner.model_fields)
            yield from _tables_of(inner, where)


def _key_and_siblings(loc: tuple[int | str, ...], kind: type[ConfigTable]) -> tuple[str, list[str]]:
    """The dotted key of an error, and the known keys of its table."""
    level: Any = kind
    parts: list[str] = []
    siblings: list[str] = []
    for part in loc:
        if isinstance(level, UnionType):  # pydantic adds the kind of the split, which is not part of the key
            level = next(one for one in get_args(level) if get_args(one.model_fields["kind"].annotation) == (part,))
            continue
        parts.append(str(part))
        if isinstance(part, str) and part in getattr(level, "model_fields", {}):
            siblings, level = sorted(level.model_fields), level.model_fields[part].annotation
        elif isinstance(part, str):
            siblings = sorted(getattr(level, "model_fields", {}))
        else:
            level = get_args(level)[0]
    return ".".join(parts), siblings
