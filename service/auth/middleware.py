"""Authentication, authorization and rate limits as ASGI middleware, before a request's body is read.

A route gets the caller by the dependency `CurrentCaller`. A stream ends within seconds of its key's revocation, its
token's expiry or the end of its session.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated

from fastapi import Depends
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as ASGIScope

from model.plural import plural
from service.auth import policy
from service.auth.authenticator import Authenticator
from service.auth.identity import ACTING_USER, Caller, InvalidName, Scope, decoded_name
from service.auth.sign_in import SignIn
from service.config.urls import host_name, is_loopback
from service.errors import AuthenticationTooOld, Forbidden, NotReady, ServiceError, SessionExpired

log = logging.getLogger(__name__)

#: Values of Sec-Fetch-Site for a request from a page of another origin.
_OTHER_SITES = frozenset({"cross-site", "same-site"})
#: Interval between two checks of an open stream's key or token.
CHECK_INTERVAL_S = 1.0
#: Time limit for the last line of a stream, in case the client has stopped reading.
_LAST_LINE_TIMEOUT_S = 5.0
_NDJSON = b"application/x-ndjson"

RenderError = Callable[[Request, Exception], Awaitable[Response]]


class AuthMiddleware:
    """Refuses requests that are not allowed; pure ASGI, around the router.

    Args:
        authenticator: None where authentication is off.
        sign_in: authenticates requests with a session's cookie in place of a key or token.
        loopback_only: accept only requests with a Host header of this machine. This stops DNS rebinding.
        metrics_open: whether GET /metrics needs no authentication.
        routes: to label refused requests in metrics and logs with their route.
        render_error: the response for an error.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticator: Authenticator | None,
        sign_in: SignIn,
        loopback_only: bool,
        metrics_open: bool,
        routes: Sequence[BaseRoute],
        render_error: RenderError,
    ) -> None:
        self.app = app
        self._authenticator, self._sign_in = authenticator, sign_in
        self._routes, self._render_error = routes, render_error
        self._loopback_only, self._metrics_open = loopback_only, metrics_open

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        required = policy.required_scopes(scope["path"], metrics_open=self._metrics_open)
        if required is None:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_origin(scope["method"], headers)
            app = await self._admitted(scope, headers, required)
        except ServiceError as error:
            self._set_route(scope)
            response = await self._render_error(Request(scope, receive, send), error)
            await response(scope, receive, send)
            return
        await app(scope, receive, send)

    async def _admitted(self, scope: ASGIScope, headers: Headers, required: frozenset[Scope]) -> ASGIApp:
        """The app for this request of an authenticated and authorized caller.

        Raises:
            Unauthorised, Forbidden, RateLimited, IssuerUnavailable, NotReady.
        """
        authenticator, method, path = self._authenticator, scope["method"], scope["path"]
        role, cookie = policy.required_role(method, path), self._sign_in.cookie(scope, headers)
        session = None if cookie is None else self._sign_in.admit(method, headers, cookie)
        if session is not None:
            caller = session.caller
        elif authenticator is None:
            if cookie is not None and role not in (None, "read") and ACTING_USER not in headers:
                raise SessionExpired
            return self.app
        elif cookie is not None:
            raise SessionExpired
        else:
            caller = await authenticator.authenticate(headers.getlist("authorization"))
            caller = authenticator.roles.assign(caller, _acting_name(caller, headers))
        scope.setdefault("state", {})["caller"] = caller
        if session is not None and policy.is_signature(method, path) and not self._sign_in.table.may_sign(session):
            raise AuthenticationTooOld(self._sign_in.signing_max_age_s)
        if authenticator is None:
            return self.app
        authenticator.authorize(caller, required, role, by_session=session is not None)
        revoked = partial(self._revoked, authenticator, caller, required, cookie)
        return RevocableRequest(self.app, revoked, self._render_error)

    def _revoked(
        self, authenticator: Authenticator, caller: Caller, required: frozenset[Scope], cookie: str | None
    ) -> ServiceError | None:
        try:
            if cookie is not None and self._sign_in.table.find(cookie) is None:
                return SessionExpired()
        except NotReady as error:
            return error
        return authenticator.revoked(caller, required)

    def _set_route(self, scope: ASGIScope) -> None:
        """Set the route of a refused request, for metrics and logs."""
        found = (route for route in self._routes if route.matches(scope)[0] is not Match.NONE)
        if route := next(found, None):
            scope["route"] = route

    def _check_origin(self, method: str, headers: Headers) -> None:
        if method not in ("GET", "HEAD") and headers.get("sec-fetch-site") in _OTHER_SITES:
            raise Forbidden("Cross-site request (Sec-Fetch-Site): other sites may send only GET and HEAD")
        host = headers.get("host")  # every browser sends it
        if self._loopback_only and host is not None and not is_loopback(host_name(host)):
            raise Forbidden(
                "Authentication is off: only requests to localhost are accepted. Set MARROWLENS_KEYS_FILE or "
                "MARROWLENS_OIDC_ISSUER, or MARROWLENS_ALLOW_ANONYMOUS=true."
            )


