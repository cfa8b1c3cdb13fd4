"""Sign-in at the OpenID Connect issuer: the authorization code flow with PKCE, state and nonce.

Authlib (BSD) builds requests and PKCE; ID tokens are verified as bearer tokens are (`service.auth.oidc`).
Sources: OpenID Connect Core 1.0, RFC 7636, RFC 9207, RFC 9700.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any
from urllib.parse import urlencode

import httpx
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from service.auth.identity import Caller
from service.auth.oidc import TIMEOUT_S, IssuerError, TokenVerifier, discover, get_json, issuer_ssl_context
from service.auth.session_store import SessionStore
from service.config.auth import AuthSettings
from service.config.urls import key_source_fault
from service.errors import IssuerUnavailable, SignInFailed, Unauthorised

log = logging.getLogger(__name__)

#: Seconds within which a person signs in at the issuer.
MAX_WAIT_S = 600.0
#: Seconds until the issuer's endpoints are read again.
_METADATA_AGE_S = 3600.0
CALLBACK_PATH = "/sign-in/callback"


@dataclass(frozen=True, slots=True)
class Pending:
    """A sign-in in progress: what the issuer's answer must match."""

    browser: str
    nonce: str
    code_verifier: str
    next_path: str
    is_again: bool
    ends_s: float


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A completed sign-in. `authenticated_s` is the issuer's `auth_time`, if it states one."""

    caller: Caller
    authenticated_s: float | None
    next_path: str


