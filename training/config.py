"""What a training run is told: one TOML file, read once, typed, frozen.

Knows keys, units and defaults. Knows no torch and opens no picture.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from model.contract import CLASSES, SIZE_MULTIPLE, CellClass, Code, Countable, Lineage
from training.data_config import DataConfig, Strict
from training.model_config import ModelConfig

Table = TypeVar("Table", bound=Strict)

#: Chains of maturation, young to old; classes next to each other in a chain are neighbours.
#: Inferred, not published: Matek et al. 2021 (doi 10.1182/blood.2020010568) print tolerant figures in Table 1 without
#: the list behind them. These links are enough for every difference between its strict and its tolerant columns, and
#: without any one of them the table contradicts itself. Hairy cells stand beside lymphocytes for that reason alone.
MATURATION: tuple[tuple[str, ...], ...] = (
    ("BLA", "PMO", "MYB", "MMZ", "NGB", "NGS"),
    ("PEB", "EBO"),
    ("LYI", "LYT", "HAC"),
)


class ConfigError(Exception):
    """A configuration that cannot be used: the file, the key and what was expected there."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class AugmentConfig(Strict):
    """How far a training picture may be bent. All are drawn anew for each picture and epoch; 0 turns one off."""

    rotation_degrees: float = Field(180.0, ge=0, le=180, description="at most, either way")
    shift: float = Field(0.08, ge=0, le=0.5, description="share of the side")
    zoom: float = Field(0.15, ge=0, lt=1, description="scale between 1 - zoom and 1 + zoom")
    flip: bool = Field(True, description="mirror half of the pictures")
    stain: float = Field(0.15, ge=0, lt=1, description="relative change of optical density, a channel")
    mixup_alpha: float = Field(0.0, ge=0, description="0: off (arXiv 1710.09412)")
    cutmix_alpha: float = Field(0.0, ge=0, description="0: off (arXiv 1905.04899)")
    mixed_share: float = Field(0.5, ge=0, le=1, description="of the batches, where mixup or cutmix is on")


