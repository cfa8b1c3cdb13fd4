"""Sign-in by browser: at the issuer, with an API key, or by a name that nobody verifies; and requests by session."""

from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import Scope as ASGIScope

from service.auth.api_keys import KEY_PREFIX
from service.auth.authenticator import Authenticator, named
from service.auth.identity import SCOPES, Caller, Identity, InvalidName, checked_name
from service.auth.rate_limit import limiter_of
from service.auth.session_store import store_of
from service.auth.sessions import (
    BACKGROUND_HEADER,
    COOKIE,
    BrowserSession,
    SessionTable,
    SignInMethod,
    check_csrf,
    cookie_value,
    is_secure,
    own_origins,
)
from service.concurrency.worker import Worker
from service.config.auth import ROLES
from service.config.settings import Settings
from service.config.urls import host_name, is_loopback
from service.errors import Forbidden, RateLimited, SignInFailed, Unauthorised

if TYPE_CHECKING:  # loaded where an issuer is configured: Authlib and cryptography take 20 MB
    from service.auth.code_flow import CodeFlow

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: Attempts to sign in with a key, for each client address: after a burst, one in five seconds.
_ATTEMPTS_PER_S, _ATTEMPTS_BURST = 0.2, 10


class SignIn:
    """The ways to sign in that the settings offer, and the sessions.

    Args:
        worker: the process among several, which share sessions and limits; None: the only one.
    """

    def __init__(self, settings: Settings, authenticator: Authenticator | None, worker: Worker | None = None) -> None:
        self.settings, self._authenticator = settings, authenticator
        self.table = SessionTable(settings, store_of(worker, "sessions", BrowserSession))
        self.code_flow = _code_flow(settings, authenticator, worker)
        self._attempts = limiter_of(worker)

    def close(self) -> None:
        """Close the stores, after the last request."""
        self.table.close()
        if self.code_flow is not None:
            self.code_flow.close()

    @property
    def methods(self) -> tuple[SignInMethod, ...]:
        """The ways to sign in, the preferred one first."""
        if self._authenticator is None:
            return ("name",)
        by_issuer: tuple[SignInMethod, ...] = () if self.code_flow is None else ("issuer",)
        return by_issuer if self._authenticator.keys is None else (*by_issuer, "key")

    @property
    def signing_max_age_s(self) -> float:
        return self.settings.signing_max_age_s

    def cookie(self, scope: ASGIScope, headers: Headers) -> str | None:
        """The session's cookie; None without it, or beside a key or token, which counts instead."""
        if "authorization" in headers:
            return None
        return cookie_value(headers, COOKIE, secure=is_secure(scope, self.settings))

    def find(self, cookie: str) -> BrowserSession | None:
        """The session of a cookie, with the person's current rights; None if it has ended or its key was revoked."""
        session = self.table.find(cookie)
        if session is None or self._authenticator is None:
            return session
        caller = self._authenticator.renewed(session.caller)
        if caller is None:
            self.table.end(cookie)
            return None
        return replace(session, caller=self._authenticator.roles.assign(caller))

    def admit(self, method: str, headers: Headers, cookie: str) -> BrowserSession | None:
        """The session of a request, which extends it; None if it has ended.

        Raises:
            CsrfRejected: the request changes something, and does not come from this service's page.
        """
        session = self.find(cookie)
        if session is None:
            return None
        if method not in _SAFE_METHODS:
            check_csrf(headers, session, own_origins(headers, self.settings))
        if BACKGROUND_HEADER not in headers:
            self.table.touch(cookie)
        return session

    def check_transport(self, scope: ASGIScope, headers: Headers) -> None:
        """Check that a key or cookie would not travel unencrypted.

        Raises:
            Forbidden: plain http from another machine.
        """
        is_safe = is_secure(scope, self.settings) or is_loopback(host_name(headers.get("host", "")))
        if self._authenticator is not None and not is_safe:
            raise Forbidden(
                "sign-in needs https: set MARROWLENS_TLS_CERT, or MARROWLENS_PUBLIC_URL to the proxy's https address"
            )

    def holder_of_key(self, key: str, name: str, address: str) -> Caller:
        """The person who signs in with an API key.

        Args:
            name: needed for a key that acts for others, else ignored.
            address: of the client, whose attempts are limited.

        Raises:
            RateLimited: too many attempts from this address.
            Unauthorised: an unknown, expired or revoked key.
            SignInFailed: the key acts for others and the name is missing or invalid.
        """
        if wait_s := self._attempts.take(f"sign-in:{address}", _ATTEMPTS_PER_S, _ATTEMPTS_BURST):
            raise RateLimited(wait_s, "number of sign-in attempts from your address")
        if self._authenticator is None or not key.startswith(KEY_PREFIX):
            raise Unauthorised("Unknown, expired or revoked API key", invalid_token=True)
        holder = self._authenticator.key_holder(key)
        return named(holder, _valid_name(name)) if holder.acts_for_others else holder

    def unverified(self, name: str) -> Caller:
        """The person who gives this name while authentication is off.

        Raises:
            SignInFailed: authentication is on, or the name is invalid.
        """
        if self._authenticator is not None:
            raise SignInFailed("a name alone is not accepted here; sign in at the issuer or with a key")
        return Caller(_valid_name(name), Identity(kind="claimed"), frozenset(SCOPES), frozenset(ROLES), person=True)


def _valid_name(name: str) -> str:
    try:
        return checked_name(name.strip(), "your name")
    except InvalidName as error:
        raise SignInFailed(str(error)) from None


def _code_flow(settings: Settings, authenticator: Authenticator | None, worker: Worker | None) -> "CodeFlow | None":
    if settings.oidc_client_id is None or authenticator is None or authenticator.tokens is None:
        return None
    from service.auth.code_flow import CodeFlow, Pending

    return CodeFlow(settings, authenticator.tokens, store_of(worker, "sign_ins", Pending))
