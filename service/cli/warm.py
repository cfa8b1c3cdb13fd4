"""`marrowlens warm`: open the model once and run every batch size, so that what is built is built.

Knows words and exit codes. For an init job: TensorRT's engines take minutes and are kept in MARROWLENS_ENGINE_CACHE.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from model.contract import ArtefactError
from service.config.settings import Settings, SettingsError, read_settings
from service.runtime.benchmark import timed
from service.runtime.loader import intra_op_threads, opened, session_batch_sizes
from service.runtime.providers import engines_in
from service.runtime.session import ProviderUnavailable, Session, engine_folder

#: As `serve` has it.
CANNOT_START = 2


def warm(
    artefact: Annotated[Path | None, typer.Option(help="The .onnx file; its manifest lies beside it.")] = None,
) -> None:
    """Open the model and run every batch size once, and again: what the provider builds is built, and timed.

    With MARROWLENS_PROVIDER=tensorrt and MARROWLENS_ENGINE_CACHE the engines are kept for the service to load. Give
    it the settings that the service has: an engine is for one model, one GPU and the service's batch sizes.

    Exit codes: 0 done, 2 the provider or the model does not work.
    """
    try:
        settings = read_settings(**({"artefact": artefact} if artefact else {}))
        opened_s, session = timed(lambda: opened(settings))
    except (ArtefactError, ProviderUnavailable, SettingsError) as error:
        typer.echo(f"marrowlens: {error}", err=True)
        raise typer.Exit(CANNOT_START) from error
    threads = intra_op_threads(settings)
    typer.echo(f"opened {session.manifest.name} on {session.provider}, {threads} thread(s), in {opened_s:.2f} s")
    for size in session_batch_sizes(settings):
        first_ms, again_ms = _twice_ms(session, size)
        typer.echo(f"batch of {size}: {first_ms:.1f} ms, and again {again_ms:.1f} ms")
    _tell_engines(session, settings)


def _twice_ms(session: Session, size: int) -> tuple[float, float]:
    side = session.manifest.preprocessing.input_size
    images = np.zeros((size, side, side, 3), np.uint8)
    first_s, again_s = (timed(lambda: session.run(images))[0] for _ in range(2))
    return 1000 * first_s, 1000 * again_s


def _tell_engines(session: Session, settings: Settings) -> None:
    if session.provider != "tensorrt":
        return
    folder = engine_folder(session.manifest, session_batch_sizes(settings), settings.engine_cache)
    if folder is None:
        typer.echo("no engines were kept: set MARROWLENS_ENGINE_CACHE", err=True)
    else:
        typer.echo(f"engines: {engines_in(folder) / 1e6:.1f} MB in {folder}")