class FitConfig(Strict):
    """The optimiser's numbers, the schedule's, and what is done about classes of unequal size."""

    epochs: int = Field(30, ge=1, description="of the first cosine cycle; the most there can be, with early stopping")
    restarts: tuple[Annotated[int, Field(ge=1)], ...] = Field((), description="epochs of further cycles (SGDR)")
    restart_lr: float = Field(0.6, gt=0, le=1, description="first rate of a cycle, as a share of the one before")
    batch_size: int = Field(64, ge=2, description="pictures an optimiser step, over all devices together")
    optimiser: Literal["adamw", "adam"] = Field("adamw", description="adam takes weight_decay as an L2 penalty")
    lr: float = Field(1e-3, gt=0, description="learning rate after the warm-up")
    schedule: Literal["cosine", "plateau"] = Field("cosine", description="of the learning rate over the epochs")
    plateau_factor: float = Field(0.1, gt=0, lt=1, description="what lr is multiplied with on a plateau")
    plateau_patience: int = Field(10, ge=0, description="epochs without a lower calibration loss that are borne")
    early_stopping_patience: int = Field(
        0, ge=0, description="epochs without a lower calibration loss after which training ends; 0: never"
    )
    keep: Literal["last", "best"] = Field("last", description="best: the epoch of the lowest calibration loss")
    weight_decay: float = Field(0.05, ge=0, description="of matrices and kernels; biases and norms have none")
    warmup_epochs: float = Field(2.0, ge=0, description="in which lr rises from almost nothing")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="share of a label that is spread over all classes")
    ema_decay: float = Field(0.998, ge=0, lt=1, description="0: the weights as they are, not averaged")
    clip_norm: float = Field(5.0, ge=0, description="of the whole gradient; 0: not clipped")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="of the arithmetic; weights stay 32 bit")
    sizes: tuple[tuple[int, int], ...] = Field(
        (), description="progressive resizing: [first epoch, input size] each, up to model.input_size"
    )
    imbalance: Literal["none", "sampling", "logit_adjustment", "loss_weights"] = Field(
        "none", description="what is done about classes of unequal size"
    )
    imbalance_power: float = Field(
        1.0, ge=0, description="0: as if off; 1: every class alike; the tau of logit adjustment"
    )
    imbalance_beta: float = Field(
        1.0, ge=0, le=1, description="below 1, a class counts as (1 - beta^n) / (1 - beta) pictures (arXiv 1901.05555)"
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        watched = self.schedule == "plateau" or self.early_stopping_patience > 0 or self.keep == "best"
        if self.schedule == "plateau" and (self.restarts or self.warmup_epochs):
            raise ValueError("schedule 'plateau' begins at lr and has one cycle: set warmup_epochs = 0, no restarts")
        if self.sizes and watched:
            raise ValueError("sizes change what the calibration loss is measured on: no plateau, early stop or best")
        if self.sizes and [first for first, _ in self.sizes] != sorted({0, *(first for first, _ in self.sizes)}):
            raise ValueError("sizes must begin at epoch 0 and name each later epoch once, in order")
        return self


class DistilConfig(Strict):
    """Learning from the answers of trained networks beside the labels (arXiv 1503.02531; 2106.05237 on how)."""

    teachers: tuple[Path, ...] = Field((), description="run folders; their softened answers are averaged")
    weight: float = Field(0.7, ge=0, le=1, description="of the teachers' answers; the labels have the rest")
    temperature: float = Field(2.0, gt=0, description="that softens both sides")
    features: float = Field(0.0, ge=0, description="of the likeness of embeddings beside the answers; 0: off")


class EvaluationConfig(Strict):
    """Which confusions the tolerant figures forgive."""

    neighbours: tuple[Annotated[tuple[Code, ...], Field(min_length=2)], ...] = Field(
        MATURATION, description="chains of maturation, young to old; direct neighbours are forgiven"
    )


class CardConfig(Strict):
    """What the manifest and the model card say that no measurement can."""

    tissue: str = Field("bone marrow", description="what the model is meant for; other tissue supports no class")
    min_training_images: int = Field(50, ge=1, description="of that tissue; a class with fewer is unsupported")
    intended_use: str = Field(description="what it is for, and what not")
    limits: tuple[str, ...] = Field((), description="what it cannot do, a sentence each")
    licence: str = Field(description="of the weights; no laxer than what they were learned from and begun with")


class Config(Strict):
    """One training run."""

    name: Code = Field(description="of the model; its files are called so")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$", description="of the model")
    seed: int = Field(0, ge=0, lt=2**32, description="on one CPU, equal seeds give equal bits")
    classes: tuple[CellClass, ...] = Field(
        CLASSES, min_length=2, description="in logit order; left out: the 21 of Matek et al. 2021"
    )
    data: DataConfig = Field(description="what is learned from")
    model: ModelConfig = Field(ModelConfig(), description="what learns")
    augment: AugmentConfig = Field(AugmentConfig(), description="how a picture is varied")
    fit: FitConfig = Field(FitConfig(), description="how it learns")
    distil: DistilConfig = Field(DistilConfig(), description="from whom else it learns")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="how it is measured")
    card: CardConfig = Field(description="what is said of it")

    @field_validator("classes", mode="before")
    @classmethod
    def _tables(cls, classes: Any) -> Any:
        """The form of a class, where something else stands in its place."""
        named = classes if isinstance(classes, list | tuple) else [classes]
        other = next((one for one in named if not isinstance(one, Mapping | CellClass)), None)
        if other is None and named:
            return classes
        raise ValueError(
            f'each class is a table of its own: [[classes]], then code = "{other or "NGS"}" and name = "what a person '
            f'reads", and where it helps lineage = "{" | ".join(get_args(Lineage))}" and countable = '
            f'"{" | ".join(get_args(Countable))}"; `marrowlens-train classes FOLDER` writes them for a folder'
        )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        """What would otherwise come to light after the training, at the export, or never."""
        names = [source.name for source in self.data.sources]
        tissues = sorted({source.tissue for source in self.data.sources})
        if len(set(names)) != len(names):
            raise ValueError(f"two data.sources share a name: {', '.join(names)}")
        if len(set(self.codes)) != len(self.codes):
            raise ValueError("two classes share a code")
        if self.card.tissue not in tissues:
            raise ValueError(f"card.tissue {self.card.tissue!r} is no source's; they show {', '.join(tissues)}")
        if "neighbours" in self.evaluation.model_fields_set:  # the default names stages that another list may lack
            self._know("evaluation.neighbours", (code for chain in self.evaluation.neighbours for code in chain))
        self._know("data.training_shares", self.data.training_shares)
        if (self.augment.mixup_alpha or self.augment.cutmix_alpha) and self.fit.batch_size % 2:
            raise ValueError("fit.batch_size must be even: mixup and cutmix take pictures in pairs")
        sizes = [size for _, size in self.fit.sizes]
        if sizes and (sizes[-1] != self.model.input_size or any(size % SIZE_MULTIPLE for size in sizes)):
            raise ValueError(f"fit.sizes must be multiples of {SIZE_MULTIPLE} and end with model.input_size")
        if any(not SIZE_MULTIPLE <= size <= self.model.input_size for size in sizes):
            raise ValueError("fit.sizes must not exceed model.input_size")
        return self

    def _know(self, key: str, codes: Iterable[str]) -> None:
        for code in codes:
            if code not in self.codes:
                near = difflib.get_close_matches(code, self.codes, n=1, cutoff=0.5) or self.codes
                raise ValueError(f"{key}: no class {code!r}; expected {', '.join(near)}")

    @property
    def codes(self) -> tuple[str, ...]:
        """Class codes in logit order."""
        return tuple(cell_class.code for cell_class in self.classes)


