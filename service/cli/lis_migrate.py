"""`marrowlens lis migrate`: the tables brought up to date before the service uses them, or waited for.

Knows words, exit codes and how long to wait. What the tables are, `database` and its migrations know.
"""

import time
from collections.abc import Callable
from contextlib import closing
from typing import Annotated, NoReturn

import typer

from service.config.settings import SettingsError, read_settings
from service.errors import StorageUnavailable
from service.lis.storage.database import Database, DatabaseRefused

NOT_YET = 1
#: Bad settings, or a database that does not answer or is not ours.
CANNOT = 2
#: Between two looks at a database that is waited for.
_AGAIN_S = 1.0


def migrate(
    wait_s: Annotated[float, typer.Option(min=0, help="How long the database is waited for.")] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing: wait until the tables are this version's.")
    ] = False,
) -> None:
    """Make the database's tables, or bring them to this version; `serve` does it too.

    May be called again, and by several at a time: one does it and the others wait. With --wait-s and --check it is
    what a replica runs before it starts, while a job beside it migrates.

    Exit codes: 0 the tables are this version's, 1 with --check they are not, 2 the database does not answer or is of a
    later version, or bad settings.
    """
    try:
        with closing(_database()) as database:
            done = _awaited(database.is_current if check else lambda: _migrated(database), wait_s)
    except SettingsError as error:
        _stop(str(error))
    except (DatabaseRefused, StorageUnavailable) as error:
        _stop(f"MARROWLENS_LIS_DATABASE: {error}")
    if not done:
        _stop("the tables are not this version's: marrowlens lis migrate", status=NOT_YET)
    typer.echo("the database is up to date")


def _database() -> Database:
    settings = read_settings().lis
    if settings.database is None:
        raise SettingsError("there is no laboratory: set MARROWLENS_LIS_DATABASE")
    return Database.of(settings)


def _migrated(database: Database) -> bool:
    database.migrate()
    return True


def _awaited(done: Callable[[], bool], wait_s: float) -> bool:
    """Ask until it is done or the time is over; the last answer counts, be it that nobody answers."""
    end_s = time.monotonic() + wait_s
    said = False
    while True:
        is_last = time.monotonic() >= end_s
        try:
            if (finished := done()) or is_last:
                return finished
        except StorageUnavailable:
            if is_last:
                raise
        if not said:
            typer.echo(f"marrowlens: not yet; waiting for up to {wait_s:g} s", err=True)
            said = True
        time.sleep(min(_AGAIN_S, max(0.0, end_s - time.monotonic())))


def _stop(message: str, status: int = CANNOT) -> NoReturn:
    typer.echo(f"marrowlens: {message}", err=True)
    raise typer.Exit(status)
