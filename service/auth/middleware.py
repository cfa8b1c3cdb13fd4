"""The door: who calls is asked before anything of a request is read, and what he may do before a route sees it.

Pure ASGI. Knows keys, tokens and the policy. Does not know what routes do; a route finds the caller by `caller`.
"""

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
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from service.auth import policy
from service.auth.api_keys import KEY_PREFIX, KeyRing, KeysRefused, caller_of
from service.auth.callers import Caller, Scope
from service.auth.open_streams import OpenStream
from service.auth.rate_limit import Buckets
from service.concurrency.thread_pools import FILES
from service.config.auth import AuthSettings
from service.config.urls import is_loopback
from service.errors import Forbidden, RateLimited, ServiceError, Unauthorised
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:  # cryptography takes 15 MB: loaded where tokens are taken
    from service.auth.oidc import Tokens

log = logging.getLogger(__name__)

#: What a browser says of a request that a page of somebody else's makes (Fetch Metadata).
_OTHER_SITES = frozenset({"cross-site", "same-site"})


class Doors:
    """Asks who a caller is, how often he came, and whether he may."""

    def __init__(self, settings: AuthSettings, metrics: Metrics) -> None:
        """
        Raises:
            KeysRefused: the file of keys cannot be used.
        """
        self._settings, self._metrics = settings, metrics
        self._buckets = Buckets()
        self.keys = None if settings.keys_file is None else KeyRing(settings.keys_file, self._keys_stay)
        self._tokens = _tokens(settings)
        if self.keys is not None:
            metrics.keys(len(self.keys.entries), valid=True)

    def admit(self, caller: Caller, scopes: frozenset[Scope]) -> None:
        """Return when this caller holds one of the scopes and does not come too often.

        Raises:
            RateLimited, Forbidden: and why.
        """
        if wait_s := self._buckets.take(caller.identity.account, caller.rate_per_s, caller.burst):
            raise RateLimited(wait_s)
        if not scopes & caller.scopes:
            raise Forbidden(f"this takes the scope {' or '.join(sorted(scopes))}", scopes=tuple(sorted(scopes)))

    def ended(self, caller: Caller, scopes: frozenset[Scope]) -> ServiceError | None:
        """Why a caller who was admitted may not be here any more; None while it may."""
        if caller.ends_at_s is not None and time.time() >= caller.ends_at_s:
            return Unauthorised("the key or token has expired meanwhile", invalid_token=True)
        if caller.identity.kind != "key" or self.keys is None:
            return None
        entry = self.keys.entry(caller.identity)
        if entry is None:
            return Unauthorised("the key was revoked meanwhile", invalid_token=True)
        if not scopes & entry.scopes:
            return Forbidden("the key has lost its scope meanwhile", scopes=tuple(sorted(scopes)))
        return None

    async def who(self, authorization: Sequence[str]) -> Caller:
        """Who shows this key or token: the one `Authorization` header of a request.

        Raises:
            Unauthorised: nobody who is known.
            IssuerUnavailable: a token cannot be checked now.
        """
        if len(authorization) > 1:
            raise Unauthorised("two Authorization headers: send one", invalid_token=True)
        kind, _, word = "".join(authorization).partition(" ")
        word = word.strip()
        if kind.lower() != "bearer" or not word:
            raise Unauthorised("say who you are: Authorization: Bearer, and a key or a token")
        if word.startswith(KEY_PREFIX):
            return self._holder(word)
        if self._tokens is None:
            raise Unauthorised("that is no key, and tokens are not taken here", invalid_token=True)
        return await self._tokens.find(word)

    def _holder(self, key: str) -> Caller:
        if self.keys is not None:
            entry = self.keys.find(key)
            if entry is not None:
                return caller_of(entry, self._settings.rate_per_s, self._settings.rate_burst)
        raise Unauthorised("that key opens nothing here, or not any more", invalid_token=True)

    async def refresh(self) -> None:
        """Read the file of keys anew where it has changed: in a thread, for its disk may not answer."""
        if self.keys is not None:
            await FILES.run(self.keys.refresh)
            self._metrics.keys(len(self.keys.entries), valid=self.keys.valid)

    def _keys_stay(self, error: KeysRefused) -> None:
        log.error("the keys stay as they were: %s", error)


class Guard:
    """Around the routing.

    Args:
        doors: who may come in; None lets everybody in.
        loopback_only: take requests alone that were sent to this machine by a name of its own: a page of somebody
            else's, whose name is made to lead here, is none.
        metrics_open: whether anybody may read the metrics.
        routes: by whose templates refused requests are told.
        refuse: the answer to an error.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        doors: Doors | None,
        loopback_only: bool,
        metrics_open: bool,
        routes: Sequence[BaseRoute],
        refuse: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self.app = app
        self._doors, self._routes, self._refuse = doors, routes, refuse
        self._loopback_only, self._metrics_open = loopback_only, metrics_open

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scopes = policy.wanted(scope["path"], metrics_open=self._metrics_open)
        if scopes is None:
            await self.app(scope, receive, send)
            return
        headers, app = Headers(scope=scope), self.app
        try:
            self._from_here(scope["method"], headers)
            if self._doors is not None:
                found = await self._doors.who(headers.getlist("authorization"))
                scope.setdefault("state", {})["caller"] = found
                self._doors.admit(found, scopes)
                app = OpenStream(self.app, partial(self._doors.ended, found, scopes), self._refuse)
        except ServiceError as error:
            self._find_route(scope)
            response = await self._refuse(Request(scope, receive, send), error)
            await response(scope, receive, send)
            return
        await app(scope, receive, send)

    def _find_route(self, scope: ASGIScope) -> None:
        """Of a request that no route will see, which one it was for: the metrics and the log say it."""
        found = (route for route in self._routes if route.matches(scope)[0] is not Match.NONE)
        if route := next(found, None):
            scope["route"] = route

    def _from_here(self, method: str, headers: Headers) -> None:
        if method not in ("GET", "HEAD") and headers.get("sec-fetch-site") in _OTHER_SITES:
            raise Forbidden("a page of another site may not send this")
        host = headers.get("host")  # every browser sends it
        if self._loopback_only and host is not None and not is_loopback(_name_of(host)):
            raise Forbidden(
                "nobody is asked who he is here, so that only this machine is answered, by its name localhost; set "
                "MARROWLENS_KEYS_FILE or MARROWLENS_OIDC_ISSUER, or MARROWLENS_ALLOW_ANONYMOUS=true"
            )


async def caller(request: Request) -> Caller | None:
    """Who sends this request; None where nobody is asked."""
    found: Caller | None = request.scope["state"].get("caller")
    return found


TheCaller = Annotated[Caller | None, Depends(caller)]


def _name_of(host: str) -> str:
    return host.lower() if host.endswith("]") else host.lower().rpartition(":")[0] or host.lower()


def _tokens(settings: AuthSettings) -> "Tokens | None":
    if settings.oidc_issuer is None:
        return None
    from service.auth.issuer import IssuerKeys
    from service.auth.oidc import Tokens

    return Tokens(settings, IssuerKeys(settings))
