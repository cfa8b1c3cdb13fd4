"""`marrowlens serve`. A supervisor of workers imports nothing that serves: it starts sooner and needs less memory."""

import asyncio
import errno
import logging
import socket
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NoReturn

import typer

from service.cli.fast_import import fast_import
from service.cli.output import ARTEFACT_HELP, load_settings, open_model, stop_logged
from service.config.settings import Settings
from service.config.urls import is_loopback
from service.runtime.installed import check_installed
from service.server.listening import bind_socket
from service.server.workers.shares import worker_count
from service.server.workers.supervisor import WorkerSupervisor
from service.telemetry import logging as logs

check_installed()

log = logging.getLogger(__name__)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: any free port.")] = None,
    # An unreadable file is reported in the log, as every other error of the start.
    artefact: Annotated[Path | None, typer.Option(help=ARTEFACT_HELP, readable=False)] = None,
    access_log: Annotated[bool, typer.Option(help="Log route, status and duration of every request.")] = False,
) -> None:
    """Serve the model over HTTP. All other settings come from the environment (MARROWLENS_*).

    Exit codes: 0 stopped, 2 cannot start, 70 the model failed while serving.
    """
    settings = load_settings(stop_logged, host=host, port=port, artefact=artefact)
    if settings.log_format == "json":  # before the model is opened, which logs too
        logs.configure(settings.log_level, access_log=access_log, log_format="json")
    count = worker_count(settings)
    if count > 1:
        serve_with_workers(settings, count, access_log=access_log)
    serve_alone(settings, access_log=access_log)


def serve_alone(settings: Settings, *, access_log: bool) -> None:
    """Serve with this process until a signal."""
    with fast_import():
        from service.cli import serving

    session = open_model(settings, stop_logged)
    listener = _listen(settings)
    application = serving.build_application(settings, session, stop_logged)
    announce = partial(_announce, settings, serving.start_lines(settings, session, listener, application))
    del session  # frees its memory when a reload replaces the model
    server = serving.build_server(application, settings, access_log, announce, stop_logged)
    server.run(sockets=[listener])
    serving.end_process(server)


def serve_with_workers(settings: Settings, count: int, *, access_log: bool) -> NoReturn:
    """Serve with several processes until a signal, and exit."""
    logs.configure(settings.log_level, access_log=access_log, log_format=settings.log_format)
    listener = _listen(settings)
    with _shared_folder(count) as folder:
        supervisor = WorkerSupervisor(
            settings,
            count,
            listener,
            Path(folder),
            access_log=access_log,
            announce=lambda lines: _announce(settings, lines),
        )
        status = asyncio.run(supervisor.run())
    if supervisor.error:
        stop_logged(supervisor.error, status)
    raise typer.Exit(status)


def _shared_folder(count: int) -> TemporaryDirectory[str]:
    try:
        return TemporaryDirectory(prefix="marrowlens-")
    except OSError as error:
        stop_logged(f"MARROWLENS_WORKERS={count}: {NO_FOLDER}: {error.strerror}")


def _listen(settings: Settings) -> socket.socket:
    try:
        listener = bind_socket(settings.host, settings.port)
    except OSError as error:
        hint = "; choose another port with --port" if error.errno == errno.EADDRINUSE else ""
        stop_logged(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}{hint}")
    if not allows_address(settings, listener.getsockname()[0]):
        stop_logged(AUTHENTICATION_NEEDED.format(host=settings.host))
    return listener


#: Why several workers cannot share files.
NO_FOLDER = "the temporary folder cannot be written; set TMPDIR to a folder that can"
#: Why the service does not listen on an address that other machines can reach.
AUTHENTICATION_NEEDED = (
    "authentication is off, but other machines can reach {host}: set MARROWLENS_KEYS_FILE (`marrowlens keys new` "
    "writes it) or MARROWLENS_OIDC_ISSUER; if a proxy authenticates clients, set MARROWLENS_ALLOW_ANONYMOUS=true"
)


def allows_address(settings: Settings, host: str) -> bool:
    """Whether the service may listen on an address: without authentication only on loopback."""
    return settings.authentication_required or settings.allow_anonymous or is_loopback(host)


def _announce(settings: Settings, lines: Iterable[str]) -> None:
    say = log.info if settings.log_format == "json" else typer.echo
    for line in lines:
        say(line)
