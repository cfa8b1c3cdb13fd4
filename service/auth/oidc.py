"""Bearer tokens of an OpenID Connect issuer: whose a token is, once its signature and its claims hold.

Signed JWTs (RFC 7519, RFC 8725) by PyJWT (MIT, well kept). Only signatures by an issuer's private key are taken: a
token with `alg: none`, or signed by something that the issuer also gives away, is none. Knows no HTTP server.
"""

from collections.abc import Mapping
from typing import Any

import jwt
from jwt.types import Options

from service.auth.callers import SCOPES, Caller
from service.auth.identity import MAX_NAME, MAX_SUBJECT, Identity, NameRefused, checked_name
from service.auth.issuer import IssuerKeys
from service.auth.jwks import ALGORITHMS
from service.config.auth import AuthSettings
from service.errors import Unauthorised


class Tokens:
    """Whose tokens of the configured issuer are."""

    def __init__(self, settings: AuthSettings, keys: IssuerKeys) -> None:
        self._settings, self._keys = settings, keys

    async def find(self, token: str) -> Caller:
        """The holder of a token.

        Raises:
            Unauthorised: the token is of another issuer or for another audience, out of its time, not signed by the
                issuer, or no token.
            IssuerUnavailable: the issuer's keys cannot be had.
        """
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise Unauthorised("the bearer's word is neither a key nor a token", invalid_token=True) from None
        if header.get("alg") not in ALGORITHMS:
            raise Unauthorised("the token is not signed in a way that is taken here", invalid_token=True)
        key = await self._keys.find(str(header.get("kid", "")))
        if key is None:
            raise Unauthorised("the token is signed by a key that its issuer does not have", invalid_token=True)
        return self._caller(self._claims(token, key))

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        options: Options = {"require": ["exp", "iss", "aud", "sub"]}
        try:
            return jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._settings.oidc_audience,
                issuer=self._settings.oidc_issuer,
                leeway=self._settings.oidc_leeway_s,
                options=options,
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorised("the token is out of its time", invalid_token=True) from None
        except jwt.InvalidAudienceError:
            raise Unauthorised("the token is for somebody else", invalid_token=True) from None
        except jwt.PyJWTError:
            raise Unauthorised("the token does not hold", invalid_token=True) from None

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        settings = self._settings
        subject = _name(claims["sub"], "sub", MAX_SUBJECT)
        person = claims.get(settings.oidc_name_claim)
        claim = "sub" if person in (None, "") else settings.oidc_name_claim
        listed = claims.get(settings.oidc_scope_claim, ())
        words = listed.split() if isinstance(listed, str) else listed if isinstance(listed, list) else ()
        return Caller(
            name=_name(claims[claim], claim),
            identity=Identity(kind="token", issuer=settings.oidc_issuer, subject=subject),
            scopes=frozenset(scope for scope in SCOPES if settings.oidc_scope_prefix + scope in words),
            person=person not in (None, ""),
            ends_at_s=float(claims["exp"]) + settings.oidc_leeway_s,
            rate_per_s=settings.rate_per_s,
            burst=settings.rate_burst,
        )


def _name(value: object, claim: str, limit: int = MAX_NAME) -> str:
    what = f"the token's {claim}"
    if not isinstance(value, str):
        raise Unauthorised(f"{what} is not text", invalid_token=True)
    try:
        return checked_name(value, what, limit)
    except NameRefused as error:
        raise Unauthorised(f"{error}; its issuer has to change it", invalid_token=True) from None
