"""What a laboratory may set: `MARROWLENS_LIS_*`. A part of `service.config.settings`, which reads it with the rest.

Knows names, types, bounds and units. Without `MARROWLENS_LIS_DATABASE` there is no laboratory and the rest is idle.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from service.config.secret_files import SecretFiles
from service.config.urls import is_loopback, paths_holding_urls, transport_fault

LIS_PREFIX = "MARROWLENS_LIS_"


class LaboratoryConfigError(Exception):
    """A setting of the laboratory that cannot be used: which one, and what is wrong with it, in a sentence."""


def _parts(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(between for _, between, _ in pairs):
        raise ValueError("write NAME=URI, with commas between")
    return {name.strip(): uri.strip() for name, _, uri in pairs}


#: Names with commas between them.
Terms = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parts), Field(min_length=1)]
Uri = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*:\S+$")]
#: NAME=URI with commas between them.
UriByName = Annotated[dict[str, Uri], NoDecode, BeforeValidator(_pairs)]
#: A host and a port; IPv6 in brackets.
Address = Annotated[str, StringConstraints(pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$")]
#: What stands in MSH-3 to MSH-6 and the like: no delimiter of HL7, no control character.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 ._:/-]{1,180}$")]


#: What a header may hold as one word (RFC 9110, 5.5).
_TOKEN = re.compile(r"[!-~]+")


def _exposed(url: str | None, token: SecretStr | None) -> str | None:
    """Why credentials would travel readably to a FHIR server; None where there are none, or they would not."""
    if url is None or not (token is not None or "@" in url or "?" in url):
        return None
    fault = transport_fault(url)
    return fault and f"{fault}; what authenticates this service would be readable on the way"


class LisSettings(BaseSettings):
    """The settings of one laboratory. Frozen."""

    model_config = SettingsConfigDict(
        env_prefix=LIS_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", allow_inf_nan=False
    )

    database: SecretStr | None = Field(
        None, description="where specimens are kept: sqlite:////folder/lab.db or postgresql+psycopg://user@host/name"
    )
    database_sslmode: Literal["disable", "require", "verify-ca", "verify-full"] | None = Field(
        None,
        description="TLS to PostgreSQL, as libpq names it. Default: verify-full with MARROWLENS_LIS_DATABASE_CA, "
        "require to another machine, libpq's own to this one",
    )
    database_ca: Path | None = Field(None, description="PEM file of authorities to verify PostgreSQL's certificate by")
    target_cells: int = Field(500, gt=0, description="cells to count in a specimen; 200 and 300 are usual too")
    review_below: float = Field(0.8, ge=0, le=1, description="a class less probable than this waits for a person")
    me_myeloid: Terms = Field(
        ("granulocytic", "monocytic"), description="lineages and classes above the line of the M:E ratio; add BLA here"
    )
    me_erythroid: Terms = Field(("erythroid",), description="and below it")
    codes: Path | None = Field(
        None, description="the laboratory's own table of codes. Default: the one that comes along"
    )
    least_code_status: Literal["verified", "two-sources", "single-source"] = Field(
        "single-source", description="a LOINC code less certain than this is replaced by a local one"
    )
    local_system: Name = Field("99MARROWLENS", description="name of the local codes' system in HL7 (OBX-3.3)")
    local_system_uri: str = Field(
        "urn:marrowlens:codes", pattern=r"^[a-z][a-z0-9+.-]*:\S+$", description="and in FHIR; give it your own"
    )
    pictures: Path | None = Field(None, description="folder where pictures of cells are kept. Default: they are not")
    picture_days: int = Field(30, gt=0, description="how long, counted from the day a picture came")

    audit_reads: bool = Field(
        False, description="write a row of the audit trail for every look at specimens, reports and pictures"
    )

    deliver: bool = Field(True, description="this process delivers reports; no: another one does")
    retry_first_s: float = Field(1, gt=0, description="wait before a report is sent a second time; doubles each time")
    retry_most_s: float = Field(300, gt=0, description="longest wait between two tries")
    retry_for_h: float = Field(72, gt=0, description="a report not delivered by then is a dead letter")

    hl7_to: Address | None = Field(None, description="host:port that takes reports by HL7 v2.5.1 over MLLP")
    hl7_message: Literal["ORU_R01", "OUL_R22"] = Field("ORU_R01", description="which message reports are sent as")
    hl7_acks: Literal["original", "accept", "application", "both"] = Field(
        "original", description="which acknowledgements are waited for; all but `original` are enhanced mode"
    )
    hl7_charset: Literal["", "ASCII", "8859/1", "8859/2", "8859/5", "8859/7", "8859/9", "8859/15", "UNICODE UTF-8"] = (
        Field("UNICODE UTF-8", description="MSH-18, and the bytes that go with it")
    )
    hl7_timeout_s: float = Field(30, gt=0, description="how long a connection and an acknowledgement are waited for")
    hl7_application: Name = Field("MARROWLENS", description="MSH-3 of what is sent")
    hl7_facility: Name = Field("LAB", description="MSH-4 of what is sent")
    hl7_to_application: Name = Field("LIS", description="MSH-5 of what is sent")
    hl7_to_facility: Name = Field("LAB", description="MSH-6 of what is sent")
    hl7_processing_id: Literal["P", "T", "D"] = Field("P", description="MSH-11: production, training or debugging")
    hl7_specimen_type: Name = Field("BMA", description="SPM-4.1: what the laboratory calls a marrow aspirate")
    hl7_tls_ca: Path | None = Field(
        None, description="PEM file of authorities: reports go by TLS, to those they vouch for"
    )
    hl7_tls_cert: Path | None = Field(
        None, description="PEM file of this side's certificate and its chain, for both ways"
    )
    hl7_tls_key: Path | None = Field(None, description="PEM file of its key")
    hl7_listen: Address | None = Field(None, description="host:port to take orders at, by HL7 v2 over MLLP")
    hl7_listen_ca: Path | None = Field(
        None, description="PEM file of authorities: only senders whose certificate they signed are heard (mutual TLS)"
    )
    hl7_allow_anonymous: bool = Field(
        False, description="take orders on an address that other machines reach, from senders without a certificate"
    )
    hl7_max_bytes: int = Field(1024 * 1024, gt=0, description="largest message that is taken")
    hl7_idle_s: float = Field(
        600, gt=0, le=7 * 86400, description="a connection for orders that is silent for that long is closed"
    )
    hl7_max_connections: int = Field(
        32, gt=0, le=10_000, description="connections for orders; one more takes the place of the longest silent one"
    )
    hl7_max_connections_per_sender: int = Field(
        8, gt=0, le=10_000, description="and of one certificate or one address (of IPv6 one /64)"
    )

    fhir_url: str | None = Field(
        None, pattern=r"^https?://\S+$", description="base of a FHIR R4 server that takes reports as transactions"
    )
    fhir_token: SecretStr | None = Field(None, description="bearer token for that server")
    fhir_patient_systems: UriByName = Field(
        {}, description="URIs of who gives patients' numbers, by the name in orders (PID-3.4.1): HOSPITAL=urn:oid:1.2.3"
    )
    fhir_pictures: bool = Field(False, description="send pictures that are kept, as Media with the report")
    fhir_timeout_s: float = Field(30, gt=0, description="how long that server is waited for")
    astm_to: Address | None = Field(None, description="host:port that takes reports by ASTM LIS01-A2 and LIS02-A2")
    astm_timeout_s: float = Field(15, gt=0, description="how long its answer to one frame is waited for")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (names are pydantic-settings')
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then files of secrets."""
        return init_settings, env_settings, SecretFiles(settings_cls)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if names := paths_holding_urls(self):
            raise ValueError(f"{LIS_PREFIX}{names[0].upper()} is a URL; name a path of this machine")
        if self.retry_most_s < self.retry_first_s:
            raise ValueError("MARROWLENS_LIS_RETRY_MOST_S is below MARROWLENS_LIS_RETRY_FIRST_S")
        if (self.hl7_tls_cert is None) != (self.hl7_tls_key is None):
            raise ValueError("MARROWLENS_LIS_HL7_TLS_CERT and MARROWLENS_LIS_HL7_TLS_KEY go together")
        if self.hl7_listen_ca and not self.hl7_tls_cert:
            raise ValueError(
                "MARROWLENS_LIS_HL7_LISTEN_CA needs MARROWLENS_LIS_HL7_TLS_CERT: without it there is no TLS"
            )
        if self.hl7_listen and not (self.hl7_listen_ca or self.hl7_allow_anonymous or _is_local(self.hl7_listen)):
            raise ValueError(
                f"MARROWLENS_LIS_HL7_LISTEN: other machines reach {self.hl7_listen}, and any could send orders. "
                "Ask senders for certificates: set MARROWLENS_LIS_HL7_TLS_CERT, MARROWLENS_LIS_HL7_TLS_KEY and "
                "MARROWLENS_LIS_HL7_LISTEN_CA. Or, where the network lets only the laboratory's system through, set "
                "MARROWLENS_LIS_HL7_ALLOW_ANONYMOUS=true"
            )
        if self.fhir_token is not None and not _TOKEN.fullmatch(self.fhir_token.get_secret_value()):
            raise ValueError("MARROWLENS_LIS_FHIR_TOKEN is not one word of visible ASCII characters")
        if fault := _exposed(self.fhir_url, self.fhir_token):
            raise ValueError(f"MARROWLENS_LIS_FHIR_URL {fault}")
        if self.fhir_pictures and not self.pictures:
            raise ValueError("MARROWLENS_LIS_FHIR_PICTURES needs MARROWLENS_LIS_PICTURES: none are kept to be sent")
        return self


def _is_local(address: str) -> bool:
    return is_loopback(address.rpartition(":")[0])
