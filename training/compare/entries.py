"""The comparison file: entries that each change some keys of one training configuration.

base = "../best.toml"                     a training configuration, relative to this file
set.model.input_size = 64                 changed for every entry
budget.pictures = 20_000                  or budget.epochs, or budget.minutes
[[entry]]
name = "resnext50"
set.model.variant = "resnext50"           changed for this entry; any key of a training configuration
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomlkit  # the standard library cannot write TOML
from pydantic import Field, model_validator

from model.fields import Code
from training.config import Config, ConfigError, read_toml, validate_table
from training.data_config import SourceConfig
from training.run import MeasuredBlock
from training.split_config import ConfigTable, Seed

#: In `set`, "run:NAME" is the run folder of an earlier entry: a teacher, or initial weights.
RUN_PREFIX = "run:"
#: Folder of decoded pictures, beside the entries' folders.
CACHE = "cache"

Kind = Literal["network", "boosting", "forest", "logistic"]


class Budget(ConfigTable):
    """Training budget of every entry, in one cosine cycle. Without one of the three keys, its configuration decides."""

    pictures: int | None = Field(None, ge=1, description="training pictures seen by each entry, over all epochs")
    epochs: int | None = Field(None, ge=1, description="epochs of each entry")
    minutes: float | None = Field(
        None, gt=0, description="minutes of training on this machine, estimated from a few timed steps"
    )

    @model_validator(mode="after")
    def _check_at_most_one(self) -> Self:
        if len(self.model_fields_set) > 1:
            given = " and ".join(sorted(self.model_fields_set))
            raise ValueError(f"use one of pictures, epochs and minutes, not {given}")
        return self


class SpeedConfig(ConfigTable):
    """Timing of the artefacts, side by side."""

    threads: int = Field(0, ge=0, description="threads of onnxruntime within an operator; 0: all cores")
    batches: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 16), min_length=1, description="batch sizes")
    rounds: int = Field(15, ge=1, description="rounds; each times every artefact once at every batch size")
    round_s: float = Field(0.3, gt=0, description="minimum duration of one timing, in seconds")


class Entry(ConfigTable):
    """One entry: a row of the table."""

    name: Code = Field(description="name of the entry and of its folder")
    label: str = Field("", description="label in the table and the plot; empty: the name")
    group: str = Field("", description="group; its entries share a colour, or a line")
    kind: Kind = Field(
        "network",
        description="network, or a classifier on colour, texture and shape (training/compare/baselines.py)",
    )
    seeds: tuple[Seed, ...] = Field((), description="seeds, one run each; empty: those of the comparison")
    set: dict[str, Any] = Field({}, description="keys of the training configuration, changed for this entry")

    @property
    def title(self) -> str:
        """The label, or the name."""
        return self.label or self.name

    @property
    def required(self) -> frozenset[str]:
        """Names of the entries that it uses as teachers or initial weights."""
        return frozenset(_run_references(self.set))


def _run_references(value: Any) -> Iterator[str]:
    """The NAME of every "run:NAME" in nested tables and lists."""
    if isinstance(value, str) and value.startswith(RUN_PREFIX):
        yield value.removeprefix(RUN_PREFIX)
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _run_references(inner)


class Comparison(ConfigTable):
    """A comparison file."""

    title: str = Field(description="title of the table and the plot")
    question: str = Field("", description="question that the comparison answers")
    base: Path = Field(description="a training configuration, relative to this file")
    set: dict[str, Any] = Field({}, description="keys of the training configuration, changed for every entry")
    budget: Budget = Field(Budget(), description="training budget")
    block: MeasuredBlock = Field(
        "calibration",
        description="block that the entries are measured on; test: only to report a choice made without it",
    )
    seeds: tuple[Seed, ...] = Field(
        (), description="seeds, one run of every entry each; empty: the seed of the configuration"
    )
    plot: Literal["speed", "difference", "training_pictures"] = Field(
        "speed", description="accuracy against this; difference: accuracy minus that of the first entry"
    )
    speed: SpeedConfig = Field(SpeedConfig(), description="timing of the artefacts")
    entry: tuple[Entry, ...] = Field(min_length=1, description="entries; the others are compared with the first")

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [entry.name.lower() for entry in self.entry]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two entries share a name: {', '.join(twice)}")
        if CACHE in names:
            raise ValueError(f"no entry can be called {CACHE}: its folder holds decoded pictures; rename it")
        for seeds in (self.seeds, *(entry.seeds for entry in self.entry)):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"duplicate seed in {list(seeds)}: each seed is one run")
        return self


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run: an entry with one seed and its configuration, before the budget is applied."""

    entry: Entry
    seed: int
    folder: Path
    keys: Mapping[str, Any]  # of the configuration, as in TOML
    config: Config

    @property
    def name(self) -> str:
        """ENTRY/seed-SEED."""
        return f"{self.entry.name}/{self.folder.name}"

    @property
    def config_path(self) -> Path:
        """Path of its configuration."""
        return self.folder.with_suffix(".toml")

    @property
    def artefact(self) -> Path:
        """Folder of its export, renamed to this when complete."""
        return self.folder / "artefact"

    @property
    def failure(self) -> Path:
        """Path of the error of the last attempt."""
        return self.folder.with_suffix(".failed")

    @property
    def done(self) -> bool:
        """Whether the run is trained, evaluated and exported."""
        return self.artefact.is_dir()

    def with_epochs(self, epochs: int) -> "PlannedRun":
        """The run with one cosine cycle of this many epochs.

        Raises:
            ConfigError: another key contradicts the number of epochs.
        """
        keys = merged(self.keys, {"fit": {"epochs": epochs, "restarts": []}})
        return PlannedRun(self.entry, self.seed, self.folder, keys, validate_table(Config, keys, self.folder))

    def as_toml(self) -> str:
        """The configuration as TOML."""
        return tomlkit.dumps(self.keys)


