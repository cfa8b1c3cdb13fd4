"""Authentication, authorization and rate limits as ASGI middleware, before a request's body is read.

A route gets the caller by the dependency `CurrentCaller`. A stream ends within seconds of its key's revocation or its
token's expiry.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as ASGIScope

from service.auth import policy
from service.auth.api_keys import KEY_PREFIX, KeyRing, KeysFileError, caller_of
from service.auth.identity import Caller, Scope
from service.auth.rate_limit import limiter_of
from service.concurrency.thread_pools import FILES
from service.concurrency.worker import Worker
from service.config.auth import AuthSettings
from service.config.urls import is_loopback
from service.errors import Forbidden, RateLimited, ServiceError, Unauthorised
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:  # loaded where an issuer is configured: cryptography takes 15 MB
    from service.auth.oidc import TokenVerifier

log = logging.getLogger(__name__)

#: Values of Sec-Fetch-Site for a request from a page of another origin.
_OTHER_SITES = frozenset({"cross-site", "same-site"})
#: Interval between two checks of an open stream's key or token.
CHECK_INTERVAL_S = 1.0
#: Time limit for the last line of a stream, in case the client has stopped reading.
_LAST_LINE_TIMEOUT_S = 5.0
_NDJSON = b"application/x-ndjson"

RenderError = Callable[[Request, Exception], Awaitable[Response]]


class Authenticator:
    """Authenticates callers by API key or token, and checks their scopes and rate limits."""

    def __init__(self, settings: AuthSettings, metrics: Metrics, worker: Worker | None = None) -> None:
        """
        Args:
            worker: the process among several, which share the rate limits; None: the only one.

        Raises:
            KeysFileError: the file of keys cannot be used.
        """
        self._settings, self._metrics = settings, metrics
        self._rate_limiter = limiter_of(worker)
        self.keys = None if settings.keys_file is None else KeyRing(settings.keys_file, _log_kept_keys)
        self._tokens = _token_verifier(settings)
        if self.keys is not None:
            metrics.keys(len(self.keys.entries), valid=True)

    async def authenticate(self, authorization: Sequence[str]) -> Caller:
        """The caller of a request, from its `Authorization` headers.

        Raises:
            Unauthorised: no credentials, or invalid ones.
            IssuerUnavailable: a token cannot be verified now.
        """
        if len(authorization) > 1:
            raise Unauthorised("Several Authorization headers; send one", invalid_token=True)
        scheme, _, credentials = "".join(authorization).partition(" ")
        credentials = credentials.strip()
        if scheme.lower() != "bearer" or not credentials:
            raise Unauthorised('No credentials; send "Authorization: Bearer" followed by an API key or a token')
        if credentials.startswith(KEY_PREFIX):
            return self._key_holder(credentials)
        if self._tokens is None:
            raise Unauthorised(
                f"Not an API key, and tokens are not accepted here; send a key ({KEY_PREFIX}…)", invalid_token=True
            )
        return await self._tokens.verify(credentials)

    def _key_holder(self, key: str) -> Caller:
        entry = None if self.keys is None else self.keys.find(key)
        if entry is None:
            raise Unauthorised("Unknown, expired or revoked API key", invalid_token=True)
        return caller_of(entry, self._settings.rate_per_s, self._settings.rate_burst)

    def authorize(self, caller: Caller, scopes: frozenset[Scope]) -> None:
        """Count the request and check that the caller has one of the scopes.

        Raises:
            RateLimited: too many requests.
            Forbidden: none of the scopes.
        """
        if wait_s := self._rate_limiter.take(caller.identity.account, caller.rate_per_s, caller.burst):
            raise RateLimited(wait_s)
        if not scopes & caller.scopes:
            raise Forbidden(f"Missing scope; required: {' or '.join(sorted(scopes))}", scopes=tuple(sorted(scopes)))

    def revoked(self, caller: Caller, scopes: frozenset[Scope]) -> ServiceError | None:
        """Why an authorized caller has lost access since; None while it has access."""
        if caller.ends_at_s is not None and time.time() >= caller.ends_at_s:
            return Unauthorised("The API key or token expired during the request", invalid_token=True)
        if caller.identity.kind != "key" or self.keys is None:
            return None
        entry = self.keys.entry(caller.identity)
        if entry is None:
            return Unauthorised("The API key was revoked during the request", invalid_token=True)
        if not scopes & entry.scopes:
            return Forbidden("The API key lost its scope during the request", scopes=tuple(sorted(scopes)))
        return None

    async def refresh(self) -> None:
        """Read the file of keys again if it has changed, in a thread: the disk may block."""
        if self.keys is not None:
            await FILES.run(self.keys.refresh)
            self._metrics.keys(len(self.keys.entries), valid=self.keys.valid)


def _log_kept_keys(error: KeysFileError) -> None:
    log.error("File of API keys rejected, keeping the current keys: %s", error)


def _token_verifier(settings: AuthSettings) -> "TokenVerifier | None":
    if settings.oidc_issuer is None:
        return None
    from service.auth.oidc import IssuerKeys, TokenVerifier

    return TokenVerifier(settings, IssuerKeys(settings))


class AuthMiddleware:
    """Refuses requests that are not allowed; pure ASGI, around the router.

    Args:
        authenticator: None where authentication is off.
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
        loopback_only: bool,
        metrics_open: bool,
        routes: Sequence[BaseRoute],
        render_error: RenderError,
    ) -> None:
        self.app = app
        self._authenticator, self._routes, self._render_error = authenticator, routes, render_error
        self._loopback_only, self._metrics_open = loopback_only, metrics_open

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        required = policy.required_scopes(scope["path"], metrics_open=self._metrics_open)
        if required is None:
            await self.app(scope, receive, send)
            return
        headers, app, authenticator = Headers(scope=scope), self.app, self._authenticator
        try:
            self._check_origin(scope["method"], headers)
            if authenticator is not None:
                caller = await authenticator.authenticate(headers.getlist("authorization"))
                scope.setdefault("state", {})["caller"] = caller
                authenticator.authorize(caller, required)
                app = RevocableRequest(self.app, partial(authenticator.revoked, caller, required), self._render_error)
        except ServiceError as error:
            self._set_route(scope)
            response = await self._render_error(Request(scope, receive, send), error)
            await response(scope, receive, send)
            return
        await app(scope, receive, send)

    def _set_route(self, scope: ASGIScope) -> None:
        """Set the route of a refused request, for metrics and logs."""
        found = (route for route in self._routes if route.matches(scope)[0] is not Match.NONE)
        if route := next(found, None):
            scope["route"] = route

    def _check_origin(self, method: str, headers: Headers) -> None:
        if method not in ("GET", "HEAD") and headers.get("sec-fetch-site") in _OTHER_SITES:
            raise Forbidden("Cross-site request: pages of other sites may only read (Sec-Fetch-Site)")
        host = headers.get("host")  # every browser sends it
        if self._loopback_only and host is not None and not is_loopback(_host_name(host)):
            raise Forbidden(
                "Authentication is off: only requests to localhost are accepted. Set MARROWLENS_KEYS_FILE or "
                "MARROWLENS_OIDC_ISSUER, or MARROWLENS_ALLOW_ANONYMOUS=true."
            )


def _host_name(host: str) -> str:
    return host.lower() if host.endswith("]") else host.lower().rpartition(":")[0] or host.lower()


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
        log.warning("Stream ended after %d lines: %s", self._sent_lines, error)
        response = await self._render_error(Request(scope, receive, send), error)
        async with asyncio.timeout(_LAST_LINE_TIMEOUT_S):
            if not self._started:
                await response(scope, receive, send)
                return
            line = b'%s{"index":%d,"problem":%s}\n'
            body = line % (b"\n" if self._line_is_open else b"", self._sent_lines, bytes(response.body))
            await send({"type": "http.response.body", "body": body, "more_body": False})
