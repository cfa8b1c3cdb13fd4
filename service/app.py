"""Creates the application: routes, middleware, and the lifespan that starts and stops its parts."""

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
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.staticfiles import StaticFiles

from model.contract import CellClass
from service.api import openapi
from service.api.application import Application
from service.api.direct_classify import DirectClassify
from service.api.middleware import ForwardedHeaders, HeadAsGet, RequestContext
from service.api.problems import MEDIA_TYPE, PROBLEM_TYPES, headers, problem, problem_type_of, unknown_path
from service.api.routes import batch, classify, differential, docs, health, model
from service.api.state import AppState, request_id
from service.api.uploads.memory_budget import MemoryBudget
from service.api.v2 import routes as v2
from service.auth.authenticator import Authenticator
from service.auth.middleware import AuthMiddleware
from service.auth.sign_in import SignIn
from service.concurrency.shared_counts import SharedCounts
from service.concurrency.supervisor import Supervisor
from service.concurrency.thread_pools import TELEMETRY
from service.concurrency.worker import Worker
from service.config.lis import LaboratoryConfigError, unused_connection
from service.config.settings import Settings, SettingsError, parse_networks
from service.inference.registry import ModelRegistry
from service.lis.api import (
    cell_routes,
    message_routes,
    presence_routes,
    reading_routes,
    reference_routes,
    report_routes,
    worklist_routes,
)
from service.lis.api import routes as specimen_routes
from service.runtime.loader import load_session
from service.runtime.session import Session
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Recorder, TracingMiddleware
from service.web import routes as page_routes
from service.web.pages import STATIC
from service.web.routes import PageFiles
from service.web.session import routes as session_routes

if TYPE_CHECKING:  # imported only if a laboratory is configured
    from service.lis.laboratory import Laboratory

HANDLED_ERRORS = (HTTPException, RequestValidationError, *(error_class for error_class, _ in PROBLEM_TYPES))
MODULES = (
    classify,
    batch,
    differential,
    specimen_routes,
    cell_routes,
    reading_routes,
    reference_routes,
    presence_routes,
    report_routes,
    message_routes,
    worklist_routes,
    model,
    v2,
    health,
    docs,
    page_routes,
)
ROUTERS = (*(module.router for module in MODULES), session_routes.router, session_routes.pages)
#: Memory for bodies and buffered answers of all requests in flight, in multiples of the largest body.
UPLOAD_MEMORY_BODIES = 3
#: The same for one caller: room for the largest body and the largest answer, and some left for other callers.
CALLER_MEMORY_BODIES = 2
#: FastAPI's own spans and logs are off: their paths and error texts contain specimen numbers and data of clients.
NO_TELEMETRY: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
#: Intervals of the drift measurement, and of the check for a changed keys file.
DRIFT_EVERY_S, KEYS_EVERY_S = 5.0, 1.0
#: Shutdown: time for cancelled background tasks to end.
CANCEL_S = 1.0
#: Shutdown: longest time for the last traces to reach the collector, and the shortest, if no time is left.
FLUSH_S, MIN_FLUSH_S = 3.0, 1.0


