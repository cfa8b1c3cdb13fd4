"""`marrowlens doctor`: what this machine offers, which execution providers work on it, and how fast they are.

Knows tables, words and exit codes. The trials are service.runtime.benchmark's.
"""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from model.contract import ArtefactError
from service.config.settings import Settings, SettingsError, read_settings
from service.runtime.benchmark import Trial, try_out
from service.runtime.hardware import Machine, look_around
from service.runtime.loader import opened, session_batch_sizes
from service.runtime.providers import NAMES, Provider, candidates, engines_in
from service.runtime.session import OnnxSession, engine_folder, offered, versions

DOES_NOT_WORK = 1
BAD_SETTINGS = 2

Versions = dict[str, str | None]


def doctor(
    artefact: Annotated[Path | None, typer.Option(help="The .onnx file; its manifest lies beside it.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls at each batch size.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON document.")] = False,
) -> None:
    """Try every execution provider: does it start, does it give the CPU's answers, how fast is it.

    Settings are read as for `serve`. Exit codes: 0 what MARROWLENS_PROVIDER says works, 1 it does not, 2 bad settings.
    """
    try:
        settings = read_settings(**({"artefact": artefact} if artefact else {}))
    except SettingsError as error:
        typer.echo(f"marrowlens: {error}", err=True)
        raise typer.Exit(BAD_SETTINGS) from error
    try:
        trials = examine(settings, repeats)
    except ArtefactError as error:
        typer.echo(f"marrowlens: {error}", err=True)
        raise typer.Exit(DOES_NOT_WORK) from error
    works, sentence = verdict(settings, trials)
    machine, found = look_around(), versions()
    if as_json:
        document = {"works": works, "verdict": sentence, "versions": found, "machine": asdict(machine)}
        typer.echo(json.dumps(document | {"providers": [asdict(trial) for trial in trials]}, indent=1))
    else:
        _show(machine, found, trials, repeats)
        typer.echo(sentence)
    raise typer.Exit(0 if works else DOES_NOT_WORK)


def examine(settings: Settings, repeats: int) -> list[Trial]:
    """Every provider's trial, in the order of `NAMES`.

    Raises:
        ArtefactError: the model cannot be used on the CPU either.
    """
    reference = opened(settings, "cpu")
    sizes = session_batch_sizes(settings)
    trial = partial(
        try_out, open_on=partial(opened, settings), reference=reference, offered=offered(), sizes=sizes, repeats=repeats
    )
    return [_without_engines(settings, reference, provider) or trial(provider) for provider in NAMES]


def _without_engines(settings: Settings, reference: OnnxSession, provider: Provider) -> Trial | None:
    """TensorRT is tried where it was asked for or has its engines: it would build them for minutes."""
    if provider != "tensorrt" or settings.provider == "tensorrt" or NAMES["tensorrt"] not in offered():
        return None
    return None if _engines_built(settings, reference) else Trial(provider, True, False, NO_ENGINES)


NO_ENGINES = "not tried, it has no engines: MARROWLENS_PROVIDER=tensorrt marrowlens warm builds them"


def _engines_built(settings: Settings, reference: OnnxSession) -> bool:
    folder = engine_folder(reference.manifest, session_batch_sizes(settings), settings.engine_cache)
    return folder is not None and engines_in(folder) > 0


def verdict(settings: Settings, trials: list[Trial]) -> tuple[bool, str]:
    """Whether what is configured works, and that in a sentence."""
    by_provider = {trial.provider: trial for trial in trials}
    asked = settings.provider
    if asked == "auto":
        # A provider that has no engines did not work in its trial, and is left out here for that.
        wanted = candidates("auto", offered(), engines_built=True)
        taken = next(provider for provider in wanted if by_provider[provider].works)
        return True, f"MARROWLENS_PROVIDER=auto takes {taken}, which works"
    trial = by_provider[asked]
    if trial.works:
        return True, f"MARROWLENS_PROVIDER={asked} works"
    return False, f"MARROWLENS_PROVIDER={asked} does not work: {trial.reason}"


def _show(machine: Machine, found: Versions, trials: list[Trial], repeats: int) -> None:
    console = Console(highlight=False, markup=False)
    console.print(_machine_table(machine, found))
    console.print(_provider_table(trials))
    console.print(_size_table(trials, repeats))


def _table(title: str, *, headed: bool = True) -> Table:
    look = box.SIMPLE_HEAD if headed else box.SIMPLE
    return Table(title=title, title_justify="left", box=look, show_header=headed, pad_edge=False)


def _machine_table(machine: Machine, found: Versions) -> Table:
    table = _table("machine", headed=False)
    rows = {
        "processor": machine.processor,
        "CPUs for this process": str(machine.cpus),
        "memory limit": _megabytes(machine.memory_limit) or "none",
        "memory available": _megabytes(machine.memory_available),
        "this process, after the trials": _megabytes(machine.resident),
        "GPU": "; ".join(f"{gpu.name}, {gpu.memory_mib} MiB, driver {gpu.driver}" for gpu in machine.gpus) or "none",
        **found,
    }
    for name, value in rows.items():
        table.add_row(name, value or "not found")
    return table


def _provider_table(trials: list[Trial]) -> Table:
    table = _table("providers")
    for column in ("provider", "works", "opened in", "why not"):
        table.add_column(column, overflow="fold")
    for trial in trials:
        seconds = "" if trial.opened_s is None else f"{trial.opened_s:.1f} s"
        table.add_row(trial.provider, "yes" if trial.works else "no", seconds, trial.reason or "")
    return table


def _size_table(trials: list[Trial], repeats: int) -> Table:
    table = _table(f"batches, median of {repeats} calls")
    for column in ("provider", "pictures", "first", "median", "pictures/s", "off the CPU by", "same class"):
        table.add_column(column, justify="left" if column == "provider" else "right")
    for trial in trials:
        for size in trial.sizes:
            table.add_row(
                trial.provider,
                str(size.pictures),
                f"{size.first_ms:.1f} ms",
                f"{size.median_ms:.1f} ms",
                f"{size.pictures_per_s:.0f}",
                f"{size.relative:.1e}",
                f"{size.top1:.0%}",
            )
    return table


def _megabytes(count: int | None) -> str | None:
    return None if count is None else f"{count / 1e6:.0f} MB"
