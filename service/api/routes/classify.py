"""`POST /classify`: one picture in, one answer out."""

import time
from functools import cached_property, lru_cache
from typing import Annotated
from weakref import WeakKeyDictionary

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import ValidationError
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from service.api.disconnect import NO_STORE, while_connected
from service.api.openapi import ONE_PICTURE, problem_responses
from service.api.responses import ResponseOptions, identity_fields, reading_in_thread
from service.api.schemas import ClassifyAnswer, json_of
from service.api.state import TIMEOUT_HEADER, AppStateDep, RequestId, RequestTimeoutMs, app_state, request_id
from service.api.uploads.body import one_picture

_TIMEOUT_HEADER = TIMEOUT_HEADER.lower().encode()
#: Longer query strings are not cached.
_MAX_CACHED_QUERY_BYTES = 200


class ClassifyRoute(APIRoute):
    """A route that calls its function without FastAPI's dependency injection (about 0.1 ms a request).

    It does so for requests with a valid query and no timeout header, while the route has only the dependencies and
    parameters named here. All other requests go through FastAPI, so a dependency that is added to the route, its router
    or the app is never skipped.
    """

    _DEPENDENCIES = [app_state, request_id]
    _PARAMETERS = ["options", "timeout_ms"]

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request whose path has matched."""
        options = self._options(scope)
        if options is None:
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        response: Response = await self.endpoint(request, options, await app_state(request), await request_id(request))
        await response(scope, receive, send)

    def _options(self, scope: Scope) -> ResponseOptions | None:
        """The options of a request without FastAPI's validation, for speed; None if FastAPI must handle it."""
        if (
            scope["method"] != "POST"
            or len(scope["query_string"]) > _MAX_CACHED_QUERY_BYTES
            or any(name == _TIMEOUT_HEADER for name, _ in scope["headers"])
            or not self._is_self_contained(scope["app"])
        ):
            return None
        return _parse_query(scope["query_string"])

    def _is_self_contained(self, app: FastAPI) -> bool:
        """Whether the route of this app has only the known dependencies and parameters, and none is overridden."""
        known = self._self_contained.get(app)
        if known is None:
            contexts = (each for each in iter_route_contexts(app.routes) if each.original_route is self)
            known = self._self_contained[app] = all(self._is_known(each.dependant) for each in contexts)
        return known and not app.dependency_overrides

    def _is_known(self, found: Dependant) -> bool:
        groups = (found.path_params, found.query_params, found.header_params, found.cookie_params, found.body_params)
        parameters = [each.name for group in groups for each in group]
        return [each.call for each in found.dependencies] == self._DEPENDENCIES and parameters == self._PARAMETERS

    @cached_property
    def _self_contained(self) -> WeakKeyDictionary[FastAPI, bool]:
        return WeakKeyDictionary()


router = APIRouter(tags=["cells"], route_class=ClassifyRoute)


@lru_cache(maxsize=256)
def _parse_query(query: bytes) -> ResponseOptions | None:
    """The options in a query string; None if it is invalid, and FastAPI has to say why."""
    fields = QueryParams(query)
    values = dict(fields) | ({"maps": fields.getlist("maps")} if "maps" in fields else {})
    try:
        return ResponseOptions.model_validate(values)
    except ValidationError:
        return None


@router.post(
    "/classify",
    summary="Classify one cell",
    response_model=ClassifyAnswer,
    response_model_exclude_none=True,
    responses=problem_responses(408, 413, 415, 422, 429, 503, 504),
    openapi_extra=ONE_PICTURE,
)
async def classify(
    request: Request,
    options: Annotated[ResponseOptions, Query()],
    state: AppStateDep,
    request_id: RequestId,
    timeout_ms: RequestTimeoutMs = None,
) -> Response:
    """Send one picture of one bone-marrow cell: as the form field `image`, or as the body itself.

    The answer names the model that gave it. It is a suggestion: a qualified person reads the cell and signs.

        curl -F image=@cell.jpg 'http://localhost:8000/classify?maps=attention,evidence'
        curl -H 'Content-Type: image/jpeg' --data-binary @cell.jpg http://localhost:8000/classify
    """
    with state.current_classifier().in_use() as classifier, state.reserve_memory(request) as memory:
        options = options.for_model(classifier.manifest)
        classifier.check_capacity(time.monotonic() + state.timeout_s(timeout_ms))
        picture = await one_picture(request, memory, state.limits)
        deadline = time.monotonic() + state.timeout_s(timeout_ms)
        answer = await while_connected(request, classifier.classify(picture, deadline=deadline))
    found = await reading_in_thread(answer, classifier.manifest, options)
    document = {"request_id": request_id, "model": identity_fields(classifier.manifest), **found}
    return Response(json_of(document), media_type="application/json", headers=NO_STORE)
