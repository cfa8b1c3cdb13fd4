"""Settings of the laboratory, `MARROWLENS_LIS_*`. They have no effect without `MARROWLENS_LIS_DATABASE`."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from service.config.secret_files import SecretFiles
from service.config.urls import is_loopback, paths_holding_urls, transport_fault

LIS_PREFIX = "MARROWLENS_LIS_"


class LaboratoryConfigError(Exception):
    """A setting of the laboratory cannot be used: gives its name and the reason."""


def _parts(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(between for _, between, _ in pairs):
        raise ValueError("expected NAME=URI, separated by commas")
    return {name.strip(): uri.strip() for name, _, uri in pairs}


#: Names separated by commas.
Terms = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parts), Field(min_length=1)]
Uri = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*:\S+$")]
#: NAME=URI pairs separated by commas.
UriByName = Annotated[dict[str, Uri], NoDecode, BeforeValidator(_pairs)]
#: host:port, IPv6 addresses in brackets.
Address = Annotated[str, StringConstraints(pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$")]
#: A name in an HL7 field (MSH-3 to MSH-6 and others): no HL7 delimiters, no control characters.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 ._:/-]{1,180}$")]
#: Text of one line, escaped where it is written.
OneLine = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,180}$")]
#: One word in an HTTP header (RFC 9110, 5.5).
_TOKEN = re.compile(r"[!-~]+")


def _zone_name(name: str | None) -> str | None:
    try:
        return name and ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"no time zone {name}; use a name such as Europe/Berlin (package tzdata)") from None


def _fhir_fault(lis: "LisSettings") -> str | None:
    """What is wrong with the credentials for a FHIR server or their way to it; None if nothing is."""
    token, token_url, url = lis.fhir_token, lis.fhir_oauth_token_url, lis.fhir_url
    if token is not None and not _TOKEN.fullmatch(token.get_secret_value()):
        return "MARROWLENS_LIS_FHIR_TOKEN is not one word of visible ASCII characters; set the token alone"
    secret, key = lis.fhir_oauth_client_secret, lis.fhir_oauth_private_key
    parts = (token_url, lis.fhir_oauth_client_id, secret or key)
    if any(parts) and not all(parts):
        return (
            "MARROWLENS_LIS_FHIR_OAUTH_TOKEN_URL, MARROWLENS_LIS_FHIR_OAUTH_CLIENT_ID and either "
            "MARROWLENS_LIS_FHIR_OAUTH_CLIENT_SECRET or MARROWLENS_LIS_FHIR_OAUTH_PRIVATE_KEY belong together: set all "
            "or none"
        )
    if secret and key:
        return "MARROWLENS_LIS_FHIR_OAUTH_CLIENT_SECRET and MARROWLENS_LIS_FHIR_OAUTH_PRIVATE_KEY are both set; set one"
    if lis.fhir_oauth_key_id and not key:
        return "MARROWLENS_LIS_FHIR_OAUTH_KEY_ID is set without MARROWLENS_LIS_FHIR_OAUTH_PRIVATE_KEY; set both"
    if token is not None and token_url:
        return "MARROWLENS_LIS_FHIR_TOKEN and MARROWLENS_LIS_FHIR_OAUTH_TOKEN_URL are both set; set one"
    if (lis.fhir_tls_cert is None) != (lis.fhir_tls_key is None):
        return "MARROWLENS_LIS_FHIR_TLS_CERT and MARROWLENS_LIS_FHIR_TLS_KEY belong together: set both or neither"
    if token_url and (fault := transport_fault(token_url)):
        return f"MARROWLENS_LIS_FHIR_OAUTH_TOKEN_URL {fault}; the client's credentials would be sent unencrypted"
    has_credentials = token is not None or token_url or (url and ("@" in url or "?" in url))
    if url and has_credentials and (fault := transport_fault(url)):
        return f"MARROWLENS_LIS_FHIR_URL {fault}; the credentials would be sent unencrypted"
    has_tls = lis.fhir_tls_ca is not None or lis.fhir_tls_cert is not None
    if url and has_tls and not url.lower().startswith("https:"):
        return "MARROWLENS_LIS_FHIR_URL is plain http, which uses no certificate: use https"
    return None


class LisSettings(BaseSettings):
    """All settings of one laboratory, immutable."""

    model_config = SettingsConfigDict(
        env_prefix=LIS_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", allow_inf_nan=False
    )

    database: SecretStr | None = Field(
        None,
        description=(
            "database URL: sqlite:////folder/lab.db or postgresql+psycopg://user@host/name. Default: no laboratory"
        ),
    )
    database_sslmode: Literal["disable", "require", "verify-ca", "verify-full"] | None = Field(
        None,
        description=(
            "libpq sslmode for PostgreSQL. Default: verify-full with MARROWLENS_LIS_DATABASE_CA; else"
            " require for another machine and libpq's default for this one"
        ),
    )
    database_ca: Path | None = Field(None, description="PEM file of the CA that signed PostgreSQL's certificate")
    database_lock_timeout_s: float = Field(
        10, gt=0, le=3600, description="seconds that a statement waits for a lock of another transaction"
    )
    database_statement_timeout_s: float = Field(
        25, gt=0, le=3600, description="seconds after which PostgreSQL cancels a statement"
    )
    target_cells: int = Field(500, gt=0, description="cells to count per specimen; 200 and 300 are also common")
    time_zone: Annotated[str | None, AfterValidator(_zone_name)] = Field(
        None,
        description="IANA name of the zone of times without an offset, in HL7 and ASTM, such as Europe/Berlin. "
        "Default: this machine's",
    )
    review_below: float = Field(
        0.8, ge=0, le=1, description="probability below which a person must review a cell's class"
    )
    second_reader: bool = Field(
        False, description="require a second reader: another person than the signer confirms the cells first"
    )
    me_myeloid: Terms = Field(
        ("granulocytic", "monocytic"),
        description=(
            "lineages and classes in the numerator of the M:E ratio, separated by commas; add BLA to count blasts"
        ),
    )
    me_erythroid: Terms = Field(
        ("erythroid",), description="lineages and classes in the denominator of the M:E ratio, separated by commas"
    )
    class_counts: bool = Field(
        False, description="send the number of cells of each class too, as a result with a code of its own (LYT_COUNT)"
    )
    provenance: Literal["notes", "results"] = Field(
        "notes", description="send cells that wait for review, models and method as notes, or as results of their own"
    )
    reference_ranges: Path | None = Field(
        None,
        description="the laboratory's table of reference ranges: results get their range and a flag (N, L, H). "
        "Default: none",
    )
    attach_pdf: bool = Field(
        False, description="attach the report as a PDF, in HL7 as a result of type ED and in FHIR as presentedForm"
    )
    pdf_language: Literal["en", "de"] = Field("en", description="language of attached PDFs")
    comment_templates: Path | None = Field(
        None, description="TOML file with the laboratory's templates for comments. Default: none"
    )
    codes: Path | None = Field(None, description="the laboratory's own code table. Default: the bundled one")
    least_code_status: Literal["verified", "two-sources", "single-source"] = Field(
        "single-source", description="minimum verification status of a LOINC code; below it a local code is sent"
    )
    local_system: Name = Field("99MARROWLENS", description="name of the local code system in HL7 (OBX-3.3)")
    local_system_uri: str = Field(
        "urn:marrowlens:codes",
        pattern=r"^[a-z][a-z0-9+.-]*:\S+$",
        description="URI of the local code system in FHIR; set one of your own",
    )
    pictures: Path | Literal["off"] | None = Field(
        None,
        description="folder that stores cell pictures; off: pictures are not stored. Default: a folder beside the "
        "SQLite file, named after it with .pictures; with PostgreSQL pictures are not stored",
    )
    picture_days: int = Field(
        30,
        gt=0,
        description="days that a stored picture is kept, counted from its upload; longer while a specimen with it is "
        "open or amended",
    )
    reference_cells: Path | None = Field(
        None,
        description="folder with pictures to compare cells with in the review, in one subfolder for each class code: "
        "JPEG, PNG, BMP or WebP, the first 12 by name. It is read at the start. Default: drawn cells",
    )
    reference_signed: bool = Field(
        False,
        description="show stored pictures of signed specimens, of cells that a person has read, as reference cells "
        "too: pictures of other patients, without their names",
    )
    patient_days: int | None = Field(
        None,
        gt=0,
        description="days after the last signature or the cancellation when a patient's data are erased. "
        "Default: never",
    )
    message_days: int | None = Field(
        None,
        gt=0,
        description="days that delivered and dropped messages, and the ids of received ones, are kept. Default: "
        "without limit",
    )

    audit_reads: bool = Field(
        False, description="write an audit record for each read of specimens, reports and pictures"
    )

    deliver: bool = Field(True, description="deliver reports from this process; false: another process delivers them")
    delivery: Literal["on", "off"] = Field(
        "on",
        description="off: deliver nothing, and hold the waiting messages until a person decides about each, as after "
        "the restore of a backup",
    )
    retry_first_s: float = Field(
        1, gt=0, description="seconds before the first retry of a delivery; doubled at each retry"
    )
    retry_most_s: float = Field(300, gt=0, description="maximum seconds between two retries")
    retry_for_h: float = Field(72, gt=0, description="hours after which an undelivered report becomes a dead letter")

    hl7_to: Address | None = Field(None, description="host:port that receives reports by HL7 v2.5.1 over MLLP")
    hl7_message: Literal["ORU_R01", "OUL_R22"] = Field("ORU_R01", description="message type of reports")
    hl7_acks: Literal["original", "accept", "application", "both"] = Field(
        "original", description="acknowledgements to wait for: original mode, or one of the enhanced modes"
    )
    hl7_charset: Literal["", "ASCII", "8859/1", "8859/2", "8859/5", "8859/7", "8859/9", "8859/15", "UNICODE UTF-8"] = (
        Field("UNICODE UTF-8", description="character set of messages (MSH-18)")
    )
    hl7_timeout_s: float = Field(30, gt=0, description="timeout of a connection and of an acknowledgement in seconds")
    hl7_application: Name = Field("MARROWLENS", description="sending application (MSH-3)")
    hl7_facility: Name = Field("LAB", description="sending facility (MSH-4)")
    hl7_to_application: Name = Field("LIS", description="receiving application (MSH-5)")
    hl7_to_facility: Name = Field("LAB", description="receiving facility (MSH-6)")
    hl7_processing_id: Literal["P", "T", "D"] = Field(
        "P", description="processing ID (MSH-11): production, training or debugging"
    )
    hl7_specimen_type: Name = Field("BMA", description="specimen type code of a marrow aspirate (SPM-4.1)")
    hl7_performing_laboratory: OneLine | None = Field(
        None, description="name of the performing laboratory (OBX-23.1). Default: empty"
    )
    hl7_performing_address: OneLine | None = Field(
        None, description="address of the performing laboratory, in one line (OBX-24.1). Default: empty"
    )
    hl7_withdrawn: Literal["D", "W"] = Field(
        "D", description="OBX-11 of a withdrawn result: D deletes it, W marks the earlier one as wrong"
    )
    hl7_tls_ca: Path | None = Field(
        None, description="PEM file of the CA that signed the receiver's certificate; reports are sent by TLS"
    )
    hl7_tls_cert: Path | None = Field(
        None, description="PEM file of this service's certificate chain, for sending and receiving"
    )
    hl7_tls_key: Path | None = Field(None, description="PEM file of that certificate's private key")
    hl7_listen: Address | None = Field(None, description="host:port that receives orders by HL7 v2 over MLLP")
    hl7_listen_ca: Path | None = Field(
        None, description="PEM file of a CA: senders of orders must present a certificate signed by it (mutual TLS)"
    )
    hl7_allow_anonymous: bool = Field(
        False, description="accept orders without client certificates on an address that other machines can reach"
    )
    hl7_max_bytes: int = Field(1024 * 1024, gt=0, description="maximum size of a received message in bytes")
    hl7_services: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parts)] = Field(
        (),
        description="services that are orders for this laboratory (OBR-4), as CODE or CODE^SYSTEM, separated by "
        "commas; others are acknowledged and set aside. Default: all",
    )
    hl7_specimen_types: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parts)] = Field(
        (),
        description="specimen types (SPM-4) of this laboratory, separated by commas; orders for others are "
        "acknowledged and set aside. Default: all",
    )
    hl7_patient_number: Name = Field(
        "MR",
        description="type (PID-3.5) or assigning authority (PID-3.4) of the primary patient number; if absent, the "
        "first number",
    )
    hl7_idle_s: float = Field(
        600, gt=0, le=7 * 86400, description="seconds after which a silent connection for orders is closed"
    )
    hl7_max_connections: int = Field(
        32,
        gt=0,
        le=10_000,
        description="maximum number of connections for orders; a further one replaces the one silent for longest",
    )
    hl7_max_connections_per_sender: int = Field(
        8,
        gt=0,
        le=10_000,
        description="maximum number of connections for orders per certificate or address (IPv6: per /64)",
    )

    fhir_url: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="base URL of a FHIR R4 server that receives reports as transactions",
    )
    fhir_token: SecretStr | None = Field(None, description="bearer token for the FHIR server")
    fhir_oauth_token_url: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="token endpoint: access tokens for the FHIR server are fetched by OAuth 2 client credentials",
    )
    fhir_oauth_client_id: OneLine | None = Field(None, description="client id at the token endpoint")
    fhir_oauth_client_secret: SecretStr | None = Field(None, description="client secret at the token endpoint")
    fhir_oauth_private_key: Path | None = Field(
        None,
        description="PEM file of a private key that authenticates the client in place of a secret (private_key_jwt, "
        "SMART Backend Services): RSA for RS384, or EC on P-384 for ES384",
    )
    fhir_oauth_key_id: OneLine | None = Field(
        None, description="key id (kid) of that key at the token endpoint. Default: its RFC 7638 thumbprint"
    )
    fhir_oauth_scope: OneLine | None = Field(
        None, description="scopes to ask for, separated by spaces, such as system/*.write. Default: the server's"
    )
    fhir_tls_ca: Path | None = Field(
        None,
        description="PEM file of the CA that signed the certificates of the FHIR server and the token endpoint. "
        "Default: the public CAs",
    )
    fhir_tls_cert: Path | None = Field(
        None, description="PEM file of the client certificate chain for the FHIR server (mutual TLS)"
    )
    fhir_tls_key: Path | None = Field(None, description="PEM file of that certificate's private key")
    fhir_patient_systems: UriByName = Field(
        {}, description="identifier system URIs by assigning authority (PID-3.4.1), such as HOSPITAL=urn:oid:1.2.3"
    )
    fhir_pictures: bool = Field(False, description="send stored pictures as Media with the report")
    fhir_timeout_s: float = Field(30, gt=0, description="timeout of a FHIR request in seconds")
    astm_to: Address | None = Field(None, description="host:port that receives reports by ASTM LIS01-A2 and LIS02-A2")
    astm_timeout_s: float = Field(15, gt=0, description="timeout of the reply to one frame in seconds")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (names are pydantic-settings')
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Sources by precedence: arguments, environment, secret files."""
        return init_settings, env_settings, SecretFiles(settings_cls)

    @property
    def zone(self) -> ZoneInfo | None:
        """The zone of `time_zone`; None is this machine's."""
        return None if self.time_zone is None else ZoneInfo(self.time_zone)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if names := paths_holding_urls(self):
            raise ValueError(f"{LIS_PREFIX}{names[0].upper()} is a URL; set a path on this machine")
        if self.retry_most_s < self.retry_first_s:
            raise ValueError(
                f"MARROWLENS_LIS_RETRY_MOST_S={self.retry_most_s:g} is below MARROWLENS_LIS_RETRY_FIRST_S="
                f"{self.retry_first_s:g}; raise MARROWLENS_LIS_RETRY_MOST_S or lower MARROWLENS_LIS_RETRY_FIRST_S"
            )
        if (self.hl7_tls_cert is None) != (self.hl7_tls_key is None):
            raise ValueError(
                "MARROWLENS_LIS_HL7_TLS_CERT and MARROWLENS_LIS_HL7_TLS_KEY belong together: set both or neither"
            )
        if self.hl7_listen_ca and not self.hl7_tls_cert:
            raise ValueError(
                "MARROWLENS_LIS_HL7_LISTEN_CA is set without TLS: set MARROWLENS_LIS_HL7_TLS_CERT and "
                "MARROWLENS_LIS_HL7_TLS_KEY too"
            )
        if self.hl7_listen and not (self.hl7_listen_ca or self.hl7_allow_anonymous or _is_local(self.hl7_listen)):
            raise ValueError(
                f"MARROWLENS_LIS_HL7_LISTEN={self.hl7_listen} can be reached by other machines, and any of them could "
                "send orders. Require client certificates: set MARROWLENS_LIS_HL7_TLS_CERT, MARROWLENS_LIS_HL7_TLS_KEY "
                "and MARROWLENS_LIS_HL7_LISTEN_CA. If the network admits only the laboratory's system, set "
                "MARROWLENS_LIS_HL7_ALLOW_ANONYMOUS=true instead"
            )
        if fault := _fhir_fault(self):
            raise ValueError(fault)
        if self.reference_signed and self.database is not None and not self._stores_pictures():
            raise ValueError(
                "MARROWLENS_LIS_REFERENCE_SIGNED is set, but no pictures are stored: set MARROWLENS_LIS_PICTURES to a "
                "folder"
            )
        if self.fhir_pictures and not self._stores_pictures():
            raise ValueError(
                "MARROWLENS_LIS_FHIR_PICTURES is set, but no pictures are stored: set MARROWLENS_LIS_PICTURES to a "
                "folder"
            )
        return self

    def _stores_pictures(self) -> bool:
        is_sqlite = self.database is not None and self.database.get_secret_value().startswith("sqlite")
        return isinstance(self.pictures, Path) or (self.pictures is None and is_sqlite)


def unused_connection(lis: LisSettings) -> str | None:
    """The error of a message connection without a database; None if there is none."""
    connections = ("hl7_to", "hl7_listen", "fhir_url", "astm_to")
    unused = [] if lis.database else [name for name in connections if getattr(lis, name) is not None]
    if not unused:
        return None
    return f"{LIS_PREFIX}{unused[0].upper()} needs {LIS_PREFIX}DATABASE; set it, or remove the connection"


def _is_local(address: str) -> bool:
    return is_loopback(address.rpartition(":")[0])
