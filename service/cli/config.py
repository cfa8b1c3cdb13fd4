"""`marrowlens config …`: what is in force and where it comes from, and the page of all settings.

Knows words and exit codes. Secrets are never printed. Starts nothing and opens no model: that is `marrowlens doctor`.
"""

import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import SecretStr
from rich import box
from rich.console import Console
from rich.table import Table

from model.contract import ArtefactError
from service.auth.api_keys import KeysRefused, read_keys
from service.cli import settings_page
from service.config.lis import LIS_PREFIX, LisSettings
from service.config.secret_files import SUFFIX, is_secret
from service.config.settings import PREFIX, Settings, SettingsError, read_settings
from service.config.urls import is_loopback, redact_url
from service.runtime.artifact import bundled_artefact, read_artefact
from service.runtime.loader import verifier
from service.runtime.signatures import TrustFileError, read_key, read_list
from service.server.tls import Tls, TlsConfigError

CANNOT = 2
PAGE = Path("docs/settings.md")

config = typer.Typer()


@config.command()
def check(as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False) -> None:
    """Print the settings in force and their sources; fail on a name that is none, a value or a file that is off."""
    try:
        settings = read_settings()
    except SettingsError as error:
        _stop(str(error))
    rows = [*_rows(settings, PREFIX), *_rows(settings.lis, LIS_PREFIX)]
    if as_json:
        typer.echo(json.dumps({name: {"value": value, "source": source} for name, value, source in rows}, indent=2))
    else:
        table = Table("setting", "value", "source", box=box.SIMPLE)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    if faults := [*_faults(settings), *_faults_of_the_laboratory(settings)]:
        _stop("\nmarrowlens: ".join(faults))


@config.command()
def docs(
    out: Annotated[Path, typer.Option(help="Where to write it.")] = PAGE,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when the page is stale.")] = False,
) -> None:
    """Write the page of all settings."""
    text = settings_page.page()
    if not check:
        out.write_text(text, encoding="utf-8")
    elif not out.exists() or out.read_text(encoding="utf-8") != text:
        typer.echo(f"marrowlens: {out} is stale; run `marrowlens config docs`", err=True)
        raise typer.Exit(1)


def _rows(settings: Settings | LisSettings, prefix: str) -> Iterator[tuple[str, str, str]]:
    there = {name.upper() for name, value in os.environ.items() if value}
    for field, declared in type(settings).model_fields.items():
        if field != "lis":
            name = prefix + field.upper()
            by_file = is_secret(declared) and name + SUFFIX in there
            source = "file" if by_file else "environment" if name in there else "default"
            yield name, redact_url(_shown(getattr(settings, field))), source


def _shown(value: object) -> str:
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


def _faults(settings: Settings) -> Iterator[str]:
    if settings.keys_file is not None:
        try:
            if not read_keys(settings.keys_file):
                yield f"MARROWLENS_KEYS_FILE: {settings.keys_file} holds no key, so that nobody can come in by one"
        except KeysRefused as error:
            yield f"MARROWLENS_KEYS_FILE: {error}"
    if settings.tls_cert is not None:
        try:
            Tls(settings)
        except TlsConfigError as error:
            yield str(error)
    if not (settings.authentication_required or settings.allow_anonymous or is_loopback(settings.host)):
        yield f"{PREFIX}HOST: others reach {settings.host}, and nobody is asked who he is; name keys or an issuer"
    if settings.otlp_endpoint is not None and find_spec("opentelemetry.sdk") is None:
        yield f"{PREFIX}OTLP_ENDPOINT: what sends traces is not installed (docs/traces.md)"
    yield from _faults_of_the_issuer(settings)
    if settings.drift_reference is not None and not settings.drift_reference.is_file():
        yield f"{PREFIX}DRIFT_REFERENCE: there is no file {settings.drift_reference}"
    if settings.lis.database_ca is not None and not settings.lis.database_ca.is_file():
        yield f"{LIS_PREFIX}DATABASE_CA: there is no file {settings.lis.database_ca}"
    yield from _faults_of_the_model(settings)


def _faults_of_the_issuer(settings: Settings) -> Iterator[str]:
    if settings.oidc_ca is None:
        return
    from service.auth.issuer import trust  # its libraries take 20 MB

    try:
        trust(settings.oidc_ca)
    except SettingsError as error:
        yield str(error)


def _faults_of_the_laboratory(settings: Settings) -> Iterator[str]:
    """What its start would fail by. What it would warn of is printed."""
    if settings.lis.database is None:
        return
    from service.lis.laboratory import exposed_files, setting_faults  # its libraries take 40 MB

    for warning in exposed_files(settings.lis):
        typer.echo(f"marrowlens: warning: {warning}", err=True)
    yield from setting_faults(settings.lis)


def _faults_of_the_model(settings: Settings) -> Iterator[str]:
    if faults := list(_faults_of_verification(settings)):
        yield from faults
        return
    try:
        read_artefact(settings.artefact or bundled_artefact(), verifier(settings))
    except ArtefactError as error:
        yield f"the model: {error}"


def _faults_of_verification(settings: Settings) -> Iterator[str]:
    try:
        if settings.artefact_sha256_file is not None:
            read_list(settings.artefact_sha256_file)
        if settings.artefact_public_key is not None:
            read_key(settings.artefact_public_key)
    except TrustFileError as error:
        yield f"verification of the model: {error}"


def _stop(message: str) -> NoReturn:
    typer.echo(f"marrowlens: {message}", err=True)
    raise typer.Exit(CANNOT)
