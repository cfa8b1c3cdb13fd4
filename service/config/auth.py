"""Who may come in and over which line: the settings of keys, tokens and TLS. A part of `service.config.settings`.

Knows names, types, bounds and units. With neither keys nor an issuer everybody is let in, and only from this machine.
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field, SecretStr, StringConstraints, model_validator

from service.config.urls import key_source_fault

Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s?#]+$")]


class AuthSettings(BaseModel):
    """The part of the settings that opens and shuts the door."""

    keys_file: Path | None = Field(
        None, description="file of hashed API keys, which `marrowlens keys` writes; read anew whenever it changes"
    )
    oidc_issuer: Url | None = Field(
        None, description="issuer of bearer tokens, as their `iss` names it; its keys are found by OpenID discovery"
    )
    oidc_audience: str | None = Field(None, min_length=1, description="what the `aud` of a token must hold")
    oidc_jwks_url: Url | None = Field(None, description="where the issuer's keys are. Default: as discovery says")
    oidc_ca: Path | None = Field(None, description="PEM file to trust the issuer by. Default: the system's")
    oidc_scope_claim: str = Field("scope", min_length=1, description="claim that lists scopes: words, or a list")
    oidc_scope_prefix: str = Field("", description="what stands before a scope of this service in that claim")
    oidc_name_claim: str = Field(
        "preferred_username", min_length=1, description="claim that names a person; who has none is a machine"
    )
    oidc_leeway_s: float = Field(30, ge=0, le=300, description="how far the issuer's clock may be off")
    oidc_jwks_max_age_s: float = Field(3600, ge=10, description="after that long the issuer's keys are fetched anew")
    rate_per_s: float = Field(
        0, ge=0, description="requests a second of one key or person, where the key says nothing else; 0: no limit"
    )
    rate_burst: int = Field(20, gt=0, description="requests that one key or person may send at once after a pause")
    allow_anonymous: bool = Field(
        False, description="let everybody in on an address that other machines reach, without keys and without issuer"
    )
    metrics_open: bool = Field(False, description="answer GET /metrics without a key, even where keys are asked for")
    tls_cert: Path | None = Field(None, description="PEM file of the certificate chain; read anew when it changes")
    tls_key: Path | None = Field(None, description="PEM file of its private key")
    tls_key_password: SecretStr | None = Field(None, description="password of that file")
    tls_client_ca: Path | None = Field(
        None, description="PEM file: only clients with a certificate that it vouches for may connect (mutual TLS)"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("MARROWLENS_TLS_CERT and MARROWLENS_TLS_KEY go together: set both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("MARROWLENS_TLS_CLIENT_CA asks for MARROWLENS_TLS_CERT and MARROWLENS_TLS_KEY")
        if (self.oidc_issuer is None) != (self.oidc_audience is None):
            raise ValueError("MARROWLENS_OIDC_ISSUER and MARROWLENS_OIDC_AUDIENCE go together: set both or neither")
        for name, url in (("OIDC_ISSUER", self.oidc_issuer), ("OIDC_JWKS_URL", self.oidc_jwks_url)):
            if url is not None and (fault := key_source_fault(url)):
                raise ValueError(f"MARROWLENS_{name} {fault}")
        return self

    @property
    def authentication_required(self) -> bool:
        """Whether a caller must say who he is."""
        return self.keys_file is not None or self.oidc_issuer is not None
