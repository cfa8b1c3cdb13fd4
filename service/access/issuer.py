"""An issuer's public keys (RFC 7517), found by OpenID discovery and kept for a time.

Knows HTTP clients and key sets. Does not know what a token says.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import jwt

from service.access_settings import AccessSettings
from service.errors import IssuerUnavailable

#: A token of a key that is not known may be of a new one. However many come, the issuer is asked no more often.
ASK_AGAIN_S = 10.0
#: While the issuer does not answer, the keys that it had stay in use so long.
STALE_S = 24 * 3600.0
_TIMEOUT_S = 5.0
_DISCOVERY = "/.well-known/openid-configuration"


class IssuerKeys:
    """The keys of one issuer by their id; one question to the issuer at a time."""

    def __init__(self, settings: AccessSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Raises:
            OSError: the file of certificates to trust cannot be read.
        """
        self._issuer, self._url = str(settings.oidc_issuer), settings.oidc_jwks_url
        self._trust = ssl.create_default_context(cafile=settings.oidc_ca)
        self._max_age_s, self._clock = settings.oidc_jwks_max_age_s, clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_s = self._asked_s = -float("inf")
        self._asking = asyncio.Lock()

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key; None when the issuer has none of that id.

        Raises:
            IssuerUnavailable: the issuer does not answer, and its keys are too old or were never had.
        """
        if self._wants(key_id):
            async with self._asking:
                if self._wants(key_id) and self._clock() - self._asked_s >= ASK_AGAIN_S:
                    await self._ask()
        if self._age_s() > max(STALE_S, self._max_age_s):
            raise IssuerUnavailable
        return self._keys.get(key_id)

    def _wants(self, key_id: str) -> bool:
        return key_id not in self._keys or self._age_s() > self._max_age_s

    def _age_s(self) -> float:
        return self._clock() - self._fetched_s

    async def _ask(self) -> None:
        self._asked_s = self._clock()
        try:
            self._keys = _that_sign(await self._fetch())
            self._fetched_s = self._clock()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            if not self._keys:
                self._asked_s = -float("inf")  # nobody can come in: the next one asks again
                raise IssuerUnavailable from error

    async def _fetch(self) -> list[Any]:
        async with httpx.AsyncClient(verify=self._trust, timeout=_TIMEOUT_S) as http:
            found = await _json(http, self._url or await self._discovered(http))
        return list(found["keys"])

    async def _discovered(self, http: httpx.AsyncClient) -> str:
        found = await _json(http, self._issuer.rstrip("/") + _DISCOVERY)
        if found["issuer"] != self._issuer:  # OpenID Connect Discovery 1.0, 4.3
            raise ValueError("discovery names another issuer")
        return str(found["jwks_uri"])


async def _json(http: httpx.AsyncClient, url: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (await http.get(url)).raise_for_status().json()
    return found


def _that_sign(keys: list[Any]) -> dict[str, jwt.PyJWK]:
    """The keys that sign; an issuer may have others, of kinds that are not known here."""
    found = {}
    for each in keys:
        if each.get("use", "sig") == "sig" and each.get("kty") != "oct":
            try:
                found[str(each.get("kid", ""))] = jwt.PyJWK(each)
            except jwt.PyJWTError:
                continue
    return found
