"""What a training run is told: one TOML file, read once, typed, frozen.

Knows keys, units and defaults. Knows no torch and opens no picture.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from model.contract import CLASSES, SIZE_MULTIPLE, CellClass, Code, Countable, Lineage

Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class ConfigTable(BaseModel):
    """A table of the configuration: an unknown key is an error, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(ConfigTable):
    """Column names of a list, or keys of the JSON in a shard. Left empty, the usual names are looked for."""

    file: str = Field("", description="column of the file's name")
    code: str = Field("", description="column of the class")
    patient: str = Field("", description="column of the patient")


class SourceConfig(ConfigTable):
    """One set of pictures from one place, in one of three layouts: `folder`, `list` or `shards`."""

    name: str = Field(description="as the split list, the figures and the card call it")
    folder: Path | None = Field(None, description="of class folders, relative to --data; with `list`, of its files")
    list: Path | None = Field(None, description="CSV or Parquet, one row a picture, relative to --data")
    shards: str = Field("", description="glob of tar files, relative to --data")
    columns: Columns = Field(Columns(), description="of the list or of the shards' JSON")
    classes: dict[str, str] = Field({}, description="name of a class in the data → code in the class list")
    leave_out: tuple[str, ...] = Field((), description="classes of the data that are not learned")
    patient_pattern: str = Field("", description="regular expression on a file's name; its one group is the patient")
    tissue: str = Field("bone marrow", description="that its pictures show")
    licence: str = Field(description="of the pictures")
    attribution: str = Field(description="whom the licence asks to name")
    crop: float = Field(1.0, gt=0, le=1, description="share of the side kept around the centre, to align cell sizes")
    weight: float = Field(1.0, gt=0, description="draws of each training picture an epoch")

    @model_validator(mode="after")
    def _one_layout(self) -> Self:
        if self.shards and (self.list or self.folder) or not (self.shards or self.list or self.folder):
            raise ValueError("a source is one of folder (class folders), list (with or without folder) and shards")
        both = set(self.classes) & set(self.leave_out)
        if both:
            raise ValueError(f"both in classes and in leave_out: {', '.join(sorted(both))}")
        return self

    @model_validator(mode="after")
    def _patient_is_one_group(self) -> Self:
        try:
            groups = re.compile(self.patient_pattern).groups
        except re.error as error:
            raise ValueError(f"patient_pattern is no regular expression: {error}") from error
        if self.patient_pattern and groups != 1:
            raise ValueError(f"patient_pattern has {groups} groups; the patient is what its one group (...) matches")
        return self


class BlockShares(ConfigTable):
    """Shares of the pictures in each block."""

    train: float = Field(0.8, gt=0, description="share that is learned from")
    calibration: float = Field(0.075, gt=0, description="share that fits the temperature, and ends what watches a loss")
    test: float = Field(0.125, gt=0, description="share that the figures are measured on")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(self.train + self.calibration + self.test - 1.0) > 1e-9:
            raise ValueError("train + calibration + test must be 1")
        return self


class BlockSplit(BlockShares):
    """Contiguous blocks of each class in file-name order: neighbours may be one patient."""

    kind: Literal["blocks"] = Field("blocks", description="of split")


class RandomSplit(BlockShares):
    """Drawn at random in each class of each source."""

    kind: Literal["random"] = Field(description="of split")
    seed: Seed = Field(0, description="of the draw")


class GroupedSplit(BlockShares):
    """Drawn at random by patient: none stands on two sides."""

    kind: Literal["grouped"] = Field(description="of split")
    seed: Seed = Field(0, description="of the draw")


class KFoldSplit(ConfigTable):
    """One of k folds is tested, stratified by class and source; over all k runs each picture is tested once."""

    kind: Literal["kfold"] = Field(description="of split")
    k: int = Field(5, ge=2, description="folds")
    fold: int = Field(0, ge=0, description="which of them is tested, 0 to k - 1")
    calibration: Fraction = Field(0.1, description="share of what is not tested")
    by_patient: bool = Field(False, description="no patient in two folds, nor in training and calibration")
    seed: Seed = Field(0, description="of the draw")

    @model_validator(mode="after")
    def _one_of_k(self) -> Self:
        if self.fold >= self.k:
            raise ValueError(f"fold counts from 0: {self.k} folds end at {self.k - 1}")
        return self


