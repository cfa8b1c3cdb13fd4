"""`marrowlens doctor` and `marrowlens warm`: try the execution providers of this machine, and build their engines."""

import json
from dataclasses import asdict
from functools import partial
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from model.contract import ArtefactError, inert_note
from model.plural import plural
from service.cli.output import Artefact, AsJson, load_settings, open_model, stop
from service.cli.tables import new_table, print_tables
from service.config.settings import Settings
from service.runtime.benchmark import ProviderTrial, timed, try_provider
from service.runtime.hardware import Machine, inspect_machine
from service.runtime.loader import InferenceOptions, load_session
from service.runtime.providers import NAMES, Attempt, Provider, attempts, engine_bytes
from service.runtime.session import OnnxSession, Session, engine_folder, offered, versions
from service.server.workers.shares import worker_count, worker_settings

DOES_NOT_WORK = 1

NO_ENGINES = "not tried: no engines; build them with MARROWLENS_PROVIDER=tensorrt marrowlens warm"


def doctor(
    artefact: Artefact = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls per batch size.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Test every execution provider: whether it starts, agrees with the CPU, and how fast it is.

    Uses the same settings as `serve`. Exit codes: 0 the provider of MARROWLENS_PROVIDER works in MARROWLENS_PRECISION,
    1 it does not, 2 invalid settings.
    """
    settings = load_settings(artefact=artefact)
    workers = worker_count(settings)
    settings = settings if workers == 1 else worker_settings(settings, workers)
    try:
        reference = load_session(settings, "cpu")
        trials = try_providers(settings, reference, repeats)
    except ArtefactError as error:
        stop(str(error), DOES_NOT_WORK)
    works, sentence = verdict(settings, trials)
    machine, found = inspect_machine(), versions()
    if as_json:
        document = {"works": works, "verdict": sentence, "versions": found, "machine": asdict(machine)}
        document["workers"] = {
            "processes": workers,
            "threads": InferenceOptions.from_settings(settings).intra_op_threads,
        }
        inert = {"inert": reference.manifest.inert} if reference.manifest.inert else {}
        typer.echo(json.dumps(document | inert | {"providers": [asdict(trial) for trial in trials]}, indent=1))
    else:
        print_tables(
            _machine_table(settings, workers, machine, found), _provider_table(trials), _batch_table(trials, repeats)
        )
        typer.echo(sentence)
        if reference.manifest.inert:
            typer.echo(inert_note(reference.manifest.inert))
    raise typer.Exit(0 if works else DOES_NOT_WORK)


def try_providers(settings: Settings, reference: OnnxSession, repeats: int) -> list[ProviderTrial]:
    """The trial of every provider against the reference, a session on the CPU, in the order of `NAMES`.

    Raises:
        ArtefactError: the model can no longer be read.
    """
    sizes = InferenceOptions.from_settings(settings).batch_sizes
    trial = partial(
        try_provider,
        open_on=partial(load_session, settings),
        reference=reference,
        offered=offered(),
        sizes=sizes,
        repeats=repeats,
    )
    return [_without_engines(settings, reference, provider) or trial(provider) for provider in NAMES]


def _without_engines(settings: Settings, reference: OnnxSession, provider: Provider) -> ProviderTrial | None:
    """The result for TensorRT if it is not tried: without engines it would build them for minutes."""
    if provider != "tensorrt" or settings.provider == "tensorrt" or NAMES["tensorrt"] not in offered():
        return None
    options = InferenceOptions.from_settings(settings)
    folder = engine_folder(reference.manifest, options.batch_sizes, options.engine_cache)
    has_engines = folder is not None and engine_bytes(folder) > 0
    return None if has_engines else ProviderTrial(provider, True, False, NO_ENGINES)


def verdict(settings: Settings, trials: list[ProviderTrial]) -> tuple[bool, str]:
    """Whether the configured provider works, and a sentence for the operator."""
    by_provider = {trial.provider: trial for trial in trials}
    configured = settings.provider
    # A provider without engines failed its trial, so it is skipped here.
    ways = attempts(configured, settings.precision, offered(), engines_built=True)
    chosen = next((way for way in ways if _works(by_provider[way.provider], way)), None)
    setting = f"MARROWLENS_PROVIDER={configured}"
    if settings.precision != "fp32":
        setting += f" with MARROWLENS_PRECISION={settings.precision}"
    if chosen is None:
        return False, f"{setting} does not work: {by_provider[ways[-1].provider].reason}"
    if len(ways) == 1 and configured != "auto":
        return True, f"{setting} works"
    return True, f"{setting} selects {chosen.provider}, which works" + " in bf16" * (chosen.precision == "bf16")


def _works(trial: ProviderTrial, way: Attempt) -> bool:
    """Whether a trial succeeded in the precision of an attempt; OpenVINO's is of the best precision that works."""
    return trial.works and (way.precision != "bf16" or trial.precision == "bf16")


def _machine_table(settings: Settings, workers: int, machine: Machine, found: dict[str, str | None]) -> Table:
    table = new_table(title="machine")
    threads = InferenceOptions.from_settings(settings).intra_op_threads
    rows = {
        "processor": machine.processor,
        "CPUs for this process": str(machine.cpus),
        "workers": f"{workers}, each with {plural(threads, 'thread')}",
        "memory limit": _megabytes(machine.memory_limit) or "none",
        "memory available": _megabytes(machine.memory_available),
        "memory of this process": _megabytes(machine.resident),
        "GPU": "; ".join(f"{gpu.name}, {gpu.memory_mib} MiB, driver {gpu.driver}" for gpu in machine.gpus) or "none",
        **found,
    }
    for name, value in rows.items():
        table.add_row(name, value or "not found")
    return table


def _provider_table(trials: list[ProviderTrial]) -> Table:
    table = new_table("provider", "works", "precision", "opened in", "reason", title="providers")
    for trial in trials:
        seconds = "" if trial.opened_s is None else f"{trial.opened_s:.1f} s"
        table.add_row(
            trial.provider, "yes" if trial.works else "no", trial.precision or "", seconds, trial.reason or ""
        )
    return table


def _batch_table(trials: list[ProviderTrial], repeats: int) -> Table:
    columns = ("provider", "pictures", "first", "median", "pictures/s", "difference to CPU", "same class")
    table = new_table(*columns, title=f"batches, median of {repeats} calls")
    for column in table.columns[1:]:
        column.justify = "right"
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


def warm(artefact: Artefact = None) -> None:
    """Open the model and run every batch size twice: builds the provider's engines, and times them.

    For an init job. With MARROWLENS_PROVIDER=tensorrt and MARROWLENS_ENGINE_CACHE the engines are stored for the
    service to load. Use the service's settings: an engine fits one model, one GPU and the configured batch sizes.

    Exit codes: 0 done, 2 the provider or the model does not work.
    """
    settings = load_settings(artefact=artefact)
    opened_s, session = timed(lambda: open_model(settings))
    options = InferenceOptions.from_settings(settings)
    threads = options.intra_op_threads
    where = f"{session.provider} in {session.precision}"
    typer.echo(f"opened {session.manifest.name} on {where}, {plural(threads, 'thread')}, in {opened_s:.2f} s")
    if session.manifest.inert:
        typer.echo(inert_note(session.manifest.inert))
    for size in options.batch_sizes:
        first_ms, second_ms = _time_twice(session, size)
        typer.echo(f"batch of {size}: {first_ms:.1f} ms, second run {second_ms:.1f} ms")
    if session.provider == "tensorrt":
        folder = engine_folder(session.manifest, options.batch_sizes, options.engine_cache)
        if folder is None:
            typer.echo("engines were not stored: set MARROWLENS_ENGINE_CACHE", err=True)
        else:
            typer.echo(f"engines: {engine_bytes(folder) / 1e6:.1f} MB in {folder}")


def _time_twice(session: Session, size: int) -> tuple[float, float]:
    """Milliseconds of two runs of a blank batch."""
    side = session.manifest.preprocessing.input_size
    images = np.zeros((size, side, side, 3), np.uint8)
    first_s, second_s = (timed(lambda: session.run(images))[0] for _ in range(2))
    return 1000 * first_s, 1000 * second_s
