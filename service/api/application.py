"""The FastAPI application without layers that this service does not use."""

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send


class Application(FastAPI):
    """FastAPI whose requests pass this service's middleware, the exception handlers and the router, nothing else.

    FastAPI puts three more layers around them: its telemetry, which is off; its limit of bodies, where the routes have
    their own; and an answer to unexpected errors, which `RequestContext` gives. Each costs a coroutine a request
    (docs/decisions/0038-event-loop.md).
    """

    def build_middleware_stack(self) -> ASGIApp:
        """The layers around the router, from the outside in."""
        app: ASGIApp = AsyncExitStackMiddleware(self.router)
        app = ExceptionMiddleware(app, handlers=self.exception_handlers)
        for layer in reversed(self.user_middleware):
            app = layer.cls(app, *layer.args, **layer.kwargs)
        return app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)
