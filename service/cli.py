"""The command line: `marrowlens serve`, `openapi`, `score`, `warm`, `doctor`, `lis` and `audit`. Words and exit codes;
the work is done elsewhere."""

import errno
import ipaddress
import logging
import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

#: Bad settings, a bad artefact, a busy port: nothing that starting again would mend.
CANNOT_START = 2

try:
    import typer
    from fastapi import FastAPI

    from model.contract import ArtefactError
    from service import openapi as openapi_document
    from service.app import create_app
    from service.doctor import doctor
    from service.lazily import lazily
    from service.lis_settings import LaboratoryRefused
    from service.opening import intra_op_threads, opened, session_batch_sizes
    from service.schemas import RESEARCH_USE
    from service.score import score
    from service.server import bound_socket, server
    from service.session import ProviderUnavailable, Session
    from service.settings import Settings, SettingsError, read_settings
    from service.warm import warm
except ImportError as error:  # the command is there wherever training is installed, the service's needs are not
    missing = f"{error.name} is not installed: pip install -e '.[service,cpu]'"
    sys.stderr.write(f"marrowlens: {missing if isinstance(error, ModuleNotFoundError) else error}\n")
    raise SystemExit(CANNOT_START) from error

if TYPE_CHECKING:
    from service.lis.laboratory import Laboratory

OPENAPI_FILE = Path("openapi.json")
#: The model broke while it served: EX_SOFTWARE of sysexits.h. Starting again may mend it.
BROKEN = 70

app = typer.Typer(no_args_is_help=True, add_completion=False, help=f"Reads bone-marrow cells. {RESEARCH_USE}")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    # Whether it can be read is asked when it is opened, and said in one line.
    artefact: Annotated[
        Path | None, typer.Option(help="The .onnx file; its manifest lies beside it.", readable=False)
    ] = None,
    access_log: Annotated[bool, typer.Option(help="Log route, status and duration of every request.")] = False,
) -> None:
    """Serve the model over HTTP. Everything else is set by MARROWLENS_* in the environment."""
    settings = _settings(host=host, port=port, artefact=artefact)
    session = _session(settings)
    listener = _listen(settings)
    application = _application(settings, session)
    announce = partial(_announce, settings, session, listener, application.state.laboratory)
    serving = server(application, settings, access_log=access_log, started=announce)
    serving.run(sockets=[listener])
    if serving.failed:
        # Not by the interpreter's own way out: with a call still running in it, onnxruntime ends that by SIGABRT.
        logging.shutdown()
        os._exit(BROKEN)


@app.command()
def openapi(
    out: Annotated[Path, typer.Option(help="Where to write it.")] = OPENAPI_FILE,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when the file is stale.")] = False,
) -> None:
    """Write the OpenAPI document. Needs no model."""
    text = openapi_document.as_file(create_app(_settings()))
    if not check:
        out.write_text(text, encoding="utf-8")
    elif not out.exists() or out.read_text(encoding="utf-8") != text:
        _stop(f"{out} is stale; run `marrowlens openapi`", status=1)


for command in (score, warm, doctor):
    app.command()(command)
app.add_typer(lazily("service.lis.commands", "lis", "The laboratory's messages: what waits, what is dead."), name="lis")
app.add_typer(lazily("service.lis.commands", "audit_trail", "The laboratory's audit trail."), name="audit")


def _settings(**chosen: Any) -> Settings:
    try:
        return read_settings(**{name: value for name, value in chosen.items() if value is not None})
    except SettingsError as error:
        _stop(str(error))


def _session(settings: Settings) -> Session:
    try:
        return opened(settings)
    except (ArtefactError, ProviderUnavailable) as error:
        _stop(str(error))


def _application(settings: Settings, session: Session) -> FastAPI:
    try:
        application = create_app(settings, session)
        laboratory: Laboratory | None = application.state.laboratory
        if laboratory is not None:
            laboratory.prepare(session.manifest.classes)
    except LaboratoryRefused as error:
        _stop(str(error))
    return application


def _listen(settings: Settings) -> socket.socket:
    try:
        return bound_socket(settings.host, settings.port)
    except OSError as error:
        hint = "; choose another with --port" if error.errno == errno.EADDRINUSE else ""
        _stop(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}{hint}")


def _announce(settings: Settings, session: Session, listener: socket.socket, laboratory: "Laboratory | None") -> None:
    host, port = listener.getsockname()[:2]
    manifest = session.manifest
    threads, sizes = intra_op_threads(settings), ", ".join(map(str, session_batch_sizes(settings)))
    at = f"[{host}]" if ":" in host else host
    url = f"http://{at.replace('0.0.0.0', '127.0.0.1').replace('[::]', '[::1]')}:{port}"
    typer.echo(f"marrowlens listens on http://{at}:{port}  (interface: {url}/docs)")
    typer.echo(f"model {manifest.name} {manifest.version}, sha256 {manifest.sha256}, manifest {manifest.digest}")
    typer.echo(f"computes on {session.provider}, {threads} thread(s), batches of {sizes}")
    if laboratory is not None:
        typer.echo(f"laboratory: {laboratory.description()}")
    typer.echo(RESEARCH_USE)
    typer.echo(f"try: curl -F image=@examples/cell.png {url}/classify")
    if not _is_loopback(host):
        typer.echo(
            f"WARNING: {host} can be reached from other machines, and there is no authentication: whoever reaches this "
            "port can use it. Put it behind something that asks who they are.",
            err=True,
        )


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.split("%")[0]).is_loopback


def _stop(message: str, status: int = CANNOT_START) -> NoReturn:
    typer.echo(f"marrowlens: {message}", err=True)
    raise typer.Exit(status)
