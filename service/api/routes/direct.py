"""`POST /classify` without parameters, on the short way: from the server to the route's own function.

FastAPI looks for the route, solves its dependencies and opens exit stacks for every request, which takes longer than
the answer; a request without query and without wishes has nothing there to be found. Knows when that is so, and
nothing else: function, errors and answers are those of the route.
"""

from collections.abc import Awaitable, Callable

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.state import TIMEOUT_WISH

_TIMEOUT_WISH = TIMEOUT_WISH.lower().encode()


class Direct:
    """Pure ASGI, around the routing.

    Args:
        route: whose requests are answered here, told by its path and its one method.
        answer: what the route's function does for a request without parameters.
        refuse: the answer to an error, of those that are in `refused`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        route: APIRoute,
        answer: Callable[[Request], Awaitable[Response]],
        refuse: Callable[[Request, Exception], Awaitable[Response]],
        refused: tuple[type[Exception], ...],
    ) -> None:
        self.app = app
        self._route = route
        self._methods = frozenset(route.methods or ())
        self._answer = answer
        self._refuse = refuse
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._plain(scope):
            await self.app(scope, receive, send)
            return
        scope["route"] = self._route
        request = Request(scope, receive, send)
        try:
            response = await self._answer(request)
        except self._refused as error:
            response = await self._refuse(request, error)
        await response(scope, receive, send)

    def _plain(self, scope: Scope) -> bool:
        return (
            scope["type"] == "http"
            and scope["path"] == self._route.path
            and scope["method"] in self._methods
            and not scope["query_string"]
            and all(name != _TIMEOUT_WISH for name, _ in scope["headers"])
        )
