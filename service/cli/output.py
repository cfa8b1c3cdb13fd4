"""Shared by all commands: settings and model, error messages with exit codes, and generated files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from model.contract import ArtefactError
from service.config.settings import Settings, SettingsError, read_settings
from service.exit_status import CANNOT_RUN, STALE

if TYPE_CHECKING:
    from service.runtime.session import OnnxSession

ARTEFACT_HELP = "The .onnx file; its manifest is the .json beside it."
Artefact = Annotated[Path | None, typer.Option(help=ARTEFACT_HELP)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
OnError = Callable[[str], NoReturn]
Check = Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if the file is stale.")]


def stop(message: str, status: int = CANNOT_RUN) -> NoReturn:
    """Print an error message to stderr and exit."""
    warn(message)
    raise typer.Exit(status)


def warn(message: str) -> None:
    """Print a line to stderr, with the program's name in front."""
    typer.echo(f"marrowlens: {message}", err=True)


def stop_logged(message: str, status: int = CANNOT_RUN) -> NoReturn:
    """As `stop`, but log a JSON line if MARROWLENS_LOG_FORMAT is json; works with invalid settings too."""
    if os.environ.get("MARROWLENS_LOG_FORMAT") != "json":
        stop(message, status)
    import logging

    from service.telemetry import logging as logs

    logs.configure("critical", log_format="json")
    logging.getLogger("service.cli").critical(message)
    raise typer.Exit(status)


def load_settings(on_error: OnError = stop, **overrides: Any) -> Settings:
    """The settings, with options of the command line in front of the environment; exits if they are invalid.

    Args:
        overrides: settings by field; None leaves the environment's.
    """
    try:
        return read_settings(**{name: value for name, value in overrides.items() if value is not None})
    except SettingsError as error:
        on_error(str(error))


def open_model(settings: Settings, on_error: OnError = stop, artefact: Path | None = None) -> "OnnxSession":
    """The session of the configured artefact, or of another one; exits if it cannot be opened."""
    from service.runtime.loader import load_session  # imports onnxruntime
    from service.runtime.session import ProviderUnavailable

    try:
        return load_session(settings, artefact=artefact)
    except (ArtefactError, ProviderUnavailable) as error:
        on_error(str(error))


def write_or_check(path: Path, text: str, command: str, *, check: bool) -> None:
    """Write a generated file, or with `check` exit with `STALE` if it differs.

    Args:
        command: the command that writes the file, for the message.
    """
    if not check:
        path.write_text(text, encoding="utf-8")
    elif not path.exists() or path.read_text(encoding="utf-8") != text:
        stop(f"{path} is stale; run `{command}`", STALE)
