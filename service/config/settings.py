"""Settings of the service, read once at start from `MARROWLENS_*` environment variables.

An unknown `MARROWLENS_*` name is an error. Nothing is read at import.
"""

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
PrecisionChoice = Literal["auto", "fp32", "bf16"]
LogFormat = Literal["text", "json"]

PREFIX = "MARROWLENS_"
MIB = 1024 * 1024
#: Minimum drift window in pictures. It moves on by a tenth, and a tenth of a shorter one would be too few.
MIN_DRIFT_WINDOW = 200

_HEADER = re.compile(r"[!#$&'*+.^_`|~0-9A-Za-z-]+[ \t]*=[ \t]*[^\",;\\]*")
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,32}")
#: OpenTelemetry's own variables for headers; its exporter reads them when `otlp_headers` is unset.
OTEL_HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")


class SettingsError(ValueError):
    """An unknown setting or an invalid value: gives the environment name, the value and the reason."""


def _networks(text: str) -> str:
    parse_networks(text)
    return text


def _class_codes(text: str) -> str:
    for code in parse_classes(text):
        if not _CODE.fullmatch(code):
            raise ValueError(f"{code!r} is not a class code; separate codes by commas, such as BLA,PMO")
    return text


def parse_classes(text: str) -> tuple[str, ...]:
    """The class codes in a comma-separated list."""
    return tuple(code.strip() for code in text.split(",") if code.strip())


