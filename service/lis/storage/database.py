"""The laboratory's database, SQLite or PostgreSQL: engine, transactions, migrations, TLS. All calls block."""

import os
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
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from service.config.lis import LisSettings
from service.config.urls import is_loopback
from service.errors import StorageUnavailable
from service.lis.storage.file_rights import make_file

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


#: Modes that try TLS and go on without it.
_FALL_BACK = ("allow", "prefer")


class UnsafeConnection(ValueError):
    """The way to the server that the settings ask for contradicts itself, or may fall back to plain text."""


def secured(url: URL, sslmode: str | None = None, authority: Path | None = None) -> URL:
    """The URL with an `sslmode`, and with what certificates are verified by.

    Args:
        sslmode: of the settings; else that of the URL, of PGSSLMODE, or the default: verify-full with an authority,
            require to another machine, libpq's own to this one.
        authority: PEM file of the settings; else the URL's sslrootcert or libpq's own file, or the system's.

    Raises:
        UnsafeConnection: two modes are named, or one that falls back to plain text on the way to another machine.
    """
    named = _one(url, "sslmode")
    if sslmode and named and sslmode != named:
        raise UnsafeConnection(f"its URL says sslmode={named} and the setting {sslmode}: name one")
    mode = sslmode or named or os.environ.get("PGSSLMODE")
    if mode is None:
        mode = "verify-full" if authority else None if _is_here(url) else "require"
    if mode in _FALL_BACK and not _is_here(url):
        raise UnsafeConnection(f"sslmode={mode} falls back to plain text; choose require, verify-full, or disable")
    if mode == "disable" and authority:
        raise UnsafeConnection("sslmode=disable verifies no certificate, and an authority for it is named")
    query = {} if mode is None else {"sslmode": mode}
    if authority:
        query["sslrootcert"] = str(authority)
    elif mode == "verify-full" and not (_one(url, "sslrootcert") or _libpq_has_an_authority()):
        query["sslrootcert"] = "system"
    return url.update_query_dict(query)


def refusal(said: str) -> str | None:
    """What libpq's words on a failed connection mean, where TLS is the reason; None where it is not."""
    if "server does not support SSL" in said:
        return "the server speaks no TLS; switch it on, or accept plain text: MARROWLENS_LIS_DATABASE_SSLMODE=disable"
    wrong_name, no_file = "server certificate for" in said, "root certificate file" in said
    if wrong_name or no_file or ("SSL error:" in said and "unexpected eof" not in said):
        return "the server's certificate is not verified; MARROWLENS_LIS_DATABASE_CA names the authority for it"
    return None


def _is_here(url: URL) -> bool:
    """Whether every server that the URL names is on this machine: by loopback, or by a Unix socket."""
    if "service" in url.query or os.environ.get("PGSERVICE"):  # named in a file of libpq's own
        return False
    return all(not host or host[0] in "/@" or is_loopback(host) for host in _hosts(url))


def _hosts(url: URL) -> Iterator[str]:
    named = _all(url, "hostaddr") or os.environ.get("PGHOSTADDR") or url.host or _all(url, "host")
    yield from (named or os.environ.get("PGHOST", "")).split(",")


def _all(url: URL, name: str) -> str:
    found = url.query.get(name, "")
    if isinstance(found, str):
        return found
    # Of several hosts SQLAlchemy takes a port each: host=a:5432&host=b:5433.
    return ",".join(each if each.startswith("/") else each.rpartition(":")[0] or each for each in found)


def _one(url: URL, name: str) -> str | None:
    found = url.query.get(name)
    return found if found is None or isinstance(found, str) else found[-1]


def _libpq_has_an_authority() -> bool:
    return bool(os.environ.get("PGSSLROOTCERT")) or Path("~/.postgresql/root.crt").expanduser().exists()
