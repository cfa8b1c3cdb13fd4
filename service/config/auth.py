"""Settings of API keys, OpenID Connect, sign-in by browser, roles, rate limits and TLS.

With neither API keys nor an issuer, authentication is off and only requests from localhost are accepted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, SecretStr, StringConstraints, model_validator

from service.config.urls import is_loopback, key_source_fault

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s?#]+$")]
#: What a person may do in the laboratory.
Role = Literal["read", "review", "sign", "second-reader", "operate"]
ROLES: tuple[Role, ...] = get_args(Role)


def parse_role_claims(text: str) -> Mapping[str, frozenset[Role]]:
    """Roles by claim value, from `VALUE=ROLE+ROLE` separated by commas.

    Raises:
        ValueError: an entry has another form, or names an unknown role.
    """
    found: dict[str, frozenset[Role]] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        value, separator, roles = entry.rpartition("=")
        unknown = [each for each in roles.split("+") if each.strip() not in ROLES]
        if not separator or not value.strip() or unknown:
            raise ValueError(f"{entry!r} is not VALUE=ROLE+ROLE; roles are {', '.join(ROLES)}")
        found[value.strip()] = frozenset(role for role in ROLES if role in map(str.strip, roles.split("+")))
    return found


def _role_claims(text: str) -> str:
    parse_role_claims(text)
    return text


class SessionSettings(BaseModel):
    """Settings of sign-in by browser and of roles."""

    oidc_client_id: str | None = Field(
        None,
        min_length=1,
        description="client id at the issuer, for people who sign in by browser (authorization code flow with PKCE). "
        "Default: no sign-in by the issuer",
    )
    oidc_client_secret: SecretStr | None = Field(
        None, description="secret of that client. Default: a public client, with PKCE alone"
    )
    oidc_client_scope: str = Field(
        "openid profile",
        pattern=r"^(.* )?openid( .*)?$",
        description="scopes that sign-in by browser requests, separated by spaces",
    )
    oidc_role_claim: str = Field(
        "roles",
        min_length=1,
        description="claim that lists a person's roles; dots lead into objects, such as realm_access.roles",
    )
    oidc_roles: Annotated[str, AfterValidator(_role_claims)] = Field(
        "",
        description="roles by value of that claim, as VALUE=ROLE+ROLE separated by commas, such as "
        "doctor=review+sign,technician=review. Default: roles follow from scopes",
    )
    roles_file: Path | None = Field(None, description="file of people and their roles (TOML); reloaded when it changes")
    public_url: Url | None = Field(
        None,
        description="address of this service in browsers, such as https://cells.hospital.example; needed for sign-in "
        "by the issuer",
    )
    session_idle_s: float = Field(1800, gt=0, description="seconds without a request until a browser session ends")
    session_lifetime_s: float = Field(
        43_200, gt=0, description="seconds until a browser session ends, however much it is used"
    )
    signing_max_age_s: float = Field(
        300,
        gt=0,
        description="seconds after authentication in which a person may sign by browser; later they authenticate again",
    )


class AuthSettings(SessionSettings):
    """Settings of authentication, sessions, roles, rate limits and TLS."""

    keys_file: Path | None = Field(
        None, description="file of hashed API keys, written by `marrowlens keys`; reloaded when it changes"
    )
    oidc_issuer: Url | None = Field(
        None,
        description=(
            "OpenID Connect issuer of bearer tokens, equal to their `iss` claim; its keys are found by discovery"
        ),
    )
    oidc_audience: str | None = Field(None, min_length=1, description="required value of the `aud` claim")
    oidc_jwks_url: Url | None = Field(None, description="JWKS URL of the issuer. Default: from OpenID discovery")
    oidc_ca: Path | None = Field(
        None, description="PEM file of the CA that signed the issuer's certificate. Default: the system's CAs"
    )
    oidc_scope_claim: str = Field(
        "scope", min_length=1, description="claim that lists scopes, separated by spaces or as a JSON list"
    )
    oidc_scope_prefix: str = Field("", description="prefix of this service's scopes in that claim")
    oidc_name_claim: str = Field(
        "preferred_username",
        min_length=1,
        description="claim with a person's name; a token without it belongs to a machine",
    )
    oidc_leeway_s: float = Field(30, ge=0, le=300, description="tolerated clock difference to the issuer in seconds")
    oidc_jwks_max_age_s: float = Field(3600, ge=10, description="seconds until the issuer's keys are fetched again")
    rate_per_s: float = Field(
        0,
        ge=0,
        description="rate limit per API key or person in requests a second, unless the key sets its own; 0: no limit",
    )
    rate_burst: int = Field(
        20, gt=0, description="requests that one API key or person may send at once after a pause (token bucket size)"
    )
    allow_anonymous: bool = Field(
        False, description="serve without authentication on an address that other machines can reach"
    )
    metrics_open: bool = Field(False, description="serve GET /metrics without authentication")
    tls_cert: Path | None = Field(None, description="PEM file of the certificate chain; reloaded when it changes")
    tls_key: Path | None = Field(None, description="PEM file of the certificate's private key")
    tls_key_password: SecretStr | None = Field(None, description="password of the private key")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of a CA: clients must present a certificate signed by it (mutual TLS)"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("MARROWLENS_TLS_CERT and MARROWLENS_TLS_KEY belong together: set both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError(
                "MARROWLENS_TLS_CLIENT_CA is set without TLS: set MARROWLENS_TLS_CERT and MARROWLENS_TLS_KEY too"
            )
        if (self.oidc_issuer is None) != (self.oidc_audience is None):
            raise ValueError("MARROWLENS_OIDC_ISSUER and MARROWLENS_OIDC_AUDIENCE belong together: set both or neither")
        for name, url in (("OIDC_ISSUER", self.oidc_issuer), ("OIDC_JWKS_URL", self.oidc_jwks_url)):
            if url is not None and (fault := key_source_fault(url)):
                raise ValueError(f"MARROWLENS_{name} {fault}")
        self._check_sign_in()
        return self

    def _check_sign_in(self) -> None:
        if self.roles_file is not None and not self.authentication_required:
            raise ValueError(
                "MARROWLENS_ROLES_FILE is set, but authentication is off: set MARROWLENS_KEYS_FILE or "
                "MARROWLENS_OIDC_ISSUER too"
            )
        if self.oidc_client_id is None:
            return
        if self.oidc_issuer is None:
            raise ValueError("MARROWLENS_OIDC_CLIENT_ID is set without MARROWLENS_OIDC_ISSUER; set it too")
        if not (self.oidc_roles or self.roles_file):
            raise ValueError(
                "MARROWLENS_OIDC_CLIENT_ID is set, but no person has a role: set MARROWLENS_OIDC_ROLES or "
                "MARROWLENS_ROLES_FILE"
            )
        if self.public_url is None:
            raise ValueError(
                "MARROWLENS_OIDC_CLIENT_ID is set without MARROWLENS_PUBLIC_URL: set the address that browsers use"
            )
        address = urlsplit(self.public_url)
        if address.scheme != "https" and not is_loopback(address.hostname or ""):
            raise ValueError("MARROWLENS_PUBLIC_URL is plain http for another machine: use https")

    @property
    def authentication_required(self) -> bool:
        """Whether API keys or an issuer are set up."""
        return self.keys_file is not None or self.oidc_issuer is not None