def read_config(path: Path) -> Config:
    """Read a training configuration.

    Raises:
        ConfigError: not readable, not TOML, an unknown key (names the nearest) or a value off.
    """
    return validated(Config, read_toml(path), path)


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file.

    Raises:
        ConfigError: not readable, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(path, f"cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path, f"not TOML: {error}") from error


def validated(kind: type[Table], keys: Mapping[str, Any], path: Path) -> Table:
    """Keys as the table that they should be.

    Args:
        path: of the file that they come from, for the message.

    Raises:
        ConfigError: an unknown key (names the nearest) or a value off.
    """
    try:
        return kind.model_validate(keys)
    except ValidationError as error:
        raise ConfigError(path, "; ".join(_sentence(found, kind) for found in error.errors())) from error


def _sentence(found: Any, kind: type[Strict]) -> str:
    key, known = _key_and_its_neighbours(found["loc"], kind)
    if found["type"] == "union_tag_not_found":
        return f"{key}: {found['ctx']['discriminator']} is missing"
    if found["type"] != "extra_forbidden":
        return f"{key or 'the file'}: {found['msg']}"
    near = difflib.get_close_matches(str(found["loc"][-1]), known, n=1, cutoff=0.5)
    return f"unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}")


def _key_and_its_neighbours(loc: tuple[int | str, ...], kind: type[Strict]) -> tuple[str, list[str]]:
    """A key as it stands in the file, and the keys that are known beside it."""
    level: Any = kind
    parts: list[str] = []
    neighbours: list[str] = []
    for part in loc:
        if isinstance(level, UnionType):  # pydantic names the member by its kind, which is no part of the key
            level = next(one for one in get_args(level) if get_args(one.model_fields["kind"].annotation) == (part,))
            continue
        parts.append(str(part))
        if isinstance(part, str) and part in getattr(level, "model_fields", {}):
            neighbours, level = sorted(level.model_fields), level.model_fields[part].annotation
        elif isinstance(part, str):
            neighbours = sorted(getattr(level, "model_fields", {}))
        else:
            level = get_args(level)[0]
    return ".".join(parts), neighbours
