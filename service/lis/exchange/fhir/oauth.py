"""Access tokens by OAuth 2 client credentials (RFC 6749, 4.4): fetched, cached, renewed before they expire.

The client authenticates by its secret, or by an assertion that it signs.
"""

import re
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote_plus

import httpx

from service.lis.exchange.fhir.answers import document, fault_of, read_bounded
from service.lis.exchange.fhir.client_assertion import ClientKey
from service.lis.exchange.transport import NoAnswer

#: A token is renewed this long before it expires, or at half of its life if that is shorter.
MARGIN_S: Final = 30.0
#: Life of a token that does not say it.
DEFAULT_LIFE_S: Final = 300.0
MAX_ANSWER_BYTES: Final = 64 * 1024
#: An error code is logged, its description is not.
_CODE: Final = re.compile(r"[a-z_]{1,60}")
#: A bearer token (RFC 6750, 2.1).
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """A client of a token endpoint. `proof` is its secret, or the key that signs its assertions."""

    token_url: str
    client_id: str
    proof: str | ClientKey = field(repr=False)
    scope: str | None = None


class TokenSource:
    """The current access token of a client."""

    def __init__(self, credentials: ClientCredentials) -> None:
        self._credentials = credentials
        self._token: str | None = None
        self._renew_at_s = 0.0

    async def token(self, http: httpx.AsyncClient) -> str:
        """The cached token, or a new one.

        Raises:
            NoAnswer: the token endpoint does not answer, or refuses.
        """
        if self._token is None or time.monotonic() >= self._renew_at_s:
            answer = await self._fetched(http)
            self._token = answer["access_token"]
            life_s = _life_s(answer.get("expires_in"))
            self._renew_at_s = time.monotonic() + life_s - min(MARGIN_S, life_s / 2)
        return self._token

    def forget(self) -> None:
        """Fetch a new token next time: the server has refused this one."""
        self._token = None

    async def _fetched(self, http: httpx.AsyncClient) -> dict[str, Any]:
        """The answer with a bearer token."""
        known, auth = self._credentials, None
        form = {"grant_type": "client_credentials"} | ({"scope": known.scope} if known.scope else {})
        if isinstance(known.proof, ClientKey):
            form |= known.proof.assertion(known.client_id, known.token_url)
        else:  # the id and the secret are form-encoded before they are joined (RFC 6749, 2.3.1)
            auth = httpx.BasicAuth(quote_plus(known.client_id), quote_plus(known.proof))
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        asked = http.stream("POST", known.token_url, data=form, headers=headers, auth=auth)
        try:
            async with asked as response:
                found = document(await read_bounded(response, MAX_ANSWER_BYTES, "the token endpoint"))
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise NoAnswer(f"no answer from the token endpoint: {fault_of(error)}") from error
        if response.status_code != httpx.codes.OK:
            code = str(found.get("error", ""))
            raise NoAnswer(f"the token endpoint answers {response.status_code}{_named(code)}")
        if str(found.get("token_type", "")).lower() != "bearer" or not _TOKEN.fullmatch(str(found.get("access_token"))):
            raise NoAnswer("the token endpoint's answer has no bearer token; check MARROWLENS_LIS_FHIR_OAUTH_TOKEN_URL")
        return found


def _named(code: str) -> str:
    return f": {code}" if _CODE.fullmatch(code) else ""


def _life_s(expires_in: object) -> float:
    try:
        return max(0.0, float(str(expires_in)))
    except ValueError:
        return DEFAULT_LIFE_S