class ListedSplit(ConfigTable):
    """A list names the test pictures by their file names; calibration is drawn at random from the rest."""

    kind: Literal["list"] = Field(description="of split")
    path: Path = Field(description="CSV or Parquet, relative to --data")
    columns: Columns = Field(Columns(), description="of the list")
    sources: tuple[str, ...] = Field((), description="that the list speaks of; empty: all")
    calibration: Fraction = Field(0.1, description="share of what is not tested")
    min_matched: float = Field(0.99, gt=0, le=1, description="share of the list's rows that must be found")
    seed: Seed = Field(0, description="of the draw")


SplitConfig = Annotated[BlockSplit | RandomSplit | GroupedSplit | KFoldSplit | ListedSplit, Field(discriminator="kind")]


class NearDuplicatesConfig(ConfigTable):
    """Near duplicates: pictures whose perceptual hashes of 255 bits differ in few
    (training/data/near_duplicates.py)."""

    action: Literal["move", "list", "off"] = Field(
        "move", description="keep twins on one side; only list them; or do not look for them"
    )
    max_distance: int = Field(24, ge=0, le=48, description="bits of 255 in which twins differ at most")


class DataConfig(ConfigTable):
    """Where the pictures are and how they are kept apart."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1, description="one table each: [[data.sources]]")
    sample: float = Field(1.0, gt=0, le=1, description="share of each class that is used at all, drawn at random")
    sample_of: Literal["all", "training"] = Field(
        "all", description="draw before the split, or from the training block alone, for a learning curve"
    )
    sample_seed: Seed = Field(0, description="of that draw")
    training_shares: dict[str, Fraction] = Field(
        {}, description="class → share of its training pictures that is used: a training block made unequal on purpose"
    )
    twins: NearDuplicatesConfig = Field(NearDuplicatesConfig(), description="what becomes of near duplicates")
    split: SplitConfig = Field(BlockSplit(), description="how training, calibration and test are kept apart")


Scale = Literal["3-5-1", "5-7-1", "7-9-1"]
Stem = Literal["mcnn", "overlap"]
ChannelAttention = Literal["none", "se", "eca", "epsa", "cbam", "gc", "fca"]
#: One number a stage; none: the variant's.
Stages = tuple[Annotated[int, Field(ge=1)], ...]
STAGES = 4


class ModelConfig(ConfigTable):
    """The network and what it is fed.

    `stem` to `embed_dims` change one thing each about the named variant, for an ablation; unset, the variant's own.
    """

    variant: str = Field("tiny", description="name of the network; an unknown one is answered with the nearest")
    stem: Stem | None = Field(None, description="mcnn: parallel 3x3, 5x5, 7x7; overlap: VAN's 7x7 of stride 4")
    fusion: bool | None = Field(None, description="multi-scale cross attention; false: the head reads the last stage")
    scales: tuple[tuple[Scale, ...], ...] = Field(
        (), description="kernels of the gate by stage: several, MLKA, an equal share of channels each; one, LKA"
    )
    channel_attention: ChannelAttention = Field("none", description="in every block, on what its ConvFFN adds")
    depths: Stages = Field((), description="blocks by stage")
    mlp_ratios: Stages = Field((), description="width of the ConvFFN by stage, in widths of the stage")
    embed_dims: Stages = Field((), description="widths by stage; multiples of 48 where MLKA shall be fast")
    input_size: int = Field(
        96,
        ge=SIZE_MULTIPLE,
        le=1024,
        multiple_of=SIZE_MULTIPLE,
        description="side of the square that it is fed, in pixels",
    )
    drop_path: float = Field(0.1, ge=0, lt=1, description="rate of stochastic depth at the last block")
    init: str = Field("", description="weights to begin with: imagenet, a run folder, .safetensors, .onnx, .pth")
    mean: tuple[float, float, float] = Field(
        (0.485, 0.456, 0.406), description="taken from each channel of a pixel in 0..1; as the weights of init want it"
    )
    std: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="that it is divided by then")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        for key in ("scales", "depths", "mlp_ratios", "embed_dims"):
            given = len(getattr(self, key))
            if given not in (0, STAGES):
                raise ValueError(f"{key} has {given} entries; the network has {STAGES} stages")
        for stage, scales in enumerate(self.scales, start=1):
            if not scales or len(set(scales)) < len(scales):
                raise ValueError(f"scales of stage {stage} must name one kernel or several different ones")
        return self


Table = TypeVar("Table", bound=ConfigTable)

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


class AugmentConfig(ConfigTable):
    """How far a training picture may be bent. All are drawn anew for each picture and epoch; 0 turns one off."""

    rotation_degrees: float = Field(180.0, ge=0, le=180, description="at most, either way")
    shift: float = Field(0.08, ge=0, le=0.5, description="share of the side")
    zoom: float = Field(0.15, ge=0, lt=1, description="scale between 1 - zoom and 1 + zoom")
    flip: bool = Field(True, description="mirror half of the pictures")
    stain: float = Field(0.15, ge=0, lt=1, description="relative change of optical density, a channel")
    mixup_alpha: float = Field(0.0, ge=0, description="0: off (arXiv 1710.09412)")
    cutmix_alpha: float = Field(0.0, ge=0, description="0: off (arXiv 1905.04899)")
    mixed_share: float = Field(0.5, ge=0, le=1, description="of the batches, where mixup or cutmix is on")


class FitConfig(ConfigTable):
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


class DistilConfig(ConfigTable):
    """Learning from the answers of trained networks beside the labels (arXiv 1503.02531; 2106.05237 on how)."""

    teachers: tuple[Path, ...] = Field((), description="run folders; their softened answers are averaged")
    weight: float = Field(0.7, ge=0, le=1, description="of the teachers' answers; the labels have the rest")
    temperature: float = Field(2.0, gt=0, description="that softens both sides")
    features: float = Field(0.0, ge=0, description="of the likeness of embeddings beside the answers; 0: off")


class EvaluationConfig(ConfigTable):
    """Which confusions the tolerant figures forgive."""

    neighbours: tuple[Annotated[tuple[Code, ...], Field(min_length=2)], ...] = Field(
        MATURATION, description="chains of maturation, young to old; direct neighbours are forgiven"
    )


class CardConfig(ConfigTable):
    """What the manifest and the model card say that no measurement can."""

    tissue: str = Field("bone marrow", description="what the model is meant for; other tissue supports no class")
    min_training_images: int = Field(50, ge=1, description="of that tissue; a class with fewer is unsupported")
    intended_use: str = Field(description="what it is for, and what not")
    limits: tuple[str, ...] = Field((), description="what it cannot do, a sentence each")
    licence: str = Field(description="of the weights; no laxer than what they were learned from and begun with")


class Config(ConfigTable):
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
    return validate_table(Config, read_toml(path), path)


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


def validate_table(kind: type[Table], keys: Mapping[str, Any], path: Path) -> Table:
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


def _sentence(found: Any, kind: type[ConfigTable]) -> str:
    key, known = _key_and_its_neighbours(found["loc"], kind)
    if found["type"] == "union_tag_not_found":
        return f"{key}: {found['ctx']['discriminator']} is missing"
    if found["type"] != "extra_forbidden":
        return f"{key or 'the file'}: {found['msg']}"
    near = difflib.get_close_matches(str(found["loc"][-1]), known, n=1, cutoff=0.5)
    return f"unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}")


def _key_and_its_neighbours(loc: tuple[int | str, ...], kind: type[ConfigTable]) -> tuple[str, list[str]]:
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
