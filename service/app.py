"""The application: built and mounted here, and nothing else. What it holds while it runs is made by the lifespan."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from model.contract import CellClass
from service.api import openapi
from service.api.forwarded import Forwarded
from service.api.middleware import HeadAsGet, RequestContext
from service.api.problems import MEDIA_TYPE, TABLE, headers, kind_of, problem
from service.api.responses import Wanted
from service.api.route_names import unknown_path
from service.api.routes import batch, classify, docs, health, model, reload
from service.api.routes.direct import Direct
from service.api.state import Running, request_id
from service.api.uploads.memory_budget import UploadMemory
from service.api.v2 import routes as v2
from service.auth.middleware import Authenticator, AuthMiddleware
from service.concurrency.supervisor import Supervisor
from service.concurrency.thread_pools import TELEMETRY
from service.config.settings import Settings, SettingsError, parse_networks
from service.inference.registry import Models
from service.lis.api import cell_routes
from service.lis.api import routes as specimen_routes
from service.runtime.loader import load_session
from service.runtime.session import Session
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Recorder, TracingMiddleware

if TYPE_CHECKING:  # loaded where one is set up
    from service.lis.laboratory import Laboratory

REFUSED = (HTTPException, RequestValidationError, *(error_class for error_class, _ in TABLE))
ROUTES = (classify, batch, specimen_routes, cell_routes, model, reload, v2, health, docs)
#: Bodies and collected answers of all requests in flight together, in multiples of the largest body.
UPLOADS_AT_ONCE = 3
#: And those of one caller, who may send the largest body and get the largest answer, and leaves room for others.
UPLOADS_OF_A_CALLER = 2
#: FastAPI's own spans and logs hold paths, and texts of errors: numbers of specimens, and whatever a client sent.
NO_TELEMETRY: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
#: How often drift is measured, and how often it is asked whether the file of keys has changed.
DRIFT_EVERY_S, KEYS_EVERY_S = 5.0, 1.0
#: How long a shutdown waits for background tasks that are cancelled: they wait for nothing but each other.
CANCEL_S = 1.0
#: How long a shutdown waits for the collector to take the last traces.
FLUSH_S = 3.0
#: And where no time is left.
LEAST_FLUSH_S = 1.0


def create_app(
    settings: Settings, session: Session | None = None, open_model: Callable[[Path], Session] | None = None
) -> FastAPI:
    """The service over an opened session. Without one it can only describe itself: it never becomes ready.

    `open_model` opens the artefacts that are to take over later, as the settings say unless told otherwise.

    Raises:
        KeysFileError: API keys are set up, and their file cannot be used.
        LaboratoryConfigError: a laboratory is set up, and a setting of it cannot be used.
        SettingsError: traces are to be sent, and what sends them is not installed.
    """
    metrics = Metrics()
    app = FastAPI(
        title="marrowlens",
        summary="Reads bone-marrow cells. Research use only.",
        description=openapi.DESCRIPTION,
        version=version("marrowlens"),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=openapi.TAGS,
        servers=[{"url": settings.root_path}] if settings.root_path else None,
        openapi_url=None,  # served from bytes: service.api.routes.docs
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=openapi.operation_id,
        lifespan=_lifespan,
        telemetry=NO_TELEMETRY,
    )
    app.state.opened = session
    app.state.running = Running(
        settings=settings, metrics=metrics, background=Supervisor(metrics.background), uploads=_upload_memory(settings)
    )
    open_model = open_model or (lambda artefact: load_session(settings, artefact=artefact))
    app.state.models = Models(app.state.running, open_model)
    app.state.laboratory = _laboratory(settings, metrics)
    for module in ROUTES:
        app.include_router(module.router)
    app.mount("/docs/static", StaticFiles(directory=docs.STATIC), name="static")
    for error_class in REFUSED:
        app.add_exception_handler(error_class, _refuse)
    _wrap(app, settings, metrics)
    app.openapi = partial(openapi.document, app)  # type: ignore[method-assign]
    return app


def _wrap(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """What stands around the routes, from the inside out."""
    app.state.authenticator = Authenticator(settings, metrics) if settings.authentication_required else None
    [route] = (route for route in classify.router.routes if isinstance(route, APIRoute))
    app.add_middleware(Direct, route=route, answer=_classified, refuse=_refuse, refused=REFUSED)
    app.add_middleware(HeadAsGet)
    app.add_middleware(
        AuthMiddleware,
        authenticator=app.state.authenticator,
        loopback_only=not (settings.authentication_required or settings.allow_anonymous),
        metrics_open=settings.metrics_open,
        routes=[route for module in ROUTES for route in module.router.routes],
        render_error=_refuse,
    )
    app.add_middleware(RequestContext, metrics=metrics, hsts_max_age_s=settings.hsts_max_age_s)
    app.state.recorder = _recorder(settings)
    if app.state.recorder is not None or settings.log_format == "json":
        app.add_middleware(TracingMiddleware, recorder=app.state.recorder)
    if proxies := parse_networks(settings.trusted_proxies):
        app.add_middleware(Forwarded, proxies=proxies)


def _upload_memory(settings: Settings) -> UploadMemory:
    largest = settings.max_body_bytes
    return UploadMemory(UPLOADS_AT_ONCE * largest, UPLOADS_OF_A_CALLER * largest)


def _recorder(settings: Settings) -> Recorder | None:
    if settings.otlp_endpoint is None:
        return None
    try:
        from service.telemetry.otel import OtlpRecorder
    except ImportError as error:
        raise SettingsError(
            f"MARROWLENS_OTLP_ENDPOINT is set, and {error.name} is not installed: pip install -e '.[otel]'"
        ) from error
    headers = None if settings.otlp_headers is None else settings.otlp_headers.get_secret_value()
    return OtlpRecorder(
        settings.otlp_endpoint,
        headers=headers,
        service_name=settings.trace_service_name,
        ratio=settings.trace_sample_ratio,
    )


def _laboratory(settings: Settings, metrics: Metrics) -> "Laboratory | None":
    if settings.lis.database is None:
        return None
    from service.lis.laboratory import Laboratory

    return Laboratory(settings, metrics.registry)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        async with _served(app):
            yield
    finally:
        recorder: Recorder | None = app.state.recorder
        if recorder is not None:
            with suppress(TimeoutError):
                left_s = app.state.running.shutdown_left_s()
                async with asyncio.timeout(min(FLUSH_S, max(LEAST_FLUSH_S, left_s))):
                    await TELEMETRY.run(recorder.close)


@asynccontextmanager
async def _served(app: FastAPI) -> AsyncIterator[None]:
    models: Models = app.state.models
    running: Running = app.state.running
    session: Session | None = app.state.opened
    if session is None:
        yield
        return
    app.state.opened, classes = None, session.manifest.classes  # held by who serves with it, and by nobody else
    await models.begin(session)
    del session
    try:
        async with _laboratory_open(app, classes):
            _start_tasks(app)
            yield
    finally:
        running.begin_shutdown()
        await running.background.close(CANCEL_S)
        await models.end()


@asynccontextmanager
async def _laboratory_open(app: FastAPI, classes: Sequence[CellClass]) -> AsyncIterator[None]:
    laboratory: Laboratory | None = app.state.laboratory
    running: Running = app.state.running
    if laboratory is None:
        yield
        return
    await laboratory.start(classes, running.background)
    try:
        yield
    finally:
        running.begin_shutdown()
        await laboratory.close(running.shutdown_left_s())


def _start_tasks(app: FastAPI) -> None:
    """What a service does in the background, whatever runs it."""
    running: Running = app.state.running
    models: Models = app.state.models
    authenticator: Authenticator | None = app.state.authenticator
    if running.settings.drift_window:
        running.background.every("drift", DRIFT_EVERY_S, models.measure_drift)
    if authenticator is not None and authenticator.keys is not None:
        running.background.every("keys", KEYS_EVERY_S, authenticator.refresh)


async def _classified(request: Request) -> Response:
    return await classify.answered(request, Wanted(), request.app.state.running, await request_id(request))


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == HTTPStatus.NOT_FOUND:  # the router's; ours have types
        routes = (route for module in ROUTES for route in module.router.routes)
        error = HTTPException(error.status_code, unknown_path(request.scope["path"], routes))
    document = problem(error, await request_id(request), request.scope["path"])
    running: Running = request.app.state.running
    running.metrics.refused(kind_of(error).name)
    return Response(document.json_bytes(), document.status, headers(error), MEDIA_TYPE)