def create_app(
    settings: Settings,
    session: Session | None = None,
    open_model: Callable[[Path], Session] | None = None,
    worker: Worker | None = None,
) -> FastAPI:
    """The ASGI application.

    Args:
        session: the model to serve. Without one the service never becomes ready; it can only describe its API.
        open_model: opens the artefact of a reload; default: as the settings say.
        worker: the process among several; None: the only one.

    Raises:
        KeysFileError, RolesFileError: the configured file of keys or of roles cannot be used.
        LaboratoryConfigError: a setting of the configured laboratory cannot be used.
        SettingsError: traces are configured, but OpenTelemetry is not installed.
    """
    metrics = Metrics(worker)
    app = Application(
        title="marrowlens",
        summary="Classifies bone-marrow cells. Research use only.",
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
    app.state.initial_session = session
    app.state.app_state = AppState(
        settings=settings,
        metrics=metrics,
        background=Supervisor(metrics.background),
        worker=worker,
        leads=worker is None or worker.leads,
        upload_memory=MemoryBudget(
            UPLOAD_MEMORY_BODIES * settings.max_body_bytes,
            CALLER_MEMORY_BODIES * settings.max_body_bytes,
            None if worker is None else SharedCounts.of(worker),
        ),
    )
    open_model = open_model or (lambda artefact: load_session(settings, artefact=artefact))
    app.state.laboratory = laboratory = _laboratory(settings, app.state.app_state)
    checks = {} if laboratory is None else {"check_classes": laboratory.check_classes}
    app.state.models = ModelRegistry(app.state.app_state, open_model, **checks)
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/docs/static", StaticFiles(directory=docs.STATIC), name="docs-static")
    app.mount("/static", PageFiles(directory=STATIC), name="static")
    for error_class in HANDLED_ERRORS:
        app.add_exception_handler(error_class, _problem_response)
    _add_middleware(app, settings, metrics)
    app.openapi = partial(openapi.document, app)  # type: ignore[method-assign]
    return app


def _add_middleware(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Add the middleware, from the inside out."""
    required, worker = settings.authentication_required, app.state.app_state.worker
    app.state.authenticator = Authenticator(settings, metrics, worker) if required else None
    app.state.sign_in = SignIn(settings, app.state.authenticator, worker)
    app.add_middleware(DirectClassify, handled=HANDLED_ERRORS, render_error=_problem_response)
    app.add_middleware(HeadAsGet)
    app.add_middleware(
        AuthMiddleware,
        authenticator=app.state.authenticator,
        sign_in=app.state.sign_in,
        loopback_only=not (settings.authentication_required or settings.allow_anonymous),
        metrics_open=settings.metrics_open,
        routes=_routes(),
        render_error=_problem_response,
    )
    app.add_middleware(RequestContext, metrics=metrics, hsts_max_age_s=settings.hsts_max_age_s)
    app.state.recorder = _recorder(settings)
    if app.state.recorder is not None or settings.log_format == "json":
        app.add_middleware(TracingMiddleware, recorder=app.state.recorder)
    if proxies := parse_networks(settings.trusted_proxies):
        app.add_middleware(ForwardedHeaders, proxies=proxies)


def _recorder(settings: Settings) -> Recorder | None:
    if settings.otlp_endpoint is None:
        return None
    try:
        from service.telemetry.otel import OtlpRecorder
    except ImportError as error:
        raise SettingsError(
            f"MARROWLENS_OTLP_ENDPOINT is set, but {error.name} is not installed; run pip install -e '.[otel]'"
        ) from error
    headers = None if settings.otlp_headers is None else settings.otlp_headers.get_secret_value()
    return OtlpRecorder(
        settings.otlp_endpoint,
        headers=headers,
        service_name=settings.trace_service_name,
        ratio=settings.trace_sample_ratio,
    )


def _laboratory(settings: Settings, state: AppState) -> "Laboratory | None":
    if unused := unused_connection(settings.lis):
        raise LaboratoryConfigError(unused)
    if settings.lis.database is None:
        return None
    from service.lis.laboratory import Laboratory

    return Laboratory(settings, state.metrics.registry, leads=state.leads)


def take_lead(app: FastAPI) -> None:
    """Run in this worker what only one worker runs: the one that did has ended."""
    state: AppState = app.state.app_state
    laboratory: Laboratory | None = app.state.laboratory
    state.leads = True
    if laboratory is not None:
        laboratory.lead(state.background)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        async with _model_running(app):
            yield
    finally:
        app.state.sign_in.close()
        recorder: Recorder | None = app.state.recorder
        if recorder is not None:
            with suppress(TimeoutError):
                left_s = app.state.app_state.shutdown_left_s()
                async with asyncio.timeout(min(FLUSH_S, max(MIN_FLUSH_S, left_s))):
                    await TELEMETRY.run(recorder.close)


@asynccontextmanager
async def _model_running(app: FastAPI) -> AsyncIterator[None]:
    models: ModelRegistry = app.state.models
    state: AppState = app.state.app_state
    session: Session | None = app.state.initial_session
    if session is None:
        yield
        return
    classes = session.manifest.classes
    await models.start(session)
    app.state.initial_session = None  # so that only the classifier holds the session, and a reload frees it
    del session
    try:
        async with _laboratory_running(app, classes):
            _start_tasks(app)
            yield
    finally:
        state.begin_shutdown()
        await state.background.close(CANCEL_S)
        await models.close()


@asynccontextmanager
async def _laboratory_running(app: FastAPI, classes: Sequence[CellClass]) -> AsyncIterator[None]:
    laboratory: Laboratory | None = app.state.laboratory
    state: AppState = app.state.app_state
    if laboratory is None:
        yield
        return
    await laboratory.start(classes, state.background)
    try:
        yield
    finally:
        state.begin_shutdown()
        await laboratory.close(state.shutdown_left_s())


def _start_tasks(app: FastAPI) -> None:
    """Start the background tasks."""
    state: AppState = app.state.app_state
    models: ModelRegistry = app.state.models
    authenticator: Authenticator | None = app.state.authenticator
    if state.settings.drift_window:
        state.background.every("drift", DRIFT_EVERY_S, models.measure_drift)
    if authenticator is not None and authenticator.reads_files:
        state.background.every("keys", KEYS_EVERY_S, authenticator.refresh)


def _routes() -> list[BaseRoute]:
    return [route for router in ROUTERS for route in router.routes]


async def _problem_response(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == HTTPStatus.NOT_FOUND:  # raised by the router
        error = HTTPException(error.status_code, unknown_path(request.scope["path"], _routes()))
    document = problem(error, await request_id(request), request.scope["path"])
    state: AppState = request.app.state.app_state
    state.metrics.refused(problem_type_of(error).name)
    return Response(document.json_bytes(), document.status, headers(error), MEDIA_TYPE)
