"""Bearer tokens of an OpenID Connect issuer: verification of signed JWTs, and the issuer's public keys.

Tokens are verified by PyJWT (MIT) after RFC 7519 and RFC 8725, with asymmetric algorithms only: `alg: none` and shared
secrets are refused. The keys (RFC 7517) are found by OpenID Connect Discovery, cached, and refreshed by one request at
a time. Answers of the issuer are limited in bytes and time, and unknown key ids cannot raise the request rate.

Imported only where an issuer is configured: cryptography takes 15 MB.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.types import Options

from model.plural import plural
from model.regular_file import check_regular_file
from service.auth.identity import MAX_NAME, MAX_SUBJECT, SCOPES, Caller, Identity, InvalidName, checked_name
from service.auth.roles import claimed_roles
from service.config.auth import AuthSettings
from service.config.settings import SettingsError
from service.config.urls import key_source_fault
from service.errors import IssuerUnavailable, Unauthorised

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

#: Shortest interval between two requests to the issuer because of unknown key ids.
MIN_REFRESH_INTERVAL_S = 60.0
#: Wait before the first retry while no usable keys are cached; doubles up to MIN_REFRESH_INTERVAL_S.
FIRST_RETRY_S = 1.0
#: How long cached keys stay in use while the issuer does not answer.
MAX_STALE_S = 24 * 3600.0
#: Timeout of discovery and key set together, from connecting to the last byte.
TIMEOUT_S = 5.0
MAX_BYTES = 512 * 1024
_DISCOVERY = "/.well-known/openid-configuration"

#: Asymmetric key types; `oct` is a shared secret.
_KEY_TYPES = ("RSA", "EC", "OKP")
#: Size of an RSA modulus: RFC 7518, 3.3 and 3.5. Larger keys take milliseconds for one signature.
_MIN_BITS, _MAX_BITS = 2048, 8192
#: Size of an RSA exponent: the longest that Windows accepts. Verification takes time in proportion.
_MAX_EXPONENT_BITS = 32
_MAX_KEYS = 100


class IssuerError(Exception):
    """The issuer's answer cannot be used. The message quotes nothing of it."""