class CodeFlow:
    """Sign-ins at the issuer. Any worker completes what another one began.

    Args:
        tokens: verifies ID tokens.
        store: the sign-ins in progress.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        settings: AuthSettings,
        tokens: TokenVerifier,
        store: SessionStore[Pending],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._tokens, self._store, self._clock = settings, tokens, store, clock
        self._client_id = str(settings.oidc_client_id)
        secret = settings.oidc_client_secret
        self._secret = None if secret is None else secret.get_secret_value()
        self._redirect_uri = str(settings.public_url).rstrip("/") + CALLBACK_PATH
        self._ssl_context = issuer_ssl_context(settings.oidc_ca)
        self._metadata: dict[str, Any] = {}
        self._read_s = -_METADATA_AGE_S

    async def begin(self, browser: str, next_path: str, *, is_again: bool) -> str:
        """The issuer's address where the browser signs in.

        Args:
            browser: the random value of a cookie, which the callback's browser must have too.
            is_again: ask for the credentials again, although the issuer knows the browser.

        Raises:
            IssuerUnavailable: the issuer does not answer.
        """
        endpoint = await self._endpoint("authorization_endpoint")
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(64)
        pending = Pending(
            _digest(browser), secrets.token_urlsafe(32), verifier, next_path, is_again, self._clock() + MAX_WAIT_S
        )
        self._store.put(_digest(state), pending)
        again = {"prompt": "login", "max_age": "0"} if is_again else {}
        address: str = prepare_grant_uri(
            endpoint,
            client_id=self._client_id,
            response_type="code",
            redirect_uri=self._redirect_uri,
            scope=self._settings.oidc_client_scope,
            state=state,
            nonce=pending.nonce,
            code_challenge=create_s256_code_challenge(verifier),
            code_challenge_method="S256",
            **again,
        )
        return address

    async def finish(self, answer: Mapping[str, str], browser: str | None) -> SignedIn:
        """The person whom the issuer's answer names. Each answer is used once.

        Args:
            answer: the query of the callback.
            browser: as given to `begin`; None if the browser has no such cookie.

        Raises:
            SignInFailed: not the answer to a sign-in of this browser, or the issuer refuses it.
            IssuerUnavailable: the issuer does not answer.
        """
        pending = self._store.take(_digest(answer.get("state", "")))
        if pending is None or self._clock() >= pending.ends_s:
            raise SignInFailed("this sign-in is unknown, too old or already completed; sign in again")
        if browser is None or not secrets.compare_digest(_digest(browser), pending.browser):
            raise SignInFailed("this sign-in was begun in another browser; sign in again here")
        if answer.get("iss", self._settings.oidc_issuer) != self._settings.oidc_issuer:
            raise SignInFailed("the answer comes from another issuer; sign in again")
        if "code" not in answer:
            refused = answer.get("error") == "access_denied"
            raise SignInFailed(
                "the issuer refused the sign-in; ask who maintains it"
                if refused
                else "the issuer could not sign you in; sign in again"
            )
        claims = await self._id_claims(answer["code"], pending)
        authenticated_s = _auth_time(claims)
        if pending.is_again:
            self._check_is_recent(authenticated_s)
        person = replace(self._tokens.caller(claims), ends_at_s=None)  # the session's own limits hold from here
        return SignedIn(person, authenticated_s, pending.next_path)

    async def sign_out_address(self) -> str | None:
        """The issuer's address that ends its own session too; None if it publishes none or does not answer."""
        try:
            endpoint = await self._endpoint("end_session_endpoint")
        except IssuerUnavailable:
            return None
        back = f"{str(self._settings.public_url).rstrip('/')}/"
        query = urlencode({"client_id": self._client_id, "post_logout_redirect_uri": back})
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"

    def close(self) -> None:
        """Close the store, after the last request."""
        self._store.close()

    async def _id_claims(self, code: str, pending: Pending) -> dict[str, Any]:
        endpoint = await self._endpoint("token_endpoint")
        form = prepare_token_request(
            "authorization_code",
            code=code,
            redirect_uri=self._redirect_uri,
            code_verifier=pending.code_verifier,
        )
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        auth = ClientAuth(self._client_id, self._secret, self._client_authentication())
        _, headers, form = auth.prepare("POST", endpoint, headers, form)
        try:
            token = (await self._ask(endpoint, form=form, headers=headers)).get("id_token")
            if not isinstance(token, str):
                raise IssuerError("its answer has no id_token")
            claims = await self._tokens.verified_claims(token, self._client_id)
        except (IssuerError, Unauthorised) as error:
            log.warning("Sign-in failed: the issuer's token endpoint: %s", error)
            raise SignInFailed("the issuer's answer was not accepted; sign in again") from None
        if not secrets.compare_digest(str(claims.get("nonce", "")).encode(), pending.nonce.encode()):
            raise SignInFailed("the ID token belongs to another sign-in (nonce); sign in again")
        if claims.get("azp", self._client_id) != self._client_id:
            raise SignInFailed("the ID token was issued to another client (azp); sign in again")
        return claims

    def _check_is_recent(self, authenticated_s: float | None) -> None:
        if authenticated_s is None:
            raise SignInFailed("the issuer does not state when you authenticated; add the claim auth_time there")
        if self._clock() - authenticated_s > self._settings.signing_max_age_s + self._settings.oidc_leeway_s:
            raise SignInFailed("the issuer did not ask for your credentials again; sign out there, then sign in again")

    def _client_authentication(self) -> str:
        if self._secret is None:
            return "none"
        offered = self._metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        return "client_secret_basic" if "client_secret_basic" in offered else "client_secret_post"

    async def _endpoint(self, name: str) -> str:
        """One of the issuer's endpoints.

        Raises:
            IssuerUnavailable: the issuer does not answer, or publishes no such endpoint.
        """
        if self._clock() - self._read_s >= _METADATA_AGE_S:
            try:
                self._metadata = await self._ask(None)
            except IssuerError as error:
                log.error("Sign-in by browser is not possible: the issuer's discovery: %s", error)
                raise IssuerUnavailable(1.0) from None
            self._read_s = self._clock()
        endpoint = self._metadata.get(name)
        if not isinstance(endpoint, str) or key_source_fault(endpoint):
            raise IssuerUnavailable(_METADATA_AGE_S)
        return endpoint

    async def _ask(self, url: str | None, **sent: Any) -> dict[str, Any]:
        """An answer of the issuer, limited in bytes and time; without a URL its discovery document."""
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                httpx.AsyncClient(verify=self._ssl_context, timeout=TIMEOUT_S, follow_redirects=False) as http,
            ):
                if url is None:
                    return await discover(http, str(self._settings.oidc_issuer))
                return await get_json(http, url, **sent)
        except (httpx.HTTPError, TimeoutError) as error:
            raise IssuerError(f"no complete answer ({type(error).__name__})") from None


def _auth_time(claims: Mapping[str, Any]) -> float | None:
    stated = claims.get("auth_time")
    return float(stated) if isinstance(stated, int | float) and not isinstance(stated, bool) else None


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
