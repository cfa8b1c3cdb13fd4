"""Routes whose JSON bodies are bounded while they are read and parsed: FastAPI by itself reads whatever comes."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from service.api.state import Running
from service.api.uploads.body import Intake, content_type
from service.api.uploads.json_text import PARSED_AT_ONCE_BYTES, read_json
from service.concurrency.thread_pools import BODIES
from service.errors import MalformedBody

#: 10,000 readings with a sentence each.
MAX_JSON_BYTES = 4 * 1024 * 1024
#: 10,000 readings of four members each.
MAX_JSON_MEMBERS = 50_000


class JsonRoute(APIRoute):
    """A route that answers 413 to a body that is too large and 408 to one that does not come, 429 when memory for
    bodies is short, and 422 to JSON that has more than one reading."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with the body already there."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def bounded(request: Request) -> Response:
            running: Running = request.app.state.running
            with running.lease(request) as lease:
                intake = Intake(request, lease, MAX_JSON_BYTES, running.limits.patience)
                body = (await intake.whole()).getvalue()
                request._body = body  # where Starlette keeps what it has read, and what it has parsed
                if body and _is_json(content_type(request)):
                    request._json = await _parsed(body)
                return await handle(request)

        return bounded


async def _parsed(body: bytes) -> Any:
    if len(body) < PARSED_AT_ONCE_BYTES:
        return _read(body)
    return await BODIES.run(_read, body)


def _read(body: bytes) -> Any:
    try:
        return read_json(body, max_members=MAX_JSON_MEMBERS)
    except MalformedBody as error:
        cause = error.__cause__
        if isinstance(cause, json.JSONDecodeError):  # a problem of the same type as FastAPI's own
            fault = {"loc": ("body", cause.pos), "type": "json_invalid", "msg": cause.msg}
            raise RequestValidationError([fault]) from error
        raise


def _is_json(media_type: str) -> bool:
    """As FastAPI tells it."""
    kind, _, subtype = media_type.partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))
