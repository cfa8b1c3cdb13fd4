"""The `[data.split]` table of a training configuration, and types that several tables share."""

from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _plain_kinds(annotation: Any) -> set[Any]:
    """The kinds of value of a field: those of its alternatives, and of the members of a list."""
    if get_origin(annotation) in (Annotated, UnionType, Union, tuple):
        parts = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
        return {kind for part in parts if part is not Ellipsis for kind in _plain_kinds(part)}
    return {annotation}


class ConfigTable(BaseModel):
    """A table of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_not_text(cls, keys: Any) -> Any:
        """Refuse "3" and true where a number belongs, and "true" where true belongs; pydantic would convert them."""
        if not isinstance(keys, Mapping):
            return keys
        for name in cls.model_fields.keys() & keys.keys():
            kinds, value = _plain_kinds(cls.model_fields[name].annotation), keys[name]
            for one in value if isinstance(value, list | tuple) else [value]:
                _check_no_text(name, one, kinds)
        return keys


def _check_no_text(name: str, value: Any, kinds: set[Any]) -> None:
    if isinstance(value, str) and kinds <= {int, float, bool, NoneType}:
        what = "true or false" if bool in kinds else "a number"
        raise ValueError(f"{name} = {value!r} is text; write {what} without quotes")
    if isinstance(value, bool) and kinds <= {int, float, NoneType}:
        raise ValueError(f"{name} = {str(value).lower()} is no number")


class Columns(ConfigTable):
    """Column names of a list, or keys of the JSON files in a shard; empty: common names are recognised."""

    file: str = Field("", description="column of the file name")
    code: str = Field("", description="column of the class")
    patient: str = Field("", description="column of the patient")
    group: str = Field("", description="column of the slide or field that a picture was cut from")


Clusters = Annotated[int, Field(ge=2)]
_BY = (
    "pictures that stay together: of a patient, of a slide or field (group), or of like background and stain "
    "(appearance: a proxy for slides)"
)
_CLUSTERS = "clusters of appearance in each source"


class BlockShares(ConfigTable):
    """Shares of the pictures in each block."""

    train: float = Field(0.8, gt=0, description="share to train on")
    calibration: float = Field(0.075, gt=0, description="share for temperature, plateau schedule and early stopping")
    test: float = Field(0.125, gt=0, description="share to measure on")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(self.train + self.calibration + self.test - 1.0) > 1e-9:
            raise ValueError("train + calibration + test must add up to 1")
        return self


class BlockSplit(BlockShares):
    """Contiguous blocks of each class in file-name order.

    They separate patients only if file names follow patients (`marrowlens-train file-order` tests it). The names of
    Matek 2021 do not: there, contiguous blocks are a random split in effect.
    """

    kind: Literal["blocks"] = Field("blocks", description="kind of split")


class RandomSplit(BlockShares):
    """Random split of each class of each source."""

    kind: Literal["random"] = Field(description="kind of split")
    seed: Seed = Field(0, description="seed of the random split")


class GroupedSplit(BlockShares):
    """Random split by patient, by slide or field, or by appearance: no group is in two blocks."""

    kind: Literal["grouped"] = Field(description="kind of split")
    by: Literal["patient", "group", "appearance"] = Field("patient", description=_BY)
    clusters: Clusters = Field(40, description=_CLUSTERS)
    seed: Seed = Field(0, description="seed of the random split")


class KFoldSplit(ConfigTable):
    """K-fold cross-validation, stratified by class and source: one fold is tested, over k runs every picture once."""

    kind: Literal["kfold"] = Field(description="kind of split")
    k: int = Field(5, ge=2, description="number of folds")
    fold: int = Field(0, ge=0, description="fold to test, 0 to k - 1")
    calibration: Fraction = Field(0.1, description="calibration share of the rest")
    by: Literal["picture", "patient", "group", "appearance"] = Field("picture", description=_BY)
    clusters: Clusters = Field(40, description=_CLUSTERS)
    seed: Seed = Field(0, description="seed of the random split")

    @model_validator(mode="before")
    @classmethod
    def _read_by_patient(cls, keys: Any) -> Any:
        """Read `by_patient`, which runs of earlier versions have, as `by`."""
        if not isinstance(keys, Mapping) or "by_patient" not in keys:
            return keys
        others = {key: value for key, value in keys.items() if key != "by_patient"}
        return {"by": "patient" if keys["by_patient"] else "picture"} | others

    @model_validator(mode="after")
    def _one_of_k(self) -> Self:
        if self.fold >= self.k:
            raise ValueError(f"fold must be at most k - 1 = {self.k - 1}; folds are numbered from 0")
        return self


class ListedSplit(ConfigTable):
    """Predefined split: a list names the test pictures by file name; calibration is drawn at random from the rest."""

    kind: Literal["list"] = Field(description="kind of split")
    path: Path = Field(description="CSV or Parquet file, relative to --data")
    columns: Columns = Field(Columns(), description="column names of the list")
    sources: tuple[str, ...] = Field((), description="sources that the list covers; empty: all")
    calibration: Fraction = Field(0.1, description="calibration share of the rest")
    min_matched: float = Field(0.99, gt=0, le=1, description="share of the list's rows that must match a picture")
    seed: Seed = Field(0, description="seed of the random split")


SplitConfig = Annotated[BlockSplit | RandomSplit | GroupedSplit | KFoldSplit | ListedSplit, Field(discriminator="kind")]
