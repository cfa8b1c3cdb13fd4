"""`marrowlens keys …`: the file of API keys, written so that a running service takes it up at its next request.

Knows words and exit codes. A key is shown once, when it is made; the file holds its hash.
"""

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import tomlkit
import typer
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.table import Table

from model.regular_file import read_regular_file
from service.auth.api_keys import KeyEntry, KeysRefused, hash_of, names_alike, new_key, read_keys
from service.auth.callers import SCOPES

CANNOT = 2
FILE_VARIABLE = "MARROWLENS_KEYS_FILE"

keys = typer.Typer()
_TIMES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%z")
File = Annotated[Path | None, typer.Option(envvar=FILE_VARIABLE, help="The file of keys.")]


@keys.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose it is: a person or a machine, as the audit trail shall say it.")],
    scope: Annotated[list[str], typer.Option(help=f"What it opens, once for each: {', '.join(SCOPES)}.")],
    file: File = None,
    expires: Annotated[
        datetime | None,
        typer.Option(formats=[*_TIMES], help="From then on it opens nothing; UTC unless it says a zone."),
    ] = None,
    acts_for_others: Annotated[
        bool, typer.Option("--acts-for-others", help="X-Acting-User is believed from it: for what asks people itself.")
    ] = False,
    rate_per_s: Annotated[float | None, typer.Option(help="Requests a second. Default: MARROWLENS_RATE_PER_S.")] = None,
    burst: Annotated[int | None, typer.Option(help="Requests at once. Default: MARROWLENS_RATE_BURST.")] = None,
) -> None:
    """Make a key: its hash goes into the file, and it is printed, once. A second key of a name replaces none."""
    key, now = new_key(), datetime.now(UTC)
    ends = None if expires is None else expires.astimezone(UTC) if expires.tzinfo else expires.replace(tzinfo=UTC)
    if ends is not None and ends <= now:
        _stop(f"expires: {ends:%Y-%m-%d %H:%M} UTC is past, so that the key would open nothing")
    wishes = {
        "name": name,
        "sha256": hash_of(key),
        "scopes": sorted(scope),
        "expires": ends,
        "acts_for_others": acts_for_others or None,
        "rate_per_s": rate_per_s,
        "burst": burst,
    }
    entry = {name: value for name, value in wishes.items() if value is not None}
    try:
        KeyEntry.model_validate(entry)
    except ValidationError as error:
        _stop("; ".join(f"{each['loc'][0]}: {each['msg']}, not {each['input']}" for each in error.errors()))
    path = _path(file)
    document = _document(path)
    _check_name(path, name)
    document.setdefault("key", tomlkit.aot()).append(tomlkit.item(entry))
    _write(path, document)
    typer.echo(key)
    typer.echo(f"marrowlens: {name} may {', '.join(sorted(scope))}; {path} holds the hash. Keep the key now.", err=True)


@keys.command("list")
def list_keys(file: File = None) -> None:
    """Show the keys: whose they are, what they open, and how long."""
    table = Table("name", "id", "scopes", "expires", "acts for others", "requests a second", box=box.SIMPLE)
    now = datetime.now(UTC)
    for entry in _entries(_path(file)):
        ends = "never" if entry.expires is None else f"{entry.expires:%Y-%m-%d %H:%M} UTC"
        table.add_row(
            entry.name,
            entry.id,
            ", ".join(sorted(entry.scopes)),
            f"{ends}, over" if entry.expired(now) else ends,
            "yes" if entry.acts_for_others else "",
            "" if entry.rate_per_s is None else f"{entry.rate_per_s:g}",
        )
    Console().print(table)


@keys.command()
def revoke(
    which: Annotated[list[str], typer.Argument(help="Names, or ids as `list` shows them.", metavar="NAME_OR_ID...")],
    file: File = None,
) -> None:
    """Take keys out of the file: they open nothing from the next request on."""
    path = _path(file)
    entries = _entries(path)
    known = {word for entry in entries for word in (entry.name, entry.id)}
    if strangers := sorted(set(which) - known):
        _stop(f"{path} has no {', '.join(strangers)}")
    stays = [not {entry.name, entry.id} & set(which) for entry in entries]
    document = _document(path)
    kept = tomlkit.aot()
    for each, keep in zip(document["key"], stays, strict=True):
        if keep:
            kept.append(each)
    document["key"] = kept
    _write(path, document)
    typer.echo(f"{stays.count(False)} revoked, {stays.count(True)} left")


def _check_name(path: Path, name: str) -> None:
    """Stop where another key's name differs in upper and lower case only: the service would refuse the file."""
    there = _entries(path) if path.exists() else ()
    if clash := names_alike([*(each.name for each in there), name]):
        _stop(clash)


def _path(file: Path | None) -> Path:
    if file is None:
        _stop(f"say which file of keys: --file, or {FILE_VARIABLE}")
    return file


def _entries(path: Path) -> tuple[KeyEntry, ...]:
    try:
        return read_keys(path)
    except KeysRefused as error:
        _stop(str(error))


def _document(path: Path) -> tomlkit.TOMLDocument:
    if path.exists():
        _entries(path)  # a file that the service would refuse is not written to
        return tomlkit.parse(read_regular_file(path).decode())
    document = tomlkit.document()
    document.add(tomlkit.comment("Hashes of API keys; `marrowlens keys` writes it, and the service reads it anew."))
    return document


def _write(path: Path, document: tomlkit.TOMLDocument) -> None:
    """In one step and for its owner alone: the service never reads half of it."""
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as beside:
            beside.write(tomlkit.dumps(document))
        os.chmod(beside.name, mode)
        os.replace(beside.name, path)
    except OSError as error:
        _stop(f"{path}: {error.strerror}")


def _stop(message: str) -> NoReturn:
    typer.echo(f"marrowlens: {message}", err=True)
    raise typer.Exit(CANNOT)
