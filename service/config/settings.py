"""Settings."""

import os
import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from service.config.auth import AuthSettings
from service.config.lis import LIS_PREFIX, LisSettings
from service.config.secret_files import SUFFIX, SecretFileError, SecretFiles, is_secret
from service.config.suggest import closest_match
from service.config.urls import paths_holding_urls, transport_fault

ProviderChoice = Literal["auto", "tensorrt", "cuda", "openvino", "cpu"]
LogFormat = Literal["text", "json"]

PREFIX = "MARROWLENS_"
MIB = 1024 * 1024
#: Of a shorter window a tenth, by which it moves on, would be a handful of pictures.
MIN_DRIFT_WINDOW = 200


_HEADER = re.compile(r"[!#$&'*+.^_`|~0-9A-Za-z-]+[ \t]*=[ \t]*[^\",;\\]*")
#: OpenTelemetry's own variables for what `otlp_headers` holds; its exporter reads them where that is unset.
OTEL_HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")


class SettingsError(ValueError):
    """A setting that does not exist or has an impossible value: which environment name, and what is wrong with it."""


def _networks(text: str) -> str:
    parse_networks(text)
    return text


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks of a list with commas; an address is a network of one.

    Raises:
        ValueError: one of them is neither.
    """
    return tuple(ip_network(each.strip()) for each in text.split(",") if each.strip())


class HttpSettings(BaseModel):
    """The part of the settings that concerns connections and what stands between them and the clients."""

    keep_alive_s: float = Field(
        75,
        gt=0,
        le=3600,
        description="how long an idle connection is kept; longer than the proxy or client in front keeps it",
    )
    max_connections: int = Field(
        1000, gt=0, le=1_000_000, description="most open connections; one more takes the place of an idle one, or 503"
    )
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        "",
        description="addresses or networks, with commas between, whose X-Forwarded-For and X-Forwarded-Proto are "
        "believed. Default: nobody's",
    )
    root_path: str = Field(
        "",
        pattern=r"^((/[A-Za-z0-9._~-]+)+)?$",
        description="path that a proxy in front takes off, such as /marrowlens; the interface at /docs needs it",
    )
    hsts_max_age_s: int = Field(
        31_536_000,
        ge=0,
        le=63_072_000,
        description="how long browsers are told to come by TLS alone (Strict-Transport-Security), over TLS; 0: nothing",
    )


class Settings(BaseSettings, HttpSettings, AuthSettings):
    """The settings of one service. Frozen; keyword arguments (command line) win over the environment.

    Raises:
        SettingsError: a `MARROWLENS_*` name in the environment that is no setting.
        pydantic.ValidationError: a value out of bounds; `read_settings` says it in a sentence instead.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", allow_inf_nan=False
    )

    artefact: Path | None = Field(None, description="the .onnx file; its manifest lies beside it. Default: the bundled")
    artefact_sha256_file: Path | None = Field(
        None, description="the list of sha256sum that must name both files of the artefact. Default: no list"
    )
    artefact_public_key: Path | None = Field(
        None,
        description="PEM file with the ECDSA public key that both files must be signed with. Default: no key",
    )
    artefact_vouched_only: bool = Field(
        False, description="refuse every artefact, the bundled one too, while neither list nor key is set"
    )
    provider: ProviderChoice = Field("auto", description="what onnxruntime computes on; auto: the best that works")
    engine_cache: Path | None = Field(
        None, description="folder for TensorRT's engines, which `marrowlens warm` fills. Default: built at every start"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    max_image_bytes: int = Field(10 * MIB, gt=0, description="largest picture, as it is sent")
    max_pixels: int = Field(16_000_000, gt=0, description="largest picture, width times height, once decoded")
    max_body_bytes: int = Field(256 * MIB, gt=0, description="largest body of a batch request")
    max_batch_images: int = Field(10_000, gt=0, description="most pictures in one batch request")
    max_batch_size: int = Field(16, gt=0, le=1024, description="most pictures in one call of the model")
    pad_batches: bool | None = Field(
        None, description="fill batches up to 1, 2, 4, 8, ... pictures. Default: on a GPU, which plans each size"
    )
    max_queue_delay_ms: float = Field(0, ge=0, le=10_000, description="how long an idle model waits for company")
    max_queue_size: int = Field(256, gt=0, description="pictures accepted and not yet answered; one more is refused")
    request_timeout_s: float = Field(30, gt=0, description="a picture not answered by then is given up")
    upload_timeout_s: float = Field(
        1800, gt=0, description="a body, or a line of NDJSON, that is not there by then is given up, however large"
    )
    max_run_s: float = Field(60, gt=0, description="a model call that takes longer: not ready, and the process ends")
    max_failed_runs: int = Field(5, gt=0, description="model calls that fail in a row: not ready, and the process ends")
    intra_op_threads: int | None = Field(None, gt=0, description="threads of one model call. Default: the CPU budget")
    decode_threads: int | None = Field(None, gt=0, description="pictures decoded at a time. Default: the CPU budget")
    drain_delay_s: float = Field(0, ge=0, description="not ready but still serving, before a shutdown starts")
    shutdown_timeout_s: float = Field(20, ge=0, description="for what was accepted to be answered at a shutdown")
    drift_window: int = Field(
        2000,
        ge=0,
        le=1_000_000,
        description="last pictures that input drift is measured over, 200 or more; 0: not measured",
    )
    drift_reference: Path | None = Field(
        None, description="what drift is measured from, by `marrowlens drift reference`. Default: the artefact's own"
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="least that is logged"
    )
    log_format: LogFormat = Field("text", description="json: one object a line, with the ids of request and trace")
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^/@?#\s]+(/[^?#\s]*)?$",
        description="base URL of a collector that traces are sent to by OTLP over HTTP. Default: no traces",
    )
    otlp_headers: SecretStr | None = Field(
        None, description="headers for that collector, such as authorization=Bearer%20…, with commas between"
    )
    trace_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="part of the traces recorded, of those whose caller has not decided"
    )
    trace_service_name: str = Field(
        "marrowlens", min_length=1, max_length=255, description="service.name of the traces"
    )
    count_other: bool = Field(False, description="count class OTH in the denominator of a differential")
    lis: LisSettings = Field(default_factory=LisSettings, description="what a laboratory may set, `MARROWLENS_LIS_*`")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then files of secrets. pydantic-settings itself lets unknown names pass."""
        _refuse_unknown(os.environ, known={*environment_names(), *secret_file_names()})
        return init_settings, env_settings, SecretFiles(settings_cls)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.max_queue_size < self.max_batch_size:
            raise ValueError(
                "MARROWLENS_MAX_QUEUE_SIZE is below MARROWLENS_MAX_BATCH_SIZE: no batch could ever be full"
            )
        if 0 < self.drift_window < MIN_DRIFT_WINDOW:
            raise ValueError(f"MARROWLENS_DRIFT_WINDOW is below {MIN_DRIFT_WINDOW}: so few pictures say nothing")
        if self.max_body_bytes < self.max_image_bytes:
            raise ValueError(
                "MARROWLENS_MAX_BODY_BYTES is below MARROWLENS_MAX_IMAGE_BYTES: no batch could hold the largest"
            )
        if names := paths_holding_urls(self):
            raise ValueError(f"{PREFIX}{names[0].upper()} is a URL; name a path of this machine")
        for name, headers in self._headers():
            if not _are_headers(headers):
                raise ValueError(
                    f"{name} is not NAME=VALUE in printable ASCII, with commas between; other characters are written "
                    "as %20 is for a space"
                )
        if self.otlp_endpoint and any(self._headers()) and (fault := transport_fault(self.otlp_endpoint)):
            raise ValueError(f"MARROWLENS_OTLP_ENDPOINT {fault}; the headers would be readable on the way")
        return self

    def _headers(self) -> Iterator[tuple[str, str]]:
        """What may name headers for the collector, by the name that it has in the environment."""
        if self.otlp_headers is not None:
            yield f"{PREFIX}OTLP_HEADERS", self.otlp_headers.get_secret_value()
        if self.otlp_endpoint:
            yield from ((name, os.environ[name]) for name in OTEL_HEADERS if os.environ.get(name))


def _are_headers(text: str) -> bool:
    """Whether each part is a header as OpenTelemetry reads it, and one that can be sent: its libraries log others
    with their values."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    decoded = unquote(text)
    return bool(parts) and all(map(_HEADER.fullmatch, parts)) and decoded.isascii() and decoded.isprintable()


