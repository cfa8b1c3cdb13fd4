"""The commands `size` (estimate a training), `profile` (time of a graph by node) and `feed` (DataLoader timing)."""

import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from model.report.page import Table
from training import pipeline
from training.commands.configuration import SetKeys, read_with_overrides
from training.compare.speed import processor
from training.config import Config, LoggingConfig
from training.distil_config import DistilConfig
from training.run import RunFolder, TrainingStopped
from training.terminal import console, print_line, print_table, report_errors

if TYPE_CHECKING:
    from training.export.cost import NodeTime
    from training.fit.dataloader_timing import DataLoaderTimer
    from training.fit.train import Execution

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Training configuration.")]
Accumulate = Annotated[int, typer.Option(min=1, help="Accumulation steps on each device.")]
#: Steps that `feed` leaves out: the first ones allocate memory and start workers.
WARM_UP_STEPS = 2


def size(
    config_path: ConfigPath,
    pictures: Annotated[int, typer.Option(min=1, help="Training pictures per epoch.")],
    devices: Annotated[int, typer.Option(min=1, help="GPUs that share every batch.")] = 1,
    accumulate: Accumulate = 1,
    tera_operations: Annotated[float, typer.Option(min=0.001, help="Peak of a device, in 10^12 per second.")] = 312,
    utilisation: Annotated[float, typer.Option(min=0.001, max=1, help="Share of the peak that is reached.")] = 0.05,
    keys: SetKeys = None,
) -> None:
    """Estimate parameters, multiply-adds, memory and hours of a training without running it."""
    with report_errors():
        config, _ = read_with_overrides(config_path, keys=keys or ())
        table = size_table(config, pictures, devices, accumulate, tera_operations, utilisation)
    print_table(table)


def size_table(
    config: Config, pictures: int, devices: int, accumulate: int, tera_operations: float, utilisation: float
) -> Table:
    """The table that `size` prints.

    Raises:
        ValueError: the network cannot be built.
    """
    from training.export.cost import training_budget

    budget, fit = training_budget(config, pictures), config.fit
    batch = fit.batch_size // (devices * accumulate)
    hours = budget.hours(devices, tera_operations, utilisation)
    rows = (
        ("parameters", f"{budget.parameters / 1e6:.2f} M"),
        (f"multiply-adds of a forward pass, one picture of {config.model.input_size} px", _large(budget.multiply_adds)),
        (f"activations kept of one picture ({fit.precision})", f"{budget.kept_bytes / 1e6:.1f} MB"),
        (f"memory of a device, {batch} pictures at once", f"{budget.device_bytes(batch) / 1e9:.1f} GB"),
        ("with temporary memory and libraries, about", f"{budget.peak_bytes(batch) / 1e9:.1f} GB"),
        (f"decoded pictures on disk, {pictures}", f"{budget.cache_bytes / 1e9:.1f} GB"),
        (f"operations, {fit.epochs + sum(fit.restarts)} epochs", f"{budget.training_operations:.3g}"),
        (f"hours, {devices} x {tera_operations:g} tera-operations/s at {utilisation:.0%}", f"{hours:.1f}"),
    )
    note = "Calculated: the utilisation is an assumption; teachers, augmentation and decoding are not included."
    return Table(f"{config.name} {config.version}, {config.model.variant}", ("what", "how much"), rows, note)


def _large(count: int) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e8 else f"{count / 1e6:.1f} M"


def profile(
    path: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An artefact.")],
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch size; may be repeated; default: 1 and 16.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs; the shortest time of each node counts.")] = 100,
) -> None:
    """Profile an exported model in onnxruntime on one CPU thread, by operator and by part of the network."""
    with report_errors():
        from training.export.cost import node_times

        with console.status(f"profiling {path}"):
            times = {size: node_times(path, size, runs) for size in batch or [1, 16]}
        for title, key in (("operator", _operator), ("part", _scope)):
            print_table(
                _profile_table(f"{path.name}: 1 thread of {processor()}, least of {runs} runs", title, times, key)
            )


def _operator(node: "NodeTime") -> str:
    return node.operator


def _scope(node: "NodeTime") -> str:
    return node.scope


def _profile_table(
    title: str, heading: str, times: "dict[int, list[NodeTime]]", key: "Callable[[NodeTime], str]"
) -> Table:
    """Nodes, then microseconds per picture and share by batch size; sorted by time at the first batch size."""
    sums = {batch: _sums(nodes, key) for batch, nodes in times.items()}
    first = next(iter(times))
    nodes = Counter(key(node) for node in times[first])
    rows = [
        (name, str(nodes[name]), *(cell for batch in times for cell in _cells(sums[batch], name, batch)))
        for name in sorted(sums[first], key=lambda name: -sums[first][name])
    ]
    total = [cell for batch in times for cell in (f"{sum(sums[batch].values()) / batch:.0f}", "100.0")]
    columns = (cell for batch in times for cell in (f"µs per picture, batch {batch}", "%"))
    return Table(title, (heading, "nodes", *columns), (*rows, ("all", str(nodes.total()), *total)), "")


def _sums(nodes: "Iterable[NodeTime]", key: "Callable[[NodeTime], str]") -> dict[str, float]:
    sums: defaultdict[str, float] = defaultdict(float)
    for node in nodes:
        sums[key(node)] += node.microseconds
    return sums


def _cells(sums: dict[str, float], name: str, batch: int) -> tuple[str, str]:
    spent = sums.get(name, 0.0)
    return f"{spent / batch:.0f}", f"{100 * spent / sum(sums.values()):.1f}"


