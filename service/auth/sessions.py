"""Browser sessions: who signed in, found by a cookie.

The cookie holds 256 random bits; the table holds their SHA-256. Sessions end after MARROWLENS_SESSION_IDLE_S without a
request, after MARROWLENS_SESSION_LIFETIME_S, at sign-out, and at a restart of the service.
"""

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import Scope as ASGIScope

from service.auth.identity import Caller
from service.auth.session_store import SessionStore
from service.config.auth import SessionSettings
from service.config.urls import split_or_nothing
from service.errors import CsrfRejected

SignInMethod = Literal["issuer", "key", "name"]
COOKIE = "marrowlens-session"
#: A browser sets such a cookie only over TLS, for the whole host and for no other (RFC 6265bis, 4.1.3.2).
HOST_PREFIX = "__Host-"
CSRF_HEADER = "X-CSRF-Token"
#: A request that a page sends by itself, such as polling: it does not extend the session.
BACKGROUND_HEADER = "X-Background-Request"
#: Values of Sec-Fetch-Site for requests from a page of this service.
_OWN_SITE = "same-origin"


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """One person in one browser.

    Attributes:
        caller: as authenticated; its current rights come from `Authenticator.current`.
        csrf_token: to be sent in `X-CSRF-Token` with every request that changes something.
        started_s, used_s: Unix time of the first and of the last request.
        authenticated_s: Unix time of the last authentication; None if the issuer did not say.
    """

    caller: Caller
    method: SignInMethod
    csrf_token: str
    started_s: float
    used_s: float
    authenticated_s: float | None


class SessionTable:
    """The sessions of this service, whichever worker started them.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(
        self, settings: SessionSettings, store: SessionStore[BrowserSession], clock: Callable[[], float] = time.time
    ) -> None:
        self._idle_s, self._lifetime_s = settings.session_idle_s, settings.session_lifetime_s
        self._signing_max_age_s = settings.signing_max_age_s
        self._store = store
        self.clock = clock

    def start(
        self, caller: Caller, method: SignInMethod, authenticated_s: float | None, replaced: str | None = None
    ) -> str:
        """Start a session and return its new cookie value.

        Args:
            replaced: cookie value of the browser's current session, which ends. If the same person had it, the CSRF
                token stays, so that pages that are already open go on.
        """
        now_s = self.clock()
        before = None if replaced is None else self.find(replaced)
        if replaced is not None:
            self.end(replaced)
        is_same = before is not None and (before.caller.name, before.caller.identity) == (caller.name, caller.identity)
        csrf_token = before.csrf_token if before is not None and is_same else secrets.token_urlsafe(32)
        value = secrets.token_urlsafe(32)
        session = BrowserSession(caller, method, csrf_token, now_s, now_s, authenticated_s)
        self._store.put(_digest(value), session)
        return value

    def find(self, value: str) -> BrowserSession | None:
        """The session of a cookie value; None if there is none or it has ended."""
        session = self._store.find(_digest(value))
        if session is not None and self.clock() >= self.ends_s(session):
            self.end(value)
            return None
        return session

    def touch(self, value: str) -> None:
        """Extend a session: it was used."""
        digest = _digest(value)
        if (session := self._store.find(digest)) is not None:
            self._store.update(digest, replace(session, used_s=self.clock()))

    def end(self, value: str) -> None:
        """End a session, if there is one."""
        self._store.take(_digest(value))

    def close(self) -> None:
        """Close the store, after the last request."""
        self._store.close()

    def ends_s(self, session: BrowserSession) -> float:
        """Unix time at which the session ends if it is not used."""
        return min(session.used_s + self._idle_s, session.started_s + self._lifetime_s)

    def may_sign(self, session: BrowserSession) -> bool:
        """Whether the person authenticated recently enough to sign. A name alone was never authenticated."""
        if session.method == "name":
            return True
        return session.authenticated_s is not None and self.clock() - session.authenticated_s <= self._signing_max_age_s


def _digest(value: str) -> str:
    return sha256(value.encode()).hexdigest()


def is_secure(scope: ASGIScope, settings: SessionSettings) -> bool:
    """Whether browsers reach this service by https: as MARROWLENS_PUBLIC_URL says, else as the request came."""
    if settings.public_url is not None:
        return urlsplit(settings.public_url).scheme == "https"
    return bool(scope.get("scheme") == "https")


def cookie_value(headers: Headers, name: str, *, secure: bool) -> str | None:
    """The value of one of this service's cookies; None without it."""
    cookies = "; ".join(headers.getlist("cookie"))
    return cookie_parser(cookies).get(HOST_PREFIX + name if secure else name) if cookies else None


def set_cookie(response: Response, name: str, value: str, *, secure: bool, max_age_s: int | None = None) -> None:
    """Set a cookie that no script can read and no other site's form can send. An empty value deletes it."""
    response.set_cookie(
        HOST_PREFIX + name if secure else name,
        value,
        max_age=max_age_s if value else 0,
        path="/",
        secure=secure,
        httponly=True,
        samesite="lax",
    )


def check_origin(headers: Headers, own_origins: frozenset[str]) -> None:
    """Check that a browser's request comes from this service's own page.

    Args:
        own_origins: hosts with ports, as in `Host`.

    Raises:
        CsrfRejected: from another origin, or from one that the browser hides.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site != _OWN_SITE:
        raise CsrfRejected(f"the browser marks the request as {site[:20]}; use this service's own pages")
    if origin is not None and split_or_nothing(origin).netloc.lower() not in own_origins:
        raise CsrfRejected("Origin is not this service's; use its own pages, or set MARROWLENS_PUBLIC_URL")


def own_origins(headers: Headers, settings: SessionSettings) -> frozenset[str]:
    """Hosts with ports under which browsers reach this service."""
    public = () if settings.public_url is None else (urlsplit(settings.public_url).netloc,)
    return frozenset(each.lower() for each in (headers.get("host", ""), *public) if each)


def check_csrf(headers: Headers, session: BrowserSession, origins: frozenset[str]) -> None:
    """Check a request that changes something and is authenticated by a session's cookie.

    Raises:
        CsrfRejected: of another origin, or without the session's token.
    """
    check_origin(headers, origins)
    if not hmac.compare_digest(headers.get(CSRF_HEADER, "").encode(), session.csrf_token.encode()):
        raise CsrfRejected(f"{CSRF_HEADER} is missing or of another session; read it again from GET /session")
