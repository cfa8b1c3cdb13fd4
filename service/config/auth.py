"""Settings of API keys, OpenID Connect, rate limits and TLS.

With neither API keys nor an issuer, authentication is off and only requests from localhost are accepted.
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field, SecretStr, StringConstraints, model_validator

from service.config.urls import key_source_fault

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s?#]+$")]


class AuthSettings(BaseModel):
    """Settings of authentication, rate limits and TLS."""

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
        return self

    @property
    def authentication_required(self) -> bool:
        """Whether API keys or an issuer are set up."""
        return self.keys_file is not None or self.oidc_issuer is not None