def feed(
    config_path: ConfigPath,
    data: Annotated[Path, typer.Option("--data", help="Folder that contains the sources' folders.")] = Path("."),
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder of decoded pictures; default: none.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=WARM_UP_STEPS + 1, help="Steps to run.")] = 40,
    accumulate: Accumulate = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes per device that prefetch pictures.")] = 0,
    cold: Annotated[bool, typer.Option("--cold", help="Read from disk, as the first epoch may.")] = False,
    keys: SetKeys = None,
) -> None:
    """Measure how much of a training step is spent waiting for pictures. Keeps nothing.

    Trains in a temporary folder, without pretrained weights and teachers, which only make a step longer.
    """
    with report_errors(), tempfile.TemporaryDirectory() as folder:
        from training.fit.dataloader_timing import DataLoaderTimer
        from training.fit.module import OVERSIZE
        from training.fit.train import Execution

        configured, _ = read_with_overrides(config_path, keys=keys or ())
        run, config = RunFolder(Path(folder) / "run"), _for_timing(configured, steps)
        cache, execution, timer = cache or run.cache, Execution(1, accumulate, workers, steps=steps), DataLoaderTimer()
        split = pipeline.start_run(config, config_path.read_text(encoding="utf-8"), run, data, cache)
        if cold:
            pipeline.decode_block(config, split, "train", round(config.model.input_size * OVERSIZE), cache)
            _drop_page_cache(cache)
        with suppress(TrainingStopped):  # after the steps
            pipeline.train(config, split, run, data, cache, str(config_path), execution, timer)
        print_table(_waiting_table(config, timer, execution, cold))


def find_lr(
    config_path: ConfigPath,
    data: Annotated[Path, typer.Option("--data", help="Folder that contains the sources' folders.")] = Path("."),
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder of decoded pictures; default: none.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=20, help="Steps to run.")] = 100,
    lowest: Annotated[float, typer.Option(min=1e-12, help="Learning rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(min=1e-12, help="Learning rate of the last step.")] = 1.0,
    accumulate: Accumulate = 1,
    keys: SetKeys = None,
) -> None:
    """Find a learning rate: train a few steps with a growing rate and follow the loss. Keeps nothing.

    Pretrained weights and frozen parts are used as configured. The suggestion is the rate at which the loss falls
    fastest before its minimum.
    """
    with report_errors(), tempfile.TemporaryDirectory() as folder:
        from training.fit.lr_finder import LearningRateRange
        from training.fit.module import Diverged
        from training.fit.train import Execution

        config, _ = read_with_overrides(config_path, keys=keys or ())
        finder = LearningRateRange(lowest, highest, steps, config.fit.lr)
        plain = {"epochs": steps, "restarts": (), "sizes": (), "warmup_epochs": 0.0, "ema_decay": 0.0}
        longer = config.fit.model_copy(update=plain | {"early_stopping_patience": 0, "keep": "last"})
        config = config.model_copy(update={"fit": longer, "logging": LoggingConfig()})
        run = RunFolder(Path(folder) / "run")
        split = pipeline.start_run(config, config_path.read_text(encoding="utf-8"), run, data, cache or run.cache)
        with suppress(TrainingStopped, Diverged):  # after the steps; or the test has reached too high a rate
            execution = Execution(accumulate=accumulate, steps=steps)
            pipeline.train(
                config, split, run, data, cache or run.cache, str(config_path), execution, callbacks=[finder]
            )
        found = finder.finding()
    places = np.unique(np.linspace(0, len(found.rates) - 1, 12).round().astype(int))
    rows = tuple((f"{found.rates[at]:.2e}", f"{found.losses[at]:.3f}") for at in places)
    print_table(Table(f"{config.name}: {len(found.rates)} steps", ("learning rate", "loss, smoothed"), rows, ""))
    print_line(f"the loss falls fastest at {found.suggested:.1e}: set fit.lr to it, or up to ten times less")


def _for_timing(config: Config, steps: int) -> Config:
    """Without pretrained weights and teachers, and with an epoch for each step, so that no run ends before."""
    model = config.model.model_copy(update={"init": ""})
    longer = config.fit.model_copy(update={"epochs": max(config.fit.epochs, steps)})
    return config.model_copy(
        update={"model": model, "distil": DistilConfig(), "fit": longer, "logging": LoggingConfig()}
    )


def _drop_page_cache(cache: Path) -> None:
    """Remove the decoded pictures from the operating system's page cache."""
    for rows in cache.glob("*/rows.npy"):
        with rows.open("rb") as file:
            os.fsync(file.fileno())  # only pages on disk can be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _waiting_table(config: Config, timer: "DataLoaderTimer", execution: "Execution", cold: bool) -> Table:
    steps = timer.steps(execution.accumulate)[WARM_UP_STEPS:]
    if not len(steps):
        raise ValueError(f"no step to measure: the first {WARM_UP_STEPS} and the last of each epoch do not count")
    waited_ms, total_ms = 1e3 * steps.T
    rows = (
        ("step, median", f"{np.median(total_ms):.0f} ms"),
        ("waiting for pictures, median", f"{np.median(waited_ms):.1f} ms"),
        ("waiting for pictures, 95th percentile", f"{np.quantile(waited_ms, 0.95):.1f} ms"),
        ("waiting, share of all steps", f"{waited_ms.sum() / total_ms.sum():.2%}"),
        ("waiting, share of a step, 95th percentile", f"{np.quantile(waited_ms / total_ms, 0.95):.2%}"),
    )
    title = f"{config.name}: {len(steps)} steps of {config.fit.batch_size} pictures, {execution.workers} workers"
    note = f"{processor()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the end; "
    return Table(title, ("what", "how much"), rows, note + ("read from disk" if cold else "read from memory"))
