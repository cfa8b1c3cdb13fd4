"""The `[data]` table of a training configuration: sources, near duplicates, overlaps and split."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from training.split_config import BlockSplit, Columns, ConfigTable, Fraction, Seed, SplitConfig


class SourceConfig(ConfigTable):
    """A set of pictures in one of three layouts: `folder`, `list` or `shards`."""

    name: str = Field(description="name in split.csv, figures and model card")
    folder: Path | None = Field(None, description="class folders, or the files of `list`; relative to --data")
    list: Path | None = Field(None, description="CSV or Parquet file with one row per picture, relative to --data")
    shards: str = Field("", description="glob of tar files, relative to --data")
    columns: Columns = Field(Columns(), description="column names of the list, or JSON keys of the shards")
    classes: dict[str, str] = Field({}, description="name of a class in the data → code in the class list")
    leave_out: tuple[str, ...] = Field((), description="classes of the data to ignore")
    patient_pattern: str = Field("", description="regular expression on the file name; its single group is the patient")
    group_pattern: str = Field(
        "", description="regular expression on the file name; its single group is the slide or field of the picture"
    )
    tissue: str = Field("bone marrow", description="tissue that the pictures show")
    licence: str = Field(description="licence of the pictures")
    attribution: str = Field(description="attribution that the licence requires")
    crop: float = Field(1.0, gt=0, le=1, description="share of the side kept around the centre")
    weight: float = Field(1.0, gt=0, description="how often each training picture is sampled per epoch")

    @model_validator(mode="after")
    def _one_layout(self) -> Self:
        if self.shards and (self.list or self.folder) or not (self.shards or self.list or self.folder):
            raise ValueError(
                "a source needs exactly one layout: folder (class folders), list (folder optional) or shards"
            )
        both = set(self.classes) & set(self.leave_out)
        if both:
            raise ValueError(f"in both classes and leave_out: {', '.join(sorted(both))}")
        return self

    @model_validator(mode="after")
    def _patterns_have_one_group(self) -> Self:
        for key, what in (("patient_pattern", "patient"), ("group_pattern", "slide or field")):
            pattern = getattr(self, key)
            try:
                groups = re.compile(pattern).groups
            except re.error as error:
                raise ValueError(f"{key} is not a regular expression: {error}") from error
            if pattern and groups != 1:
                raise ValueError(f"{key} has {groups} groups; expected one group (...) that matches the {what}")
        return self


class NearDuplicatesConfig(ConfigTable):
    """Near duplicates (twins): pictures with perceptual hashes (255 bits) that differ in few bits."""

    action: Literal["move", "list", "off"] = Field(
        "move", description="move: keep near duplicates in one block; list: only list them; off: do not search"
    )
    max_distance: int = Field(24, ge=0, le=48, description="most differing bits (of 255) of near duplicates")


class OverlapsConfig(ConfigTable):
    """Overlaps: crops of one field that show the same cells, shifted against each other."""

    action: Literal["move", "list", "off"] = Field(
        "move", description="move: keep overlapping pictures in one block; list: only list them; off: do not search"
    )
    min_correlation: float = Field(
        0.8, ge=0.5, le=1, description="least correlation of the overlap; different cells reach 0.76"
    )


class DataConfig(ConfigTable):
    """Sources and split of the pictures."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1, description="one table per source: [[data.sources]]")
    sample: float = Field(1.0, gt=0, le=1, description="random share of each class to use")
    sample_of: Literal["all", "training"] = Field(
        "all", description="draw the share before the split, or only from the training block (for a learning curve)"
    )
    sample_seed: Seed = Field(0, description="seed of that draw")
    training_shares: dict[str, Fraction] = Field(
        {}, description="class → share of its training pictures to use, to create an imbalanced training block"
    )
    held_out: Path | None = Field(
        None,
        description="split list (.csv of a run or an artefact), relative to the working directory; its test pictures "
        "are left out, for development",
    )
    outliers: tuple[Path, ...] = Field(
        (),
        description="folders of pictures of no class, relative to --data, for which the network learns to give equal "
        "probabilities: outlier exposure (arXiv 1812.04606); none of trust.outliers",
    )
    twins: NearDuplicatesConfig = Field(NearDuplicatesConfig(), description="handling of near duplicates")
    overlaps: OverlapsConfig = Field(OverlapsConfig(), description="handling of overlapping pictures")
    split: SplitConfig = Field(BlockSplit(), description="division into training, calibration and test")
