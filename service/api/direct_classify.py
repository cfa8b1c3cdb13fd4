"""The direct way to `POST /classify`: ASGI middleware that calls the route without router and dependency injection."""

from collections.abc import Awaitable, Callable
from functools import lru_cache

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from pydantic import ValidationError
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.query_parameters import check_query
from service.api.responses import ResponseOptions
from service.api.routes import classify
from service.api.state import TIMEOUT_HEADER, app_state, request_id

RenderError = Callable[[Request, Exception], Awaitable[Response]]

_TIMEOUT_HEADER = TIMEOUT_HEADER.lower().encode()
#: Longer query strings are not cached.
_MAX_CACHED_QUERY_BYTES = 200


class DirectClassify:
    """Answers ordinary requests to `classify` without router and dependency injection; pure ASGI, around the router.

    Ordinary are requests with a valid query and no timeout header, while the route has only the dependencies and
    parameters named here. All others go through FastAPI, so a dependency that is added to the route, its router or the
    app is never skipped (docs/decisions/0038-event-loop.md).

    Args:
        handled: errors that have a problem document.
        render_error: the response for one of them.
    """

    _DEPENDENCIES = [check_query, app_state, request_id]
    _PARAMETERS = ["options", "timeout_ms"]

    def __init__(self, app: ASGIApp, *, handled: tuple[type[Exception], ...], render_error: RenderError) -> None:
        self.app = app
        self._handled, self._render_error = handled, render_error
        routes = (each for each in classify.router.routes if isinstance(each, APIRoute))
        self._route = next(each for each in routes if each.endpoint is classify.classify)
        self._is_ordinary: bool | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (options := self._options(scope)) is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = self._route  # for metrics and logs, as the router sets it
        request = Request(scope, receive, send)
        try:
            response = await classify.classify(request, options, await app_state(request), await request_id(request))
        except self._handled as error:
            response = await self._render_error(request, error)
        await response(scope, receive, send)

    def _options(self, scope: Scope) -> ResponseOptions | None:
        """The options of a request without FastAPI's validation, for speed; None if FastAPI must handle it."""
        if (
            scope["type"] != "http"
            or scope["path"] != self._route.path
            or scope["method"] != "POST"
            or len(scope["query_string"]) > _MAX_CACHED_QUERY_BYTES
            or any(name == _TIMEOUT_HEADER for name, _ in scope["headers"])
            or not self._is_self_contained(scope["app"])
        ):
            return None
        return _parse_query(scope["query_string"])

    def _is_self_contained(self, app: FastAPI) -> bool:
        """Whether the route of this app has only the known dependencies and parameters, and none is overridden."""
        if self._is_ordinary is None:
            found = [each for each in iter_route_contexts(app.routes) if each.original_route is self._route]
            self._is_ordinary = len(found) == 1 and self._is_known(found[0])
        return self._is_ordinary and not app.dependency_overrides

    def _is_known(self, found: RouteContext) -> bool:
        used = found.dependant
        groups = (used.path_params, used.query_params, used.header_params, used.cookie_params, used.body_params)
        parameters = [each.name for group in groups for each in group]
        dependencies = [each.call for each in used.dependencies]
        return (found.path, dependencies, parameters) == (self._route.path, self._DEPENDENCIES, self._PARAMETERS)


@lru_cache(maxsize=256)
def _parse_query(query: bytes) -> ResponseOptions | None:
    """The options in a query string; None if it is invalid, and FastAPI has to say why."""
    fields = QueryParams(query)
    if any(name != "maps" and len(fields.getlist(name)) > 1 for name in fields):
        return None
    values = dict(fields) | ({"maps": fields.getlist("maps")} if "maps" in fields else {})
    try:
        return ResponseOptions.model_validate(values)
    except ValidationError:
        return None