class TokenVerifier:
    """Verifies tokens of the configured issuer."""

    def __init__(self, settings: AuthSettings, keys: "IssuerKeys") -> None:
        self._settings, self._keys = settings, keys

    async def verify(self, token: str) -> Caller:
        """The caller that a token names.

        Raises:
            Unauthorised: not a JWT, expired, of another issuer or audience, or the signature is invalid.
            IssuerUnavailable: the issuer's keys cannot be fetched.
        """
        return self.caller(await self.verified_claims(token, str(self._settings.oidc_audience)))

    async def verified_claims(self, token: str, audience: str) -> dict[str, Any]:
        """The claims of a token for this audience. Raises as `verify`."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise _invalid("neither an API key nor a JWT") from None
        if header.get("alg") not in ALGORITHMS:
            raise _invalid(f"signature algorithm not accepted; use one of {', '.join(ALGORITHMS)}")
        key = await self._keys.find(str(header.get("kid", "")))
        if key is None:
            raise _invalid("the issuer has no signing key with its kid")
        return self._claims(token, key, audience)

    def _claims(self, token: str, key: jwt.PyJWK, audience: str) -> dict[str, Any]:
        options: Options = {"require": ["exp", "iss", "aud", "sub"]}
        try:
            return jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=audience,
                issuer=self._settings.oidc_issuer,
                leeway=self._settings.oidc_leeway_s,
                options=options,
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorised("Token expired", invalid_token=True) from None
        except jwt.InvalidAudienceError:
            raise _invalid("wrong audience (aud)") from None
        except jwt.PyJWTError:
            raise Unauthorised("Invalid token", invalid_token=True) from None

    def caller(self, claims: Mapping[str, Any]) -> Caller:
        """The caller that verified claims name, with the roles that they give."""
        settings = self._settings
        subject = _name(claims["sub"], "sub", MAX_SUBJECT)
        person = claims.get(settings.oidc_name_claim)
        claim = "sub" if person in (None, "") else settings.oidc_name_claim
        listed = claims.get(settings.oidc_scope_claim, ())
        granted = listed.split() if isinstance(listed, str) else listed if isinstance(listed, list) else ()
        return Caller(
            name=_name(claims[claim], claim),
            identity=Identity(kind="token", issuer=settings.oidc_issuer, subject=subject),
            scopes=frozenset(scope for scope in SCOPES if settings.oidc_scope_prefix + scope in granted),
            roles=claimed_roles(settings, claims),
            person=person not in (None, ""),
            ends_at_s=float(claims["exp"]) + settings.oidc_leeway_s,
            rate_per_s=settings.rate_per_s,
            burst=settings.rate_burst,
        )


def _invalid(reason: str) -> Unauthorised:
    return Unauthorised(f"Invalid token: {reason}", invalid_token=True)


def _name(value: object, claim: str, limit: int = MAX_NAME) -> str:
    if not isinstance(value, str):
        raise _invalid(f"claim {claim} is not a string")
    try:
        return checked_name(value, f"claim {claim}", limit)
    except InvalidName as error:
        raise _invalid(f"{error}; change it at the issuer") from None


class IssuerKeys:
    """The issuer's signing keys by key id, cached for MARROWLENS_OIDC_JWKS_MAX_AGE_S."""

    def __init__(self, settings: AuthSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Raises:
            SettingsError: MARROWLENS_OIDC_CA cannot be used.
        """
        self._issuer, self._url = str(settings.oidc_issuer), settings.oidc_jwks_url
        self._ssl_context = issuer_ssl_context(settings.oidc_ca)
        self._max_age_s, self._clock = settings.oidc_jwks_max_age_s, clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_s = self._requested_s = -float("inf")
        self._failures = 0
        self._refreshing: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key, or None if the issuer has none with this id.

        A cached key is returned at once and refreshed in the background. An unknown one is waited for, `TIMEOUT_S` at
        most, by one request for all callers.

        Raises:
            IssuerUnavailable: the issuer does not answer, and no usable keys are cached.
        """
        is_cached = key_id in self._keys and self._usable()
        if self._needs_refresh(key_id) and (refreshing := self._refresh()) and not is_cached:
            await asyncio.shield(refreshing)  # a caller that is cancelled ends only its own wait
        if not self._usable():
            raise IssuerUnavailable(max(0.0, self._requested_s + self._interval_s() - self._clock()))
        return self._keys.get(key_id)

    def _needs_refresh(self, key_id: str) -> bool:
        return key_id not in self._keys or self._age_s() > self._max_age_s

    def _age_s(self) -> float:
        return self._clock() - self._fetched_s

    def _usable(self) -> bool:
        return self._age_s() <= max(MAX_STALE_S, self._max_age_s)

    def _interval_s(self) -> float:
        """Shortest time between the last request to the issuer and the next."""
        if self._failures and not self._usable():
            return float(min(FIRST_RETRY_S * 2 ** min(self._failures - 1, 10), MIN_REFRESH_INTERVAL_S))
        return (
            min(MIN_REFRESH_INTERVAL_S, self._max_age_s) if self._age_s() > self._max_age_s else MIN_REFRESH_INTERVAL_S
        )

    def _refresh(self) -> asyncio.Task[None] | None:
        """The request for keys that is in progress, or a new one; None if the last one was too recent."""
        if self._refreshing is None and self._clock() - self._requested_s >= self._interval_s():
            self._requested_s = self._clock()
            self._refreshing = asyncio.create_task(self._fetch())
        return self._refreshing

    async def _fetch(self) -> None:
        try:
            keys = await self._fetched_keys()
        except Exception as error:  # the issuer's answer must not end a request
            self._failures += 1
            if self._failures == 1:
                cause = error if isinstance(error, IssuerError) else type(error).__name__
                log.error("Cannot fetch the issuer's keys: %s; retrying (further failures are not logged)", cause)
        else:
            if self._failures:
                log.warning("Fetched the issuer's keys again after %s", plural(self._failures, "failure"))
            self._keys, self._fetched_s, self._failures = keys, self._clock(), 0
        finally:
            self._refreshing = None

    async def _fetched_keys(self) -> dict[str, jwt.PyJWK]:
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                httpx.AsyncClient(verify=self._ssl_context, timeout=TIMEOUT_S, follow_redirects=False) as http,
            ):
                return signing_keys(await get_json(http, self._url or await self._discovered_url(http)))
        except TimeoutError:
            raise IssuerError(f"no complete answer within {TIMEOUT_S:g} s") from None

    async def _discovered_url(self, http: httpx.AsyncClient) -> str:
        document = await discover(http, self._issuer)
        url = document.get("jwks_uri")
        if not isinstance(url, str):
            raise IssuerError("its discovery document has no jwks_uri")
        if fault := key_source_fault(url):
            raise IssuerError(f"the jwks_uri of its discovery document {fault}")
        return url


