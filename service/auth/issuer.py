"""An issuer's public keys (RFC 7517): found by OpenID Connect Discovery, cached, refreshed by one request at a time.

The issuer is another machine: its answers are bounded in bytes and in time, and requests that nobody has verified do
not decide how often it is asked.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import orjson

from model.regular_file import check_regular_file
from service.auth.jwks import NotKeys, signing_keys
from service.config.auth import AuthSettings
from service.config.settings import SettingsError
from service.config.urls import key_source_fault
from service.errors import IssuerUnavailable

log = logging.getLogger(__name__)

#: A token of an unknown key may be of a new one. However many come, the issuer is asked no more often.
ASK_AGAIN_S = 60.0
#: While the issuer does not answer and no keys are cached: wait before the second request; doubles up to ASK_AGAIN_S.
RETRY_FIRST_S = 1.0
#: While the issuer does not answer, its cached keys stay in use so long.
STALE_S = 24 * 3600.0
#: For discovery and keys together, from the first connection to the last byte.
DEADLINE_S = 5.0
MAX_BYTES = 512 * 1024
_DISCOVERY = "/.well-known/openid-configuration"


class IssuerFault(Exception):
    """The issuer's answer cannot be used: why, without anything that stands in it."""


class IssuerKeys:
    """The keys of one issuer by their id."""

    def __init__(self, settings: AuthSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Raises:
            SettingsError: the file of certificates to trust cannot be used.
        """
        self._issuer, self._url = str(settings.oidc_issuer), settings.oidc_jwks_url
        self._trust = trust(settings.oidc_ca)
        self._max_age_s, self._clock = settings.oidc_jwks_max_age_s, clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_s = self._asked_s = -float("inf")
        self._failures = 0
        self._asking: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key; None when the issuer has none of that id. Waits `DEADLINE_S` at most, however many call; not at all
        for a key that is cached, which is refreshed in the background.

        Raises:
            IssuerUnavailable: the issuer does not answer, and its keys are too old or were never cached.
        """
        if self._wants(key_id) and (asking := self._asked()) and not (key_id in self._keys and self._usable()):
            await asyncio.shield(asking)  # a caller that goes away ends its own wait alone
        if not self._usable():
            raise IssuerUnavailable(max(0.0, self._asked_s + self._pause_s() - self._clock()))
        return self._keys.get(key_id)

    def _wants(self, key_id: str) -> bool:
        return key_id not in self._keys or self._age_s() > self._max_age_s

    def _age_s(self) -> float:
        return self._clock() - self._fetched_s

    def _usable(self) -> bool:
        return self._age_s() <= max(STALE_S, self._max_age_s)

    def _pause_s(self) -> float:
        """Between the last request to the issuer and the next."""
        if self._failures and not self._usable():
            return float(min(RETRY_FIRST_S * 2 ** min(self._failures - 1, 10), ASK_AGAIN_S))
        return min(ASK_AGAIN_S, self._max_age_s) if self._age_s() > self._max_age_s else ASK_AGAIN_S

    def _asked(self) -> asyncio.Task[None] | None:
        """The request that is under way, or a new one; None while it is too early for that."""
        if self._asking is None and self._clock() - self._asked_s >= self._pause_s():
            self._asked_s = self._clock()
            self._asking = asyncio.create_task(self._ask())
        return self._asking

    async def _ask(self) -> None:
        try:
            keys = await self._fetched()
        except Exception as error:  # of what another machine says: it must end no request, and no task unseen
            self._failures += 1
            if self._failures == 1:
                cause = error if isinstance(error, IssuerFault) else type(error).__name__
                log.error("the issuer's keys cannot be fetched: %s; trying again, silent until it answers", cause)
        else:
            if self._failures:
                log.warning("the issuer's keys can be fetched again, after %d failures", self._failures)
            self._keys, self._fetched_s, self._failures = keys, self._clock(), 0
        finally:
            self._asking = None

    async def _fetched(self) -> dict[str, jwt.PyJWK]:
        try:
            async with (
                asyncio.timeout(DEADLINE_S),
                httpx.AsyncClient(verify=self._trust, timeout=DEADLINE_S, follow_redirects=False) as http,
            ):
                found = await _document(http, self._url or await self._discovered(http))
            return signing_keys(found)
        except TimeoutError:
            raise IssuerFault(f"no whole answer within {DEADLINE_S:g} s") from None
        except NotKeys as error:
            raise IssuerFault(str(error)) from None

    async def _discovered(self, http: httpx.AsyncClient) -> str:
        found = await _document(http, self._issuer.rstrip("/") + _DISCOVERY)
        if found.get("issuer") != self._issuer:  # OpenID Connect Discovery 1.0, 4.3
            raise IssuerFault("its discovery document names another issuer")
        url = found.get("jwks_uri")
        if not isinstance(url, str):
            raise IssuerFault("its discovery document has no jwks_uri")
        if fault := key_source_fault(url):
            raise IssuerFault(f"the jwks_uri of its discovery document {fault}")
        return url


def trust(authority: Path | None) -> ssl.SSLContext:
    """What the issuer's certificate is verified by: `MARROWLENS_OIDC_CA`, or the system's authorities without it.

    Raises:
        SettingsError: the file cannot be used.
    """
    try:
        if authority is not None:
            check_regular_file(authority)  # OpenSSL would wait for ever at a FIFO
        return ssl.create_default_context(cafile=authority)
    except OSError as error:  # an SSLError too
        why = "no PEM file of authorities" if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError(f"MARROWLENS_OIDC_CA: {authority}: {why}") from None


async def _document(http: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """A JSON object of at most `MAX_BYTES`, as it travels: a compressed answer could unfold to any size."""
    body = bytearray()
    async with http.stream("GET", url, headers={"Accept": "application/json", "Accept-Encoding": "identity"}) as answer:
        if answer.status_code != httpx.codes.OK:
            raise IssuerFault(f"HTTP {answer.status_code}")
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise IssuerFault("a compressed answer, which was not asked for")
        async for piece in answer.aiter_raw():
            body += piece
            if len(body) > MAX_BYTES:
                raise IssuerFault(f"an answer of more than {MAX_BYTES} bytes")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise IssuerFault("an answer that is not JSON") from None
    if not isinstance(found, dict):
        raise IssuerFault("an answer that is no JSON object")
    return found
