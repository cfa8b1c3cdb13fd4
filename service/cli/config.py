"""`marrowlens config`: the settings in force with their sources and errors, and docs/settings.md."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from model.contract import ArtefactError
from service.auth.api_keys import KeysFileError, read_keys
from service.auth.roles import RolesFileError, read_roles
from service.cli.output import AsJson, Check, load_settings, stop, warn, write_or_check
from service.cli.serve import AUTHENTICATION_NEEDED, NO_FOLDER, allows_address
from service.cli.tables import new_table, print_tables
from service.config.auth import AuthSettings
from service.config.lis import LIS_PREFIX, LisSettings, unused_connection
from service.config.secret_files import SUFFIX, is_secret
from service.config.settings import PREFIX, Settings, SettingsError
from service.config.urls import redact_url
from service.runtime.artifact import bundled_artefact, read_artefact
from service.runtime.loader import artefact_verifier, check_review_classes, in_force
from service.runtime.signatures import TrustFileError, read_key, read_list
from service.server.tls import Tls, TlsConfigError

config = typer.Typer()


@config.command()
def check(as_json: AsJson = False) -> None:
    """Print the settings in force and their sources, and check the files that they name. Secrets are not printed.

    Starts nothing; `marrowlens doctor` runs the model. Exit codes: 0 no error, 2 errors.
    """
    settings = load_settings()
    rows = [*_rows(settings, PREFIX), *_rows(settings.lis, LIS_PREFIX)]
    if as_json:
        typer.echo(json.dumps({name: {"value": value, "source": source} for name, value, source in rows}, indent=2))
    else:
        table = new_table("setting", "value", "source")
        for row in rows:
            table.add_row(*row)
        print_tables(table)
    if errors := [*_errors(settings), *_laboratory_errors(settings)]:
        stop("\nmarrowlens: ".join(errors))


def _rows(settings: Settings | LisSettings, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Name, value and source of each setting."""
    environment = {name.upper() for name, value in os.environ.items() if value}
    for field, declared in type(settings).model_fields.items():
        if field != "lis":
            name = prefix + field.upper()
            is_from_file = is_secret(declared) and name + SUFFIX in environment
            source = "file" if is_from_file else "environment" if name in environment else "default"
            yield name, redact_url(_as_text(getattr(settings, field))), source


def _as_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return "(secret)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{key}={each}" for key, each in value.items())
    return str(value)


def _errors(settings: Settings) -> Iterator[str]:
    if settings.keys_file is not None:
        try:
            if not read_keys(settings.keys_file):
                yield f"{PREFIX}KEYS_FILE: {settings.keys_file} holds no key; run `marrowlens keys new`"
        except KeysFileError as error:
            yield f"{PREFIX}KEYS_FILE: {error}"
    if settings.roles_file is not None:
        try:
            read_roles(settings.roles_file)
        except RolesFileError as error:
            yield f"{PREFIX}ROLES_FILE: {error}"
    if settings.tls_cert is not None:
        yield from _error_of(lambda: Tls(settings), TlsConfigError)
    if not allows_address(settings, settings.host):
        yield f"{PREFIX}HOST: {AUTHENTICATION_NEEDED.format(host=settings.host)}"
    if settings.workers != 1 and not _has_temporary_folder():
        yield f"{PREFIX}WORKERS: {NO_FOLDER}"
    if settings.otlp_endpoint is not None and find_spec("opentelemetry.sdk") is None:
        yield f"{PREFIX}OTLP_ENDPOINT: opentelemetry-sdk is not installed (docs/traces.md)"
    if settings.oidc_ca is not None:
        from service.auth.oidc import issuer_ssl_context  # imports cryptography: 20 MB

        yield from _error_of(lambda: issuer_ssl_context(settings.oidc_ca), SettingsError)
    for name, path in (
        (f"{PREFIX}DRIFT_REFERENCE", settings.drift_reference),
        (f"{PREFIX}TRUST_REFERENCE", settings.trust_reference),
        (f"{LIS_PREFIX}DATABASE_CA", settings.lis.database_ca),
    ):
        if path is not None and not path.is_file():
            yield f"{name}: no such file: {path}"
    yield from _model_errors(settings)


def _has_temporary_folder() -> bool:
    try:
        return os.access(gettempdir(), os.W_OK)
    except FileNotFoundError:
        return False


