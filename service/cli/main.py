"""The command line: `marrowlens serve` and `openapi`, and every other command by its name. Words and exit codes; the
work is done elsewhere."""

import errno
import logging
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

#: Bad settings, a bad artefact, a busy port: nothing that starting again would mend.
CANNOT_START = 2

try:
    import typer
    from fastapi import FastAPI

    from model.contract import RESEARCH_USE, ArtefactError, Manifest
    from service.api import openapi as openapi_document
    from service.app import create_app
    from service.auth.api_keys import KeysRefused, read_keys
    from service.cli.doctor import doctor
    from service.cli.lazy_group import lazily
    from service.cli.metrics_page import metrics
    from service.cli.score import score
    from service.cli.warm import warm
    from service.concurrency.thread_pools import POOLS
    from service.config.lis import LaboratoryConfigError
    from service.config.settings import Settings, SettingsError, read_settings
    from service.config.urls import is_loopback
    from service.runtime.loader import intra_op_threads, opened, session_batch_sizes
    from service.runtime.session import ProviderUnavailable, Session
    from service.server.tls import TlsConfigError
    from service.server.uvicorn_server import DrainingServer, bound_socket, server
    from service.telemetry import logging as logs
except ImportError as error:  # the command is there wherever training is installed, the service's needs are not
    missing = f"{error.name} is not installed: pip install -e '.[service,cpu]'"
    sys.stderr.write(f"marrowlens: {missing if isinstance(error, ModuleNotFoundError) else error}\n")
    raise SystemExit(CANNOT_START) from error

if TYPE_CHECKING:
    from service.lis.laboratory import Laboratory

OPENAPI_FILE = Path("openapi.json")
#: The model broke while it served: EX_SOFTWARE of sysexits.h. Starting again may mend it.
BROKEN = 70

log = logging.getLogger(__name__)

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
    if settings.log_format == "json":  # what opening the model has to say, too
        logs.configure(settings.log_level, access_log=access_log, form="json")
    session = _session(settings)
    listener = _listen(settings)
    application = _application(settings, session)
    announce = partial(_announce, settings, session.manifest, session.provider, listener, application.state.laboratory)
    del session  # another model may take over, and this one's memory is free again
    serving = _server(application, settings, access_log, announce)
    serving.run(sockets=[listener])
    left = [pool.name for pool in POOLS if pool.busy()]
    if left:
        log.warning("the process ends while calls for %s have not returned", ", ".join(left))
    if serving.failed or left:
        # Not by the interpreter's own way out: with a call still running in it, onnxruntime ends that by SIGABRT.
        logging.shutdown()
        os._exit(BROKEN if serving.failed else 0)


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


for command in (score, warm, doctor, metrics):
    app.command()(command)
app.add_typer(lazily("service.cli.keys", "keys", "API keys: make, list and revoke them."), name="keys")
app.add_typer(
    lazily("service.cli.config", "config", "The settings: what is in force, and what there is."), name="config"
)
app.add_typer(lazily("service.cli.drift", "drift", "Input drift: its reference, and a folder's."), name="drift")
app.add_typer(lazily("service.cli.lis", "lis", "The laboratory's messages: what waits, what is dead."), name="lis")
app.add_typer(lazily("service.cli.audit", "audit_trail", "The laboratory's audit trail."), name="audit")


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
    except KeysRefused as error:
        _stop(f"MARROWLENS_KEYS_FILE: {error}")
    except (LaboratoryConfigError, SettingsError) as error:
        _stop(str(error))
    return application


def _server(application: FastAPI, settings: Settings, access_log: bool, announce: Callable[[], None]) -> DrainingServer:
    try:
        return server(application, settings, access_log=access_log, started=announce)
    except TlsConfigError as error:
        _stop(str(error))


def _listen(settings: Settings) -> socket.socket:
    try:
        listener = bound_socket(settings.host, settings.port)
    except OSError as error:
        hint = "; choose another with --port" if error.errno == errno.EADDRINUSE else ""
        _stop(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}{hint}")
    if not (settings.authentication_required or settings.allow_anonymous or is_loopback(listener.getsockname()[0])):
        _stop(
            f"{settings.host} can be reached from other machines, and nobody would be asked who he is: set "
            "MARROWLENS_KEYS_FILE (`marrowlens keys new` writes it) or MARROWLENS_OIDC_ISSUER; or, where something "
            "else asks, MARROWLENS_ALLOW_ANONYMOUS=true"
        )
    return listener


def _announce(
    settings: Settings, manifest: Manifest, provider: str, listener: socket.socket, laboratory: "Laboratory | None"
) -> None:
    say = log.info if settings.log_format == "json" else typer.echo  # then every line is an object
    host, port = listener.getsockname()[:2]
    threads, sizes = intra_op_threads(settings), ", ".join(map(str, session_batch_sizes(settings)))
    at = f"[{host}]" if ":" in host else host
    scheme = "http" if settings.tls_cert is None else "https"
    url = f"{scheme}://{at.replace('0.0.0.0', '127.0.0.1').replace('[::]', '[::1]')}:{port}"
    say(f"marrowlens listens on {scheme}://{at}:{port}  (interface: {url}/docs)")
    say(f"model {manifest.name} {manifest.version}, sha256 {manifest.sha256}, manifest {manifest.digest}")
    say(f"computes on {provider}, {threads} thread(s), batches of {sizes}")
    if laboratory is not None:
        say(f"laboratory: {laboratory.description()}")
    say(_who_is_asked(settings, is_loopback(host)))
    if settings.tls_cert is None and not is_loopback(host):
        say("what is sent can be read on the way, keys too, unless something in front of this adds TLS")
    say(RESEARCH_USE)
    who = '-H "Authorization: Bearer $KEY" ' if settings.authentication_required else ""
    say(f"try: curl {who}-F image=@examples/cell.png {url}/classify")


def _who_is_asked(settings: Settings, here_alone: bool) -> str:
    if settings.authentication_required:
        keys = f"keys of {settings.keys_file}" if settings.keys_file else ""
        if settings.keys_file and not settings.oidc_issuer and not read_keys(settings.keys_file):
            return f"WARNING: {settings.keys_file} holds no key, so that nobody can come in"
        tokens = f"tokens of {settings.oidc_issuer}" if settings.oidc_issuer else ""
        return f"callers are asked who they are: {' and '.join(filter(None, (keys, tokens)))}"
    if here_alone and not settings.allow_anonymous:
        return "nobody is asked who he is, so only this machine is answered; MARROWLENS_KEYS_FILE opens it to others"
    return "WARNING: nobody is asked who he is: whoever reaches this port can use it"


def _stop(message: str, status: int = CANNOT_START) -> NoReturn:
    # Asked of the environment itself: the settings may be what could not be read.
    if os.environ.get("MARROWLENS_LOG_FORMAT") == "json":
        logs.configure("critical", form="json")
        log.critical(message)
    else:
        typer.echo(f"marrowlens: {message}", err=True)
    raise typer.Exit(status)
