"""What the laboratory's commands share: its settings, its database, who calls them, and how they stop."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from sqlalchemy.orm import Session

from service.auth.identity import Actor, Identity, NameRefused, checked_name
from service.config.settings import Settings, SettingsError, read_settings
from service.errors import StorageUnavailable
from service.lis.storage.database import Database, DatabaseRefused

#: Exit code of bad settings, or a database that does not answer.
CANNOT = 2


@contextmanager
def open_session(*, writing: bool = False) -> Iterator[Session]:
    """A transaction on the laboratory's database; ends the command where there is none."""
    with _database() as database, database.writing() if writing else database.reading() as session:
        yield session


@contextmanager
def _database() -> Iterator[Database]:
    try:
        database = Database.of(laboratory_settings().lis)
        try:
            yield database
        finally:
            database.close()
    except (DatabaseRefused, StorageUnavailable) as error:
        stop(f"MARROWLENS_LIS_DATABASE: {error}")


def laboratory_settings() -> Settings:
    """The settings; ends the command where they are bad, or of no laboratory."""
    try:
        settings = read_settings()
    except SettingsError as error:
        stop(str(error))
    if settings.lis.database is None:
        stop("there is no laboratory: set MARROWLENS_LIS_DATABASE")
    return settings


def operator() -> Actor:
    """Who calls the command, as the operating system says."""
    try:
        return Actor(checked_name(getpass.getuser(), "your login name"), Identity(kind="command"))
    except (NameRefused, OSError, KeyError) as error:  # KeyError: a container's user without a name, before Python 3.13
        stop(f"the audit trail needs a name: {error}; set LOGNAME")


def stop(message: str) -> NoReturn:
    """End the command with a line on stderr."""
    typer.echo(f"marrowlens: {message}", err=True)
    raise typer.Exit(CANNOT)
