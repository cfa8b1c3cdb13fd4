"""Routes whose JSON bodies are bounded while they are read: FastAPI by itself reads whatever comes."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from service.running import Running
from service.uploads import Intake

#: 10,000 readings with a sentence each.
MAX_JSON_BYTES = 4 * 1024 * 1024


class JsonRoute(APIRoute):
    """A route that answers 413 to a body that is too large and 408 to one that does not come, and 429 when memory for
    bodies is short."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with the body already there."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def bounded(request: Request) -> Response:
            running: Running = request.app.state.running
            with running.uploads.lease() as lease:
                intake = Intake(request, lease, MAX_JSON_BYTES, running.settings.request_timeout_s)
                request._body = (await intake.whole()).getvalue()  # where Starlette keeps what it has read
                return await handle(request)

        return bounded