def read_comparison(path: Path) -> Comparison:
    """Read a comparison file.

    Raises:
        ConfigError: not readable, not TOML, an unknown key (suggests the nearest) or an invalid value.
    """
    return validate_table(Comparison, read_toml(path), path)


def plan_runs(comparison: Comparison, path: Path, out: Path) -> list[PlannedRun]:
    """All runs of a comparison in file order, with folders `out/<entry>/seed-<seed>`.

    Args:
        path: comparison file; `base` is relative to it.

    Raises:
        ConfigError: the base or the configuration of an entry is invalid, or an entry would be tested on other
            pictures than the first entry; names the entry.
    """
    base = merged(read_toml(path.parent / comparison.base), comparison.set)
    runs: list[PlannedRun] = []
    for entry in comparison.entry:
        folders = {run.entry.name: run.folder for run in reversed(runs)}  # first seed of each entry
        keys = merged(base, _resolve_runs(entry.set, folders, path, entry.name))
        for seed in entry.seeds or comparison.seeds or (keys.get("seed", 0),):
            own = merged(keys, {"name": entry.name, "seed": seed})
            config = _config(path, entry, own)
            _check_split(config, runs[0].config if runs else config, path, entry)
            runs.append(PlannedRun(entry, seed, out / entry.name / f"seed-{seed}", own, config))
    return runs


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables merged key by key; `over` wins. Other values, lists and empty tables are replaced."""
    result = copy.deepcopy(dict(under))
    for key, value in over.items():
        below = result.get(key)
        if value and isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = merged(below, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _check_split(config: Config, first: Config, path: Path, entry: Entry) -> None:
    """Raise ConfigError if an entry would be tested on other pictures than the first entry.

    An entry may leave out sources, but only all sources of a tissue, since metrics are reported by tissue. It must keep
    all sources of the intended tissue.
    """
    theirs = {source.name: _test_set(source) for source in first.data.sources}
    ours = {source.name: _test_set(source) for source in config.data.sources}
    same = {
        "classes": config.classes == first.classes,
        "data.split": config.data.split == first.data.split,
        "data.twins": config.data.twins == first.data.twins,
        "data.overlaps": config.data.overlaps == first.data.overlaps,
        "data.held_out": config.data.held_out == first.data.held_out,
        "data.sample": _sample_before_split(config) == _sample_before_split(first),
        "data.sources": all(theirs.get(name) == source for name, source in ours.items())
        and _same_tissues(config, first),
    }
    for key, equal in same.items():
        if not equal:
            reason = f"{key} differs from the first entry; all entries need the same test block"
            raise ConfigError(path, f"entry {entry.name}: {reason}")


def _same_tissues(config: Config, first: Config) -> bool:
    """Whether it has all or none of the first entry's sources of each tissue, and all of the intended tissue."""
    ours, theirs = ({source.name: source.tissue for source in one.data.sources} for one in (config, first))
    known = {theirs[name] for name in ours} | {first.card.tissue}
    return all(name in ours for name, tissue in theirs.items() if tissue in known)


def _test_set(source: SourceConfig) -> dict[str, Any]:
    return source.model_dump(exclude={"weight", "crop", "tissue", "licence", "attribution"})


def _sample_before_split(config: Config) -> tuple[float, int]:
    data = config.data
    return (data.sample, data.sample_seed) if data.sample < 1 and data.sample_of == "all" else (1.0, 0)


def _resolve_runs(value: Any, folders: Mapping[str, Path], path: Path, entry: str) -> Any:
    """`value` with every "run:NAME" replaced by the run folder of that entry."""
    if isinstance(value, Mapping):
        return {key: _resolve_runs(inner, folders, path, entry) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolve_runs(inner, folders, path, entry) for inner in value]
    if not (isinstance(value, str) and value.startswith(RUN_PREFIX)):
        return value
    name = value.removeprefix(RUN_PREFIX)
    if name not in folders:
        earlier = ", ".join(folders) or "none"
        raise ConfigError(path, f"entry {entry}: {value!r} is no earlier entry; earlier entries: {earlier}")
    return str(folders[name])


def _config(path: Path, entry: Entry, keys: Mapping[str, Any]) -> Config:
    try:
        return validate_table(Config, keys, path)
    except ConfigError as error:
        raise ConfigError(path, f"entry {entry.name}: {error.reason}") from error