def _laboratory_errors(settings: Settings) -> Iterator[str]:
    """Errors that a start would end with; warnings are printed."""
    if unused := unused_connection(settings.lis):
        yield unused
    if settings.lis.database is None:
        return
    from service.lis.laboratory import exposed_files, setting_faults  # imports SQLAlchemy: 40 MB

    for warning in exposed_files(settings.lis):
        warn(f"warning: {warning}")
    yield from setting_faults(settings.lis)


def _model_errors(settings: Settings) -> Iterator[str]:
    errors = [
        *_error_of(lambda: settings.artefact_sha256_file and read_list(settings.artefact_sha256_file), TrustFileError),
        *_error_of(lambda: settings.artefact_public_key and read_key(settings.artefact_public_key), TrustFileError),
    ]
    if errors:
        yield from (f"verification of the model: {error}" for error in errors)
    else:
        artefact = settings.artefact or bundled_artefact()
        yield from (f"model: {error}" for error in _error_of(lambda: _read_model(artefact, settings), ArtefactError))


def _read_model(artefact: Path, settings: Settings) -> None:
    """Read what a start reads of the model, without opening it.

    Raises:
        ArtefactError: it cannot be used with these settings.
    """
    manifest = in_force(read_artefact(artefact, artefact_verifier(settings))[1], settings)
    check_review_classes(artefact, manifest, settings)


def _error_of(action: Callable[[], object], kind: type[Exception]) -> Iterator[str]:
    """The message of the error that an action raises; nothing if it succeeds."""
    try:
        action()
    except kind as error:
        yield str(error)


@config.command()
def docs(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("docs/settings.md"),
    check: Check = False,
) -> None:
    """Write the documentation of all settings."""
    write_or_check(out, page(), "marrowlens config docs", check=check)


_HEAD = """# Settings

Generated by `marrowlens config docs`; a test fails if it is stale. All settings are read once, at the start, from the
environment. An unknown name that begins with `MARROWLENS_` is an error that suggests the nearest name.
`marrowlens config check` prints the settings in force with their sources, and checks the files that they name.

A secret can be read from a file instead: set `NAME_FILE` to its path and leave `NAME` unset. The file has one line of
UTF-8 text; the line end is not part of the secret. The file must not be writable by other users.

An empty value is the same as an unset one. If there is no default, the last column says what happens without a value.
"""
_BY_FORMAT = {"path": "path", "password": "secret"}
_BY_TYPE = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "array": "names, separated by commas",
    "object": "NAME=URI, separated by commas",
    "null": "",
}
_BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}


def page() -> str:
    """The documentation of all settings, in Markdown."""
    own = [name for name in Settings.model_fields if name not in AuthSettings.model_fields and name != "lis"]
    schema, laboratory = Settings.model_json_schema(), LisSettings.model_json_schema()
    sections: tuple[tuple[str, str, Iterable[str], Mapping[str, Any]], ...] = (
        ("The service", PREFIX, own, schema),
        ("Access and TLS", PREFIX, AuthSettings.model_fields, schema),
        ("The laboratory", LIS_PREFIX, LisSettings.model_fields, laboratory),
    )
    return _HEAD + "".join(f"\n## {title}\n\n{_section(prefix, names, of)}" for title, prefix, names, of in sections)


def _section(prefix: str, names: Iterable[str], schema: Mapping[str, Any]) -> str:
    rows = ["| variable | default | values | what |", "|---|---|---|---|"]
    for name in names:
        field = schema["properties"][name]
        variable, values = f"{prefix}{name.upper()}", _values(field)
        from_file = f". `{variable}{SUFFIX}`: path of a file with the value" if values == "secret" else ""
        rows.append(f"| `{variable}` | {_default(field)} | {values} | {_cell(field['description'])}{from_file} |")
    return "\n".join(rows) + "\n"


def _default(field: Mapping[str, Any]) -> str:
    value = field.get("default")
    if value in (None, {}, [], ""):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{','.join(value) if isinstance(value, list) else value}`"


def _values(field: Mapping[str, Any]) -> str:
    return _cell(" or ".join(filter(None, (_kind(each) for each in field.get("anyOf", [field])))))


def _kind(schema: Mapping[str, Any]) -> str:
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    kind = _BY_FORMAT.get(schema.get("format", "")) or _BY_TYPE[schema["type"]]
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return f"{kind} {', '.join(bounds)}".strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
