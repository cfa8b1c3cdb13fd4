"""What a comparison file says: runs that differ from one training configuration in a few keys.

Knows the file, what is changed for each entry and the configuration that comes of it. Trains nothing, opens no picture.

    base = "../best.toml"                     a training configuration, relative to this file
    set.model.input_size = 64                 changed for every entry
    budget.pictures = 20_000                  or budget.epochs, or budget.minutes
    [[entry]]
    name = "resnext50"
    set.model.variant = "resnext50"           changed for this one, any key of a training configuration
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomlkit  # MIT; the standard library reads TOML and does not write it
from pydantic import Field, model_validator

from model.contract import Code
from training.config import Config, ConfigError, ConfigTable, Seed, SourceConfig, read_toml, validate_table

#: In `set`, "run:NAME" stands for the run folder of an entry further up: to learn from it, or to begin with it.
RUN_OF = "run:"
#: Of decoded pictures, among the entries' folders.
CACHE = "cache"

Kind = Literal["network", "boosting", "forest", "logistic"]


class Budget(ConfigTable):
    """How much training every entry gets, in one cosine cycle; by none of the three: what its configuration says."""

    pictures: int | None = Field(None, ge=1, description="training pictures seen, over all epochs")
    epochs: int | None = Field(None, ge=1, description="of each entry")
    minutes: float | None = Field(None, gt=0, description="of training on this machine, by a few steps that are timed")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if len(self.model_fields_set) > 1:
            raise ValueError(f"one of pictures, epochs and minutes, not {' and '.join(sorted(self.model_fields_set))}")
        return self


class SpeedConfig(ConfigTable):
    """How the artefacts are timed, all of them side by side."""

    threads: int = Field(0, ge=0, description="of onnxruntime within an operator; 0: every core at hand")
    batches: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 16), min_length=1, description="batch sizes")
    rounds: int = Field(15, ge=1, description="in each, every artefact is timed once at every batch size")
    round_s: float = Field(0.3, gt=0, description="seconds that one timing takes at least")


class Entry(ConfigTable):
    """One row of the table."""

    name: Code = Field(description="of its folder")
    label: str = Field("", description="in the table and the plot; empty: the name")
    group: str = Field("", description="entries of one group share a colour, or a line")
    kind: Kind = Field(
        "network", description="or a classifier on colour, texture and shape (training/compare/baselines.py)"
    )
    seeds: tuple[Seed, ...] = Field((), description="one run each; empty: those of the comparison")
    set: dict[str, Any] = Field({}, description="keys of a training configuration, changed for this entry")

    @property
    def title(self) -> str:
        """What a person reads."""
        return self.label or self.name

    @property
    def needed(self) -> frozenset[str]:
        """The entries whose runs it begins with or learns from."""
        return frozenset(_named(self.set))


def _named(value: Any) -> Iterator[str]:
    """Every NAME of a "run:NAME", however deep it stands."""
    if isinstance(value, str) and value.startswith(RUN_OF):
        yield value.removeprefix(RUN_OF)
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _named(inner)


class Comparison(ConfigTable):
    """One comparison file."""

    title: str = Field(description="of the table and the plot")
    question: str = Field("", description="what it is to decide")
    base: Path = Field(description="a training configuration, relative to this file")
    set: dict[str, Any] = Field({}, description="keys of a training configuration, changed for every entry")
    budget: Budget = Field(Budget(), description="of training")
    seeds: tuple[Seed, ...] = Field((), description="one run of every entry each; empty: the configuration's own")
    plot: Literal["speed", "difference", "training_pictures"] = Field(
        "speed", description="what accuracy is drawn against; difference: to the first entry, by itself"
    )
    speed: SpeedConfig = Field(SpeedConfig(), description="of the artefacts")
    entry: tuple[Entry, ...] = Field(min_length=1, description="the first is what the others are compared with")

    @model_validator(mode="after")
    def _names_are_folders(self) -> Self:
        names = [entry.name.lower() for entry in self.entry]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two entries share a name: {', '.join(twice)}")
        if CACHE in names:
            raise ValueError(f"no entry can be called {CACHE}: pictures are kept in the folder of this name")
        for seeds in (self.seeds, *(entry.seeds for entry in self.entry)):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"a seed stands twice in {list(seeds)}: both would be one run")
        return self


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One training: an entry with one seed, and its configuration as far as the file decides it."""

    entry: Entry
    seed: int
    folder: Path
    keys: Mapping[str, Any]  # of the configuration, as TOML has them
    config: Config

    @property
    def name(self) -> str:
        """As the folder is named."""
        return f"{self.entry.name}/{self.folder.name}"

    @property
    def config_path(self) -> Path:
        """Where the configuration is written."""
        return self.folder.with_suffix(".toml")

    @property
    def artefact(self) -> Path:
        """Where the export lies; there once it is whole."""
        return self.folder / "artefact"

    @property
    def failure(self) -> Path:
        """What went wrong in the last attempt."""
        return self.folder.with_suffix(".failed")

    def trained_for(self, epochs: int) -> "PlannedRun":
        """The same in one cosine cycle of so many epochs.

        Raises:
            ConfigError: another key does not fit that many.
        """
        keys = merged(self.keys, {"fit": {"epochs": epochs, "restarts": []}})
        return PlannedRun(self.entry, self.seed, self.folder, keys, validate_table(Config, keys, self.folder))

    def as_toml(self) -> str:
        """The configuration, as `marrowlens-train fit` reads it."""
        return tomlkit.dumps(self.keys)


