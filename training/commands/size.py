"""The command `size`: what a training will take, before a device is asked for.

Knows arguments and messages.
"""

from pathlib import Path
from typing import Annotated

import typer

from training.config import read_config
from training.evaluation.tables import Table
from training.terminal import show, told_plainly


def size(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The run's configuration.")],
    pictures: Annotated[int, typer.Option(min=1, help="Training pictures an epoch.")],
    devices: Annotated[int, typer.Option(min=1, help="GPUs that share every batch.")] = 1,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts in which a device takes its share of a batch.")] = 1,
    tera_operations: Annotated[float, typer.Option(min=0.001, help="A second, at most, of a device.")] = 312,
    utilisation: Annotated[float, typer.Option(min=0.001, max=1, help="Share of them that is reached.")] = 0.05,
) -> None:
    """Size a training on paper: parameters, multiply-adds, memory and hours. Runs nothing."""
    with told_plainly():
        table = sized(config_path, pictures, devices, accumulate, tera_operations, utilisation)
    show(table)


def sized(
    config_path: Path, pictures: int, devices: int, accumulate: int, tera_operations: float, utilisation: float
) -> Table:
    """What `size` shows.

    Raises:
        ConfigError: the configuration cannot be used.
        ValueError: it names no network.
    """
    from training.export.budget import budget

    config = read_config(config_path)
    planned, fit = budget(config, pictures), config.fit
    at_a_time = fit.batch_size // (devices * accumulate)
    hours = planned.hours(devices, tera_operations, utilisation)
    rows = (
        ("parameters", f"{planned.parameters / 1e6:.2f} M"),
        (f"multiply-adds, one picture of {config.model.input_size} px forward", _large(planned.multiply_adds)),
        (f"kept of one picture for the backward pass ({fit.precision})", f"{planned.kept_bytes / 1e6:.1f} MB"),
        (f"memory of a device, {at_a_time} pictures at a time", f"{planned.device_bytes(at_a_time) / 1e9:.1f} GB"),
        (f"decoded pictures on disk, {pictures}", f"{planned.cache_bytes / 1e9:.1f} GB"),
        (f"operations, {fit.epochs + sum(fit.restarts)} epochs", f"{planned.training_operations:.3g}"),
        (f"hours, {devices} x {tera_operations:g} tera-operations/s at {utilisation:.0%}", f"{hours:.1f}"),
    )
    note = "Counted, not run: the utilisation is an assumption; teachers, augmentation and reading are left out."
    return Table(f"{config.name} {config.version}, {config.model.variant}", ("what", "how much"), rows, note)


def _large(count: int) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e8 else f"{count / 1e6:.1f} M"