def _acting_name(caller: Caller, headers: Headers) -> str | None:
    """The person that a key acting for others names, if the name is valid; the route refuses an invalid one."""
    sent = headers.get(ACTING_USER) if caller.acts_for_others else None
    try:
        return None if sent is None else decoded_name(sent)
    except InvalidName:
        return None


async def current_caller(request: Request) -> Caller | None:
    """The authenticated caller; None where authentication is off."""
    found: Caller | None = request.scope["state"].get("caller")
    return found


CurrentCaller = Annotated[Caller | None, Depends(current_caller)]


class RevocableRequest:
    """One request that ends when its caller loses access; pure ASGI, between the middleware and the router.

    When access ends, a body that is still being received and an NDJSON response that is still being sent are ended. A
    request that was received completely, with one document as its response, is answered.

    Args:
        revoked: why the caller has lost access; None while it has access.
        render_error: the response for an error.
    """

    def __init__(self, app: ASGIApp, revoked: Callable[[], ServiceError | None], render_error: RenderError) -> None:
        self._app, self._revoked, self._render_error = app, revoked, render_error
        self._is_receiving = self._received = self._started = self._is_ndjson = self._sent = False
        self._sent_lines, self._line_is_open = 0, False
        self._error: ServiceError | None = None

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None, "a request runs in a task"

        def check() -> None:
            if self._is_stream() and (error := self._revoked()):
                self._error = error
                task.cancel()
            else:
                self._timer = loop.call_later(CHECK_INTERVAL_S, check)

        self._timer = loop.call_later(CHECK_INTERVAL_S, check)
        try:
            await self._app(scope, self._receiving(receive), self._sending(send))
        except asyncio.CancelledError:
            if self._error is None or task.uncancel() > 0:
                raise
        finally:
            self._timer.cancel()
        if self._error is not None and not self._sent:
            await self._send_error(self._error, scope, receive, send)

    def _is_stream(self) -> bool:
        is_upload = self._is_receiving and not self._received
        return is_upload or (self._started and self._is_ndjson and not self._sent)

    def _receiving(self, receive: Receive) -> Receive:
        async def received() -> Message:
            self._is_receiving = True
            try:
                message = await receive()
            finally:
                self._is_receiving = False
            self._received = self._received or not message.get("more_body", False)
            return message

        return received

    def _sending(self, send: Send) -> Send:
        async def sent(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                self._started = True
                self._is_ndjson = any(
                    name == b"content-type" and _NDJSON in value for name, value in message["headers"]
                )
            elif message["type"] == "http.response.body":
                self._count_lines(message.get("body", b""))
                self._sent = not message.get("more_body", False)

        return sent

    def _count_lines(self, body: bytes) -> None:
        if self._is_ndjson and body:
            self._sent_lines += body.count(b"\n")
            self._line_is_open = not body.endswith(b"\n")

    async def _send_error(self, error: ServiceError, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Send the problem as the response, or as one more item if NDJSON lines were sent already."""
        log.warning("Stream ended after %s: %s", plural(self._sent_lines, "line"), error)
        response = await self._render_error(Request(scope, receive, send), error)
        async with asyncio.timeout(_LAST_LINE_TIMEOUT_S):
            if not self._started:
                await response(scope, receive, send)
                return
            line = b'%s{"index":%d,"problem":%s}\n'
            body = line % (b"\n" if self._line_is_open else b"", self._sent_lines, bytes(response.body))
            await send({"type": "http.response.body", "body": body, "more_body": False})