def parse_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks in a comma-separated list; a single address counts as a network.

    Raises:
        ValueError: an entry is neither a network nor an address.
    """
    return tuple(ip_network(each.strip()) for each in text.split(",") if each.strip())


class HttpSettings(BaseModel):
    """Settings of connections and reverse proxies."""

    keep_alive_s: float = Field(
        75,
        gt=0,
        le=3600,
        description=(
            "seconds that an idle HTTP connection is kept open; set it longer than the keep-alive of "
            "the proxy or client in front"
        ),
    )
    max_connections: int = Field(
        1000,
        gt=0,
        le=1_000_000,
        description="maximum number of open connections; a further one replaces an idle connection, or gets 503",
    )
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        "",
        description=(
            "addresses or networks, separated by commas, from which X-Forwarded-For and "
            "X-Forwarded-Proto are accepted. Default: none"
        ),
    )
    root_path: str = Field(
        "",
        pattern=r"^((/[A-Za-z0-9._~-]+)+)?$",
        description="path prefix that a reverse proxy strips, such as /marrowlens; needed by the pages at /docs",
    )
    hsts_max_age_s: int = Field(
        31_536_000,
        ge=0,
        le=63_072_000,
        description="max-age of the Strict-Transport-Security header in seconds, sent over TLS only; 0: not sent",
    )


class Settings(BaseSettings, HttpSettings, AuthSettings):
    """All settings of one service, immutable. Keyword arguments (command line) override the environment.

    Raises:
        SettingsError: the environment has an unknown `MARROWLENS_*` name.
        pydantic.ValidationError: an invalid value; `read_settings` turns it into a SettingsError.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", allow_inf_nan=False
    )

    artefact: Path | None = Field(
        None, description="path of the .onnx file, with its manifest beside it. Default: the bundled model"
    )
    artefact_sha256_file: Path | None = Field(
        None, description="sha256sum list that both files of the artefact must match. Default: not checked"
    )
    artefact_public_key: Path | None = Field(
        None,
        description="PEM file with the ECDSA public key that both files must be signed with. Default: no key",
    )
    artefact_vouched_only: bool = Field(
        False,
        description="refuse every artefact, the bundled one included, unless a sha256sum list or a public key is set",
    )
    provider: ProviderChoice = Field(
        "auto", description="onnxruntime execution provider; auto: the first of tensorrt, cuda and cpu that works"
    )
    precision: PrecisionChoice = Field(
        "fp32",
        description=(
            "what the network's trunk is computed in. bf16: on `openvino`, with AVX512-BF16 or AMX; auto: bf16 where "
            "that works, otherwise fp32"
        ),
    )
    engine_cache: Path | None = Field(
        None,
        description=(
            "folder for TensorRT engines, filled by `marrowlens warm`. Default: engines are built at every start"
        ),
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0: a free port chosen by the system")
    workers: Literal["auto"] | Annotated[int, Field(gt=0, le=256)] = Field(
        1,
        description=(
            "number of processes that serve on the port; auto: one for each CPU of the quota. How limits divide: "
            "docs/workers.md"
        ),
    )
    max_image_bytes: int = Field(10 * MIB, gt=0, description="maximum size of one uploaded picture in bytes")
    max_pixels: int = Field(16_000_000, gt=0, description="maximum size of one decoded picture, width times height")
    max_body_bytes: int = Field(256 * MIB, gt=0, description="maximum body size of a batch request in bytes")
    max_batch_images: int = Field(10_000, gt=0, description="maximum number of pictures in one batch request")
    max_batch_size: int = Field(16, gt=0, le=1024, description="maximum number of pictures in one inference call")
    pad_batches: bool | None = Field(
        None,
        description=(
            "pad batches to 1, 2, 4, 8, ... pictures. Default: on a GPU only, where each batch size needs its own plan"
        ),
    )
    max_queue_delay_ms: float = Field(
        0, ge=0, le=10_000, description="maximum time to wait for a batch to fill while the model is idle, in ms"
    )
    max_queue_size: int = Field(
        256, gt=0, description="maximum number of pictures accepted and not yet answered; a further one gets 429"
    )
    request_timeout_s: float = Field(
        30, gt=0, description="timeout of one picture, from its acceptance to its answer, in seconds"
    )
    upload_timeout_s: float = Field(
        1800, gt=0, description="timeout of a request body, or of one line of NDJSON, in seconds, whatever its size"
    )
    max_run_s: float = Field(
        60,
        gt=0,
        description=(
            "maximum duration of one inference call in seconds; beyond it the service is not ready "
            "and the process exits"
        ),
    )
    max_failed_runs: int = Field(
        5,
        gt=0,
        description=(
            "maximum number of consecutive failed inference calls; at that number the service is not "
            "ready and the process exits"
        ),
    )
    intra_op_threads: int | None = Field(
        None, gt=0, description="onnxruntime threads per inference call. Default: the CPU budget, shared by the workers"
    )
    decode_threads: int | None = Field(
        None,
        gt=0,
        description="number of pictures decoded in parallel. Default: the CPU budget, shared by the workers",
    )
    drain_delay_s: float = Field(
        0,
        ge=0,
        description="seconds between SIGTERM and the end of accepting connections; not ready, but still serving",
    )
    shutdown_timeout_s: float = Field(20, ge=0, description="seconds to answer accepted requests at shutdown")
    drift_window: int = Field(
        2000,
        ge=0,
        le=1_000_000,
        description="number of most recent pictures that input drift is measured over, at least 200; 0: off",
    )
    drift_reference: Path | None = Field(
        None, description="file written by `marrowlens drift reference`. Default: NAME.drift.json beside the artefact"
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="minimum level of log lines"
    )
    log_format: LogFormat = Field(
        "text", description="text, or one JSON object a line with the ids of request and trace"
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^/@?#\s]+(/[^?#\s]*)?$",
        description="base URL of an OpenTelemetry collector (OTLP over HTTP). Default: no traces",
    )
    otlp_headers: SecretStr | None = Field(
        None,
        description=(
            "headers for the collector as NAME=VALUE, percent-encoded, separated by commas, such as "
            "authorization=Bearer%20…"
        ),
    )
    trace_sample_ratio: float = Field(
        1.0, ge=0, le=1, description="fraction of traces recorded when the client sends no sampling decision"
    )
    trace_service_name: str = Field(
        "marrowlens", min_length=1, max_length=255, description="service.name of the traces"
    )
    trust_reference: Path | None = Field(
        None,
        description="thresholds of this laboratory: file written by `marrowlens verify --write-trust`; every answer "
        "names it. Default: the trust reference inside the model's manifest",
    )
    review_classes: Annotated[str, AfterValidator(_class_codes)] = Field(
        "",
        description="classes that are always sent to review, as codes separated by commas, such as BLA,NIF; needs a "
        "model with a trust reference. Default: none",
    )
    count_other: bool = Field(False, description="include class OTH in the denominator of a differential")
    lis: LisSettings = Field(default_factory=LisSettings, description="settings of the laboratory, `MARROWLENS_LIS_*`")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Sources by precedence: arguments, environment, secret files. Also rejects unknown environment names, which
        pydantic-settings ignores."""
        _refuse_unknown(os.environ, known={*environment_names(), *secret_file_names()})
        return init_settings, env_settings, SecretFiles(settings_cls)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.precision == "bf16" and self.provider not in ("auto", "openvino"):
            raise ValueError(
                f"MARROWLENS_PRECISION=bf16 needs the provider openvino, MARROWLENS_PROVIDER is {self.provider}; set "
                "MARROWLENS_PROVIDER=openvino or MARROWLENS_PRECISION=fp32"
            )
        if self.max_queue_size < self.max_batch_size:
            raise ValueError(
                f"MARROWLENS_MAX_QUEUE_SIZE={self.max_queue_size} is below "
                f"MARROWLENS_MAX_BATCH_SIZE={self.max_batch_size}: "
                "no batch could fill; raise MARROWLENS_MAX_QUEUE_SIZE or lower MARROWLENS_MAX_BATCH_SIZE"
            )
        if 0 < self.drift_window < MIN_DRIFT_WINDOW:
            raise ValueError(
                f"MARROWLENS_DRIFT_WINDOW={self.drift_window} is below {MIN_DRIFT_WINDOW}; set more, or 0 for off"
            )
        if self.max_body_bytes < self.max_image_bytes:
            raise ValueError(
                f"MARROWLENS_MAX_BODY_BYTES={self.max_body_bytes} is below MARROWLENS_MAX_IMAGE_BYTES="
                f"{self.max_image_bytes}: no batch could hold the largest picture; raise MARROWLENS_MAX_BODY_BYTES or "
                "lower MARROWLENS_MAX_IMAGE_BYTES"
            )
        if names := paths_holding_urls(self):
            raise ValueError(f"{PREFIX}{names[0].upper()} is a URL; set a path on this machine")
        for name, headers in self._headers():
            if not _are_headers(headers):
                raise ValueError(
                    f"{name} is not a list of NAME=VALUE in printable ASCII, separated by commas; percent-encode other "
                    "characters, such as %20 for a space"
                )
        if self.otlp_endpoint and any(self._headers()) and (fault := transport_fault(self.otlp_endpoint)):
            raise ValueError(f"MARROWLENS_OTLP_ENDPOINT {fault}; the headers would be sent unencrypted")
        return self

    def _headers(self) -> Iterator[tuple[str, str]]:
        """Environment name and value of each setting that holds headers for the collector."""
        if self.otlp_headers is not None:
            yield f"{PREFIX}OTLP_HEADERS", self.otlp_headers.get_secret_value()
        if self.otlp_endpoint:
            yield from ((name, os.environ[name]) for name in OTEL_HEADERS if os.environ.get(name))


def _are_headers(text: str) -> bool:
    """Whether each part is a header that OpenTelemetry can parse and send. It logs invalid ones, values included."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    decoded = unquote(text)
    return bool(parts) and all(map(_HEADER.fullmatch, parts)) and decoded.isascii() and decoded.isprintable()


def environment_name(field: str) -> str:
    """The environment name of a field: `MARROWLENS_MAX_BATCH_SIZE` for `max_batch_size`."""
    return PREFIX + field.upper()


def environment_names() -> dict[str, FieldInfo]:
    """All environment names and their fields, those of the laboratory last."""
    own = {environment_name(name): field for name, field in Settings.model_fields.items() if name != "lis"}
    return own | {LIS_PREFIX + name.upper(): field for name, field in LisSettings.model_fields.items()}


def secret_file_names() -> list[str]:
    """All `NAME_FILE` variables that may name the file of a secret."""
    return [name + SUFFIX for name, field in environment_names().items() if is_secret(field)]


def read_settings(**chosen: Any) -> Settings:
    """The settings from the environment, overridden by those from the command line.

    Raises:
        SettingsError: an unknown name, an invalid value, or an unusable secret file.
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
    # pydantic reports the length of a SecretStr as if it were a list.
    message = fault["msg"].removeprefix("Value error, ").replace("items after validation", "characters")
    if not fault["loc"]:
        return message
    name = prefix + str(fault["loc"][0]).upper()
    field = environment_names().get(name)
    if field is not None and fault["type"] == "string_pattern_mismatch":
        message = f"expected: {field.description}"
    return f"{name}{_shown(field, fault['input'])}: {message.replace('Input should be', 'must be')}"


def _shown(field: FieldInfo | None, value: object) -> str:
    """`=VALUE` for the message; empty if the value could contain a secret."""
    if field is None or is_secret(field) or not isinstance(value, str | int | float) or "@" in str(value):
        return ""
    return f"={str(value)[:100]}" if str(value).isprintable() and "://" not in str(value) else ""


def _refuse_unknown(names: Iterable[str], known: set[str]) -> None:
    strangers = sorted(name for name in names if name.upper().startswith(PREFIX) and name.upper() not in known)
    if strangers:
        raise SettingsError("; ".join(f"{name} is not a setting: {_hint(name.upper(), known)}" for name in strangers))


def _hint(name: str, known: set[str]) -> str:
    # Kubernetes injects variables with these prefixes for each Service of the namespace.
    if name.startswith((f"{PREFIX}SERVICE_", f"{PREFIX}PORT_")):
        return "if Kubernetes injected it for a Service, set enableServiceLinks: false in the pod"
    return f"did you mean {closest_match(name, known)}?"
