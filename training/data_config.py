"""What a run is told of its data: where each source lies and in which layout, how it is split, what becomes of twins.

Knows keys, shares and defaults. Reads no folder.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Strict(BaseModel):
    """A table of the configuration: an unknown key is an error, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(Strict):
    """Column names of a list, or keys of the JSON in a shard. Left empty, the usual names are looked for."""

    file: str = Field("", description="column of the file's name")
    code: str = Field("", description="column of the class")
    patient: str = Field("", description="column of the patient")


class SourceConfig(Strict):
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


class Shares(Strict):
    """Shares of the pictures in each block."""

    train: float = Field(0.8, gt=0, description="share that is learned from")
    calibration: float = Field(0.075, gt=0, description="share that fits the temperature, and ends what watches a loss")
    test: float = Field(0.125, gt=0, description="share that the figures are measured on")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(self.train + self.calibration + self.test - 1.0) > 1e-9:
            raise ValueError("train + calibration + test must be 1")
        return self


class Blocks(Shares):
    """Contiguous blocks of each class in file-name order: neighbours may be one patient."""

    kind: Literal["blocks"] = Field("blocks", description="of split")


class RandomSplit(Shares):
    """Drawn at random in each class of each source."""

    kind: Literal["random"] = Field(description="of split")
    seed: Seed = Field(0, description="of the draw")


class GroupedSplit(Shares):
    """Drawn at random by patient: none stands on two sides."""

    kind: Literal["grouped"] = Field(description="of split")
    seed: Seed = Field(0, description="of the draw")


class KFold(Strict):
    """One of k folds is tested, stratified by class and source; over all k runs each picture is tested once."""

    kind: Literal["kfold"] = Field(description="of split")
    k: int = Field(5, ge=2, description="folds")
    fold: int = Field(0, ge=0, description="which of them is tested, 0 to k - 1")
    calibration: Share = Field(0.1, description="share of what is not tested")
    by_patient: bool = Field(False, description="no patient in two folds, nor in training and calibration")
    seed: Seed = Field(0, description="of the draw")

    @model_validator(mode="after")
    def _one_of_k(self) -> Self:
        if self.fold >= self.k:
            raise ValueError(f"fold counts from 0: {self.k} folds end at {self.k - 1}")
        return self


class ListedSplit(Strict):
    """A list names the test pictures by their file names; calibration is drawn at random from the rest."""

    kind: Literal["list"] = Field(description="of split")
    path: Path = Field(description="CSV or Parquet, relative to --data")
    columns: Columns = Field(Columns(), description="of the list")
    sources: tuple[str, ...] = Field((), description="that the list speaks of; empty: all")
    calibration: Share = Field(0.1, description="share of what is not tested")
    min_matched: float = Field(0.99, gt=0, le=1, description="share of the list's rows that must be found")
    seed: Seed = Field(0, description="of the draw")


SplitConfig = Annotated[Blocks | RandomSplit | GroupedSplit | KFold | ListedSplit, Field(discriminator="kind")]


class TwinsConfig(Strict):
    """Near duplicates: pictures whose perceptual hashes of 255 bits differ in few (training/data/near_duplicates.py)."""

    action: Literal["move", "list", "off"] = Field(
        "move", description="keep twins on one side; only list them; or do not look for them"
    )
    max_distance: int = Field(24, ge=0, le=48, description="bits of 255 in which twins differ at most")


class DataConfig(Strict):
    """Where the pictures are and how they are kept apart."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1, description="one table each: [[data.sources]]")
    sample: float = Field(1.0, gt=0, le=1, description="share of each class that is used at all, drawn at random")
    sample_of: Literal["all", "training"] = Field(
        "all", description="draw before the split, or from the training block alone, for a learning curve"
    )
    sample_seed: Seed = Field(0, description="of that draw")
    training_shares: dict[str, Share] = Field(
        {}, description="class → share of its training pictures that is used: a training block made unequal on purpose"
    )
    twins: TwinsConfig = Field(TwinsConfig(), description="what becomes of near duplicates")
    split: SplitConfig = Field(Blocks(), description="how training, calibration and test are kept apart")
