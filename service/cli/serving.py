"""The application and its server as one process runs them: started by `marrowlens serve`, or as one of its workers."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fastapi import FastAPI

from model.contract import RESEARCH_USE, inert_note
from model.plural import plural
from service.app import create_app
from service.auth.api_keys import KeysFileError, read_keys
from service.auth.roles import RolesFileError
from service.cli.output import OnError
from service.concurrency.thread_pools import POOLS
from service.concurrency.worker import Worker
from service.config.lis import LaboratoryConfigError
from service.config.settings import Settings, SettingsError
from service.config.urls import is_loopback
from service.exit_status import MODEL_FAILED
from service.runtime.loader import InferenceOptions
from service.runtime.session import Session
from service.server.tls import TlsConfigError
from service.server.uvicorn_server import DrainingServer, create_server
from service.server.workers.link import SupervisorLink

if TYPE_CHECKING:
    from service.lis.laboratory import Laboratory

log = logging.getLogger(__name__)


def build_application(settings: Settings, session: Session, on_error: OnError, worker: Worker | None = None) -> FastAPI:
    """The application with its laboratory prepared; `on_error` gets the reason why it cannot start."""
    try:
        application = create_app(settings, session, worker=worker)
        laboratory: Laboratory | None = application.state.laboratory
        if laboratory is not None:
            laboratory.prepare(session.manifest.classes)
    except KeysFileError as error:
        on_error(f"MARROWLENS_KEYS_FILE: {error}")
    except RolesFileError as error:
        on_error(f"MARROWLENS_ROLES_FILE: {error}")
    except (LaboratoryConfigError, SettingsError) as error:
        on_error(str(error))
    return application


def build_server(
    application: FastAPI,
    settings: Settings,
    access_log: bool,
    announce: Callable[[], None],
    on_error: OnError,
    link: SupervisorLink | None = None,
) -> DrainingServer:
    """The server, not started; `on_error` gets the reason why it cannot start."""
    try:
        return create_server(application, settings, access_log=access_log, started=announce, link=link)
    except TlsConfigError as error:
        on_error(str(error))


def start_lines(settings: Settings, session: Session, listener: socket.socket, application: FastAPI) -> Iterator[str]:
    """The lines that describe a started service. Read them once it listens."""
    host, port = listener.getsockname()[:2]
    manifest = session.manifest
    options = InferenceOptions.from_settings(settings)
    threads, sizes = options.intra_op_threads, ", ".join(map(str, options.batch_sizes))
    address = f"[{host}]" if ":" in host else host
    scheme = "http" if settings.tls_cert is None else "https"
    url = f"{scheme}://{address.replace('0.0.0.0', '127.0.0.1').replace('[::]', '[::1]')}:{port}"
    yield f"marrowlens listens on {scheme}://{address}:{port}  (API documentation: {url}/docs)"
    yield f"Model: {manifest.name} {manifest.version}, sha256 {manifest.sha256}, manifest {manifest.digest}"
    if manifest.inert:
        yield inert_note(manifest.inert)
    if manifest.trust is not None and manifest.site_trust_sha256 is not None:
        yield f"Thresholds: {manifest.trust.source}, {settings.trust_reference}, sha256 {manifest.site_trust_sha256}"
    on_threads = plural(threads, "thread")
    yield f"Execution provider: {session.provider} in {session.precision}, {on_threads}, batch sizes {sizes}"
    if settings.workers != 1:
        yield f"Workers: {settings.workers} processes share the port, each with the threads above"
    laboratory: Laboratory | None = application.state.laboratory
    if laboratory is not None:
        yield f"Laboratory: {laboratory.description()}"
    yield _authentication(settings, is_loopback(host))
    if settings.tls_cert is None and not is_loopback(host):
        yield "TLS is off: pictures and API keys travel unencrypted, unless a proxy in front adds TLS."
    yield RESEARCH_USE
    header = '-H "Authorization: Bearer $KEY" ' if settings.authentication_required else ""
    yield f"Try: curl {header}-F image=@examples/cell.png {url}/classify"


def _authentication(settings: Settings, on_loopback: bool) -> str:
    if settings.authentication_required:
        keys = f"API keys of {settings.keys_file}" if settings.keys_file else ""
        if settings.keys_file and not settings.oidc_issuer and not read_keys(settings.keys_file):
            return f"WARNING: {settings.keys_file} holds no key: every request is refused. Run `marrowlens keys new`."
        tokens = f"tokens of {settings.oidc_issuer}" if settings.oidc_issuer else ""
        return f"Authentication: {' and '.join(filter(None, (keys, tokens)))}"
    if on_loopback and not settings.allow_anonymous:
        return "Authentication is off: only requests from localhost are accepted. Set MARROWLENS_KEYS_FILE to open it."
    return "WARNING: Authentication is off: every client that reaches this port can use the service."


def end_process(serving: DrainingServer) -> None:
    """End the process after its server has stopped, with exit status 70 if the model failed."""
    blocked = [pool.name for pool in POOLS if pool.busy()]
    if blocked:
        log.warning("Exiting while calls for %s have not returned", ", ".join(blocked))
    if serving.failed or blocked:
        # Not by the interpreter's own exit: onnxruntime aborts (SIGABRT) if a call is still running then.
        logging.shutdown()
        os._exit(MODEL_FAILED if serving.failed else 0)