def read_comparison(path: Path) -> Comparison:
    """Read a comparison file.

    Raises:
        ConfigError: not readable, not TOML, an unknown key (names the nearest) or a value off.
    """
    return validate_table(Comparison, read_toml(path), path)


def planned_runs(comparison: Comparison, path: Path, out: Path) -> list[PlannedRun]:
    """Every run of a comparison, in the order of its file; the folders are `out/<entry>/seed-<seed>`.

    Args:
        path: of the comparison file; `base` is relative to it.

    Raises:
        ConfigError: the base, or what an entry makes of it, cannot be used, or an entry would be tested on other
            pictures than the first; names the entry.
    """
    base = merged(read_toml(path.parent / comparison.base), comparison.set)
    runs: list[PlannedRun] = []
    for entry in comparison.entry:
        folders = {run.entry.name: run.folder for run in reversed(runs)}  # of several seeds: the first
        keys = merged(base, _with_folders(entry.set, folders, path, entry.name))
        for seed in entry.seeds or comparison.seeds or (keys.get("seed", 0),):
            own = merged(keys, {"name": entry.name, "seed": seed})
            config = _config(path, entry, own)
            _check_split(config, runs[0].config if runs else config, path, entry)
            runs.append(PlannedRun(entry, seed, out / entry.name / f"seed-{seed}", own, config))
    return runs


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables joined key by key, the second deciding; anything else, lists and empty tables too, is replaced whole."""
    result = copy.deepcopy(dict(under))
    for key, value in over.items():
        below = result.get(key)
        if value and isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = merged(below, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _check_split(config: Config, first: Config, path: Path, entry: Entry) -> None:
    """Entries may differ in what they learn from, not in what they are tested on.

    One may know fewer sources, but of a tissue all or none: the figures are told by tissue. And all of the tissue that
    the models are meant for, whose figures decide.
    """
    theirs = {source.name: _found(source) for source in first.data.sources}
    ours = {source.name: _found(source) for source in config.data.sources}
    same = {
        "classes": config.classes == first.classes,
        "data.split": config.data.split == first.data.split,
        "data.twins": config.data.twins == first.data.twins,
        "data.sample": _drawn_before_the_split(config) == _drawn_before_the_split(first),
        "data.sources": all(theirs.get(name) == found for name, found in ours.items()) and _tested_alike(config, first),
    }
    for key, equal in same.items():
        if not equal:
            raise ConfigError(path, f"entry {entry.name}: {key} is not the first entry's; both need one test block")


def _tested_alike(config: Config, first: Config) -> bool:
    """Whether the sources of each tissue are the first's, or none; of the tissue that decides, the first's."""
    ours, theirs = ({source.name: source.tissue for source in one.data.sources} for one in (config, first))
    known = {theirs[name] for name in ours} | {first.card.tissue}
    return all(name in ours for name, tissue in theirs.items() if tissue in known)


def _found(source: SourceConfig) -> dict[str, Any]:
    return source.model_dump(exclude={"weight", "crop", "tissue", "licence", "attribution"})


def _drawn_before_the_split(config: Config) -> tuple[float, int]:
    data = config.data
    return (data.sample, data.sample_seed) if data.sample < 1 and data.sample_of == "all" else (1.0, 0)


def _with_folders(value: Any, folders: Mapping[str, Path], path: Path, entry: str) -> Any:
    """`value` with every "run:NAME" replaced by that entry's run folder."""
    if isinstance(value, Mapping):
        return {key: _with_folders(inner, folders, path, entry) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_folders(inner, folders, path, entry) for inner in value]
    if not (isinstance(value, str) and value.startswith(RUN_OF)):
        return value
    name = value.removeprefix(RUN_OF)
    if name not in folders:
        raise ConfigError(path, f"entry {entry}: {value!r} names no entry further up; there {_are(list(folders))}")
    return str(folders[name])


def _are(names: list[str]) -> str:
    return f"are {', '.join(names)}" if names else "is none"


def _config(path: Path, entry: Entry, keys: Mapping[str, Any]) -> Config:
    try:
        return validate_table(Config, keys, path)
    except ConfigError as error:
        raise ConfigError(path, f"entry {entry.name}: {error.reason}") from error
