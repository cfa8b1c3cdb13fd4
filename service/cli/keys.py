"""`marrowlens keys`: create, list and revoke API keys in the file that a running service hot-reloads.

A key is printed once, when it is created; the file holds its hash.
"""

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tomlkit
import typer
from pydantic import ValidationError

from model.regular_file import read_regular_file
from service.auth.api_keys import KeyEntry, KeysFileError, hash_of, new_key, read_keys, similar_names
from service.auth.identity import SCOPES
from service.cli.output import stop, warn
from service.cli.tables import new_table, print_tables

FILE_VARIABLE = "MARROWLENS_KEYS_FILE"

keys = typer.Typer()
_TIMES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%z")
File = Annotated[Path | None, typer.Option(envvar=FILE_VARIABLE, help="The file of keys.")]


@keys.command()
def new(
    name: Annotated[str, typer.Argument(help="Owner of the key, a person or a machine; goes into the audit trail.")],
    scope: Annotated[list[str], typer.Option(help=f"What the key may access; repeatable: {', '.join(SCOPES)}.")],
    file: File = None,
    expires: Annotated[
        datetime | None,
        typer.Option(formats=[*_TIMES], help="Expiry; UTC unless it has a time zone. Default: never."),
    ] = None,
    acts_for_others: Annotated[
        bool,
        typer.Option("--acts-for-others", help="Accept X-Acting-User, from a front end that signs people in."),
    ] = False,
    person: Annotated[
        bool, typer.Option("--person", help="The key belongs to one person, who may read cells and sign.")
    ] = False,
    rate_per_s: Annotated[
        float | None, typer.Option(help="Requests per second. Default: MARROWLENS_RATE_PER_S.")
    ] = None,
    burst: Annotated[int | None, typer.Option(help="Requests at once. Default: MARROWLENS_RATE_BURST.")] = None,
) -> None:
    """Create a key, write its hash to the file and print the key once. Other keys with the same name stay valid."""
    key, now = new_key(), datetime.now(UTC)
    expiry = None if expires is None else expires.astimezone(UTC) if expires.tzinfo else expires.replace(tzinfo=UTC)
    if expiry is not None and expiry <= now:
        stop(f"--expires: {expiry:%Y-%m-%d %H:%M} UTC is in the past; choose a later time")
    fields = {
        "name": name,
        "sha256": hash_of(key),
        "scopes": sorted(scope),
        "expires": expiry,
        "acts_for_others": acts_for_others or None,
        "person": person or None,
        "rate_per_s": rate_per_s,
        "burst": burst,
    }
    entry = {field: value for field, value in fields.items() if value is not None}
    try:
        KeyEntry.model_validate(entry)
    except ValidationError as error:
        stop("; ".join(f"{each['loc'][0]}: {each['msg']}, not {each['input']}" for each in error.errors()))
    path = _path(file)
    document = _document(path)
    existing = _entries(path) if path.exists() else ()
    if clash := similar_names([*(each.name for each in existing), name]):
        stop(clash)
    document.setdefault("key", tomlkit.aot()).append(tomlkit.item(entry))
    _write(path, document)
    typer.echo(key)
    warn(f"created a key for {name} (scopes: {', '.join(sorted(scope))}); its hash is in {path}. Save the key now.")


@keys.command("list")
def list_keys(file: File = None) -> None:
    """List the keys with their owners, scopes and expiry."""
    table = new_table("name", "id", "scopes", "expires", "acts for others", "person", "requests per second")
    now = datetime.now(UTC)
    for entry in _entries(_path(file)):
        expiry = "never" if entry.expires is None else f"{entry.expires:%Y-%m-%d %H:%M} UTC"
        table.add_row(
            entry.name,
            entry.id,
            ", ".join(sorted(entry.scopes)),
            f"{expiry}, expired" if entry.expired(now) else expiry,
            "yes" if entry.acts_for_others else "",
            "yes" if entry.person else "",
            "" if entry.rate_per_s is None else f"{entry.rate_per_s:g}",
        )
    print_tables(table)


@keys.command()
def revoke(
    which: Annotated[list[str], typer.Argument(help="Names, or ids as `list` prints them.", metavar="NAME_OR_ID...")],
    file: File = None,
) -> None:
    """Remove keys from the file; a running service refuses them from its next request on."""
    path = _path(file)
    entries = _entries(path)
    known = {word for entry in entries for word in (entry.name, entry.id)}
    if unknown := sorted(set(which) - known):
        stop(f"{path} has no key {', '.join(unknown)}; see `marrowlens keys list`")
    keep = [not {entry.name, entry.id} & set(which) for entry in entries]
    document = _document(path)
    remaining = tomlkit.aot()
    for each, is_kept in zip(document["key"], keep, strict=True):
        if is_kept:
            remaining.append(each)
    document["key"] = remaining
    _write(path, document)
    typer.echo(f"{keep.count(False)} revoked, {keep.count(True)} left")


def _path(file: Path | None) -> Path:
    if file is None:
        stop(f"no file of keys: set --file or {FILE_VARIABLE}")
    return file


def _entries(path: Path) -> tuple[KeyEntry, ...]:
    try:
        return read_keys(path)
    except KeysFileError as error:
        stop(str(error))


def _document(path: Path) -> tomlkit.TOMLDocument:
    if path.exists():
        _entries(path)  # exits if the service would refuse the file
        return tomlkit.parse(read_regular_file(path).decode())
    document = tomlkit.document()
    document.add(
        tomlkit.comment("Hashes of API keys, written by `marrowlens keys`. A running service reloads the file.")
    )
    return document


def _write(path: Path, document: tomlkit.TOMLDocument) -> None:
    """Replace the file atomically, readable by its owner only."""
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as unfinished:
            unfinished.write(tomlkit.dumps(document))
        os.chmod(unfinished.name, mode)
        os.replace(unfinished.name, path)
    except OSError as error:
        stop(f"{path}: {error.strerror}")