def environment_name(field: str) -> str:
    """The name under which a setting stands in the environment: `max_batch_size` is `MARROWLENS_MAX_BATCH_SIZE`."""
    return PREFIX + field.upper()


def environment_names() -> dict[str, FieldInfo]:
    """Every name that may stand in the environment, and its setting; the laboratory's come last."""
    own = {environment_name(name): field for name, field in Settings.model_fields.items() if name != "lis"}
    return own | {LIS_PREFIX + name.upper(): field for name, field in LisSettings.model_fields.items()}


def secret_file_names() -> list[str]:
    """Every name under which a file may be named that holds a secret."""
    return [name + SUFFIX for name, field in environment_names().items() if is_secret(field)]


def read_settings(**chosen: Any) -> Settings:
    """The settings from the environment, with those chosen on the command line on top.

    Raises:
        SettingsError: an unknown name, a value out of bounds, or a file of a secret that cannot be used.
    """
    try:
        return Settings(**chosen)
    except ValidationError as error:
        prefix = LIS_PREFIX if error.title == LisSettings.__name__ else PREFIX
        said = [_sentence(prefix, found) for found in error.errors()]
        raise SettingsError("; ".join(said)) from error
    except SecretFileError as error:
        raise SettingsError(str(error)) from None


def _sentence(prefix: str, fault: ErrorDetails) -> str:
    # Of a SecretStr pydantic speaks as if it were a list.
    message = fault["msg"].removeprefix("Value error, ").replace("items after validation", "characters")
    if not fault["loc"]:
        return message
    name = prefix + str(fault["loc"][0]).upper()
    field = environment_names().get(name)
    if field is not None and fault["type"] == "string_pattern_mismatch":
        message = f"expected: {field.description}"
    return f"{name}{_shown(field, fault['input'])}: {message.replace('Input should be', 'must be')}"


def _shown(field: FieldInfo | None, value: object) -> str:
    """The value as it was set, unless it could hold a secret."""
    if field is None or is_secret(field) or not isinstance(value, str | int | float) or "@" in str(value):
        return ""
    return f"={str(value)[:100]}" if str(value).isprintable() and "://" not in str(value) else ""


def _refuse_unknown(names: Iterable[str], known: set[str]) -> None:
    strangers = sorted(name for name in names if name.upper().startswith(PREFIX) and name.upper() not in known)
    if strangers:
        raise SettingsError("; ".join(f"{name} is not a setting: {_hint(name.upper(), known)}" for name in strangers))


def _hint(name: str, known: set[str]) -> str:
    # Kubernetes gives every pod the addresses of the services in its namespace, in names like these.
    if name.startswith((f"{PREFIX}SERVICE_", f"{PREFIX}PORT_")):
        return "if it is the link of a Kubernetes service, set enableServiceLinks: false in the pod"
    return f"did you mean {closest_match(name, known)}?"