def issuer_ssl_context(authority: Path | None) -> ssl.SSLContext:
    """The context that verifies the issuer's certificate, by MARROWLENS_OIDC_CA or the system's authorities.

    Raises:
        SettingsError: the file cannot be used.
    """
    try:
        if authority is not None:
            check_regular_file(authority)  # OpenSSL would block on a FIFO
        return ssl.create_default_context(cafile=authority)
    except OSError as error:  # SSLError is one
        why = "not a PEM file of certificate authorities" if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError(f"MARROWLENS_OIDC_CA: {authority}: {why}") from None


async def discover(http: httpx.AsyncClient, issuer: str) -> dict[str, Any]:
    """The issuer's discovery document.

    Raises:
        IssuerError: it cannot be used, or names another issuer.
    """
    document = await get_json(http, issuer.rstrip("/") + _DISCOVERY)
    if document.get("issuer") != issuer:  # OpenID Connect Discovery 1.0, 4.3
        raise IssuerError("its discovery document names another issuer")
    return document


async def get_json(
    http: httpx.AsyncClient, url: str, *, form: str | None = None, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A JSON object of at most `MAX_BYTES`. Compressed answers are refused: they could expand to any size.

    Args:
        form: sent by POST in place of GET.

    Raises:
        IssuerError: another status than 200, or not a JSON object.
    """
    body, sent = bytearray(), {"Accept": "application/json", "Accept-Encoding": "identity", **(headers or {})}
    async with http.stream("GET" if form is None else "POST", url, content=form, headers=sent) as answer:
        if answer.status_code != httpx.codes.OK:
            raise IssuerError(f"HTTP {answer.status_code}")
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise IssuerError("a compressed answer, although Accept-Encoding is identity")
        async for chunk in answer.aiter_raw():
            body += chunk
            if len(body) > MAX_BYTES:
                raise IssuerError(f"an answer of more than {MAX_BYTES} bytes")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise IssuerError("an answer that is not JSON") from None
    if not isinstance(document, dict):
        raise IssuerError("an answer that is not a JSON object")
    return document


def signing_keys(document: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """The keys of a JSON Web Key Set that may sign tokens, by id; all others are skipped.

    An id with two different keys is left out.

    Raises:
        IssuerError: the document is not a key set.
    """
    members = document.get("keys")
    if not isinstance(members, list):
        raise IssuerError("its key set has no list of keys")
    found: dict[str, jwt.PyJWK] = {}
    ambiguous: set[str] = set()
    for member in members[:_MAX_KEYS]:
        key = _signing_key(member)
        if key is None:
            continue
        key_id = member.get("kid", "")
        if key_id in found and found[key_id].key != key.key:
            ambiguous.add(key_id)
        found[key_id] = key
    return {key_id: key for key_id, key in found.items() if key_id not in ambiguous}


def _signing_key(member: object) -> jwt.PyJWK | None:
    if not isinstance(member, dict) or not isinstance(member.get("kid", ""), str):
        return None
    if member.get("kty") not in _KEY_TYPES or not _is_for_verifying(member):
        return None
    if "d" in member:  # the private key is published: anyone can sign with it
        return None
    try:
        key = jwt.PyJWK(member)
    except (jwt.PyJWTError, ValueError, TypeError):  # the last two for values that PyJWT does not check
        return None
    return key if _is_strong(key.key) else None


def _is_for_verifying(member: Mapping[str, Any]) -> bool:
    operations = member.get("key_ops", ["verify"])
    is_for_signatures = isinstance(operations, list) and "verify" in operations and member.get("use", "sig") == "sig"
    return is_for_signatures and member.get("alg", ALGORITHMS[0]) in ALGORITHMS


def _is_strong(key: object) -> bool:
    if not isinstance(key, RSAPublicKey):
        return True
    return _MIN_BITS <= key.key_size <= _MAX_BITS and key.public_numbers().e.bit_length() <= _MAX_EXPONENT_BITS
