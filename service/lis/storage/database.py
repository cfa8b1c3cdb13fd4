"""One laboratory's database: its engine, its transactions, and its tables brought up to date.

Knows what differs between SQLite and PostgreSQL. Does not know what is stored. Everything here blocks: call it in a
thread.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from service.config.lis import LisSettings
from service.errors import StorageUnavailable
from service.lis.storage.file_rights import make_file
from service.lis.storage.postgres_tls import UnsafeConnection, refusal, secured

_MIGRATIONS = Path(__file__).with_name("migrations")
#: How long a writer waits for another one before it gives up.
_LOCK_WAIT_S = 10
#: Any number, as long as nobody else locks it: marrowlens' migrations, one at a time.
_MIGRATION_LOCK = 7_241_966_021


class DatabaseRefused(Exception):
    """The database cannot be used as the settings name it; the message holds no password."""


class DatabaseFailed(Exception):
    """The database does not do what it was asked, by its kind: the driver's own words can hold rows of patients."""

    def __init__(self, error: DBAPIError) -> None:
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None) or "no code"
        super().__init__(f"{type(error.orig).__name__} ({state})")


class Database:
    """Transactions on one database. On SQLite a writer holds the whole file from its first statement on."""

    def __init__(self, url: str, sslmode: str | None = None, authority: Path | None = None) -> None:
        """
        Args:
            sslmode, authority: of TLS to PostgreSQL; see `postgres_tls`.

        Raises:
            DatabaseRefused: not a URL of SQLite or PostgreSQL, its driver is not installed, its folder is missing, or
                it would be reached without TLS by mistake.
        """
        self.engine = _engine(url, sslmode, authority)
        self.is_sqlite = self.engine.dialect.name == "sqlite"

    @classmethod
    def of(cls, settings: LisSettings) -> "Database":
        """The database that the settings name. Raises DatabaseRefused."""
        assert settings.database is not None, "without a database there is no laboratory"
        return cls(settings.database.get_secret_value(), settings.database_sslmode, settings.database_ca)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that is committed at the end of the block, and rolled back when the block raises.

        Raises:
            StorageUnavailable: the database cannot be reached, is locked for too long, or went away. At the commit
                nobody knows then whether it was done.
        """
        with self._session("write") as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that sees one state of everything, and never waits for a writer.

        Raises:
            StorageUnavailable: the database cannot be reached.
        """
        with self._session("read") as session:
            yield session

    @contextmanager
    def _session(self, purpose: str) -> Iterator[Session]:
        level = {} if self.is_sqlite or purpose == "write" else {"isolation_level": "REPEATABLE READ"}
        engine = self.engine.execution_options(marrowlens_purpose=purpose, **level)
        try:
            with Session(engine, expire_on_commit=False) as session:
                yield session
        except DBAPIError as error:
            if error.connection_invalidated or type(error).__name__ in ("OperationalError", "InterfaceError"):
                raise StorageUnavailable from None
            raise DatabaseFailed(error) from None

    def migrate(self) -> None:
        """Bring the tables to this version of the service; several that start at once wait for each other.

        Raises:
            StorageUnavailable: the database cannot be reached.
            DatabaseRefused: it was made by a later version.
        """
        config = _alembic()
        try:
            with self.engine.execution_options(marrowlens_purpose="write").begin() as connection:
                if not self.is_sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except DBAPIError as error:
            raise _unreachable(error) from error
        except CommandError as error:
            raise DatabaseRefused(f"the database is of another version of marrowlens: {error}") from error

    def is_current(self) -> bool:
        """Whether the tables are those of this version of the service. Changes nothing.

        Raises:
            StorageUnavailable: the database cannot be reached.
            DatabaseRefused: it was made by a later version.
        """
        scripts = ScriptDirectory.from_config(_alembic())
        try:
            with self.engine.execution_options(marrowlens_purpose="read").connect() as connection:
                found = set(MigrationContext.configure(connection).get_current_heads())
        except DBAPIError as error:
            raise _unreachable(error) from error
        if unknown := found - {script.revision for script in scripts.walk_revisions()}:
            raise DatabaseRefused(f"the database is of another version of marrowlens: {', '.join(sorted(unknown))}")
        return found == set(scripts.get_heads())

    def close(self) -> None:
        """Close every connection: one in use when its transaction ends."""
        event.listen(self.engine.pool, "checkin", lambda _, used: used.invalidate())
        self.engine.dispose()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def _unreachable(error: DBAPIError) -> Exception:
    """What a failed connection is: no TLS as the settings want it, which no waiting mends, or a server that is away."""
    if meaning := refusal(str(error.orig)):
        return DatabaseRefused(meaning)
    return StorageUnavailable()


def _engine(url: str, sslmode: str | None, authority: Path | None) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise DatabaseRefused(f"{parsed.get_backend_name()} is not a database that is used here: take {_FORMS}")
        if parsed.get_backend_name() == "postgresql":
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            parsed = secured(parsed, sslmode, authority)
            waiting = {"connect_timeout": _LOCK_WAIT_S}
            return create_engine(parsed, pool_pre_ping=True, hide_parameters=True, connect_args=waiting)
        if sslmode or authority:
            raise DatabaseRefused("SQLite is a file: MARROWLENS_LIS_DATABASE_SSLMODE and _CA are for PostgreSQL")
        return _sqlite(parsed.database)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise DatabaseRefused("PostgreSQL needs its driver: pip install -e '.[postgres]'") from error
    except UnsafeConnection as error:
        raise DatabaseRefused(str(error)) from error
    except (ArgumentError, ValueError):  # the latter quotes what it takes for a port, which may be of a password
        raise DatabaseRefused(
            f"this is not the URL of a database: take {_FORMS}; in a password write %40 for @ and %3A for :"
        ) from None


_FORMS = "sqlite:////folder/lab.db or postgresql+psycopg://user@host/name"


def _sqlite(path: str | None) -> Engine:
    if not path or path == ":memory:":
        raise DatabaseRefused("SQLite needs a file: what is in memory is lost with the process")
    if not Path(path).absolute().parent.is_dir():
        raise DatabaseRefused(f"there is no folder {Path(path).absolute().parent} for the database")
    engine = create_engine(f"sqlite:///{path}", hide_parameters=True, connect_args={"timeout": _LOCK_WAIT_S})
    # SQLite gives -wal, -shm and -journal the rights of the file itself.
    event.listen(engine, "do_connect", lambda *_: make_file(Path(path)))
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def sqlite_files(url: str) -> list[Path]:
    """The files that a database of SQLite consists of, whether they are there or not; none of PostgreSQL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the start says so
        return []
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return []
    return [Path(parsed.database + ending) for ending in ("", "-wal", "-shm", "-journal")]


def _prepare(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver begins no transactions by itself: `_begin` does
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Any) -> None:
    # A reader that became a writer half way would fail with "database is locked" instead of waiting.
    writes = connection.get_execution_options().get("marrowlens_purpose") == "write"
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
