"""The laboratory's database, SQLite or PostgreSQL: engine, transactions, migrations, TLS. All calls block."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
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
from service.lis.storage.file_rights import create_private_file

_MIGRATIONS = Path(__file__).with_name("migrations")
#: Time-out of connecting.
_CONNECT_S = 10
#: Longest wait in s for other connections, before the log of SQLite is emptied.
_LOG_WAIT_S = 0.5
#: PostgreSQL advisory lock of the migrations; an arbitrary number.
_MIGRATION_LOCK = 7_241_966_021


class DatabaseConfigError(Exception):
    """The database settings are unusable. The message holds no password."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of a statement: its wait for locks, and, on PostgreSQL, its whole duration."""

    lock_s: float = 10
    statement_s: float = 25


class DatabaseError(Exception):
    """A database error, by its type and code; the driver's text can quote patients' data."""

    def __init__(self, error: DBAPIError) -> None:
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None) or "no code"
        super().__init__(f"{type(error.orig).__name__} ({state})")


class Database:
    """Transactions on one database. On SQLite a writer locks the whole file."""

    def __init__(
        self, url: str, sslmode: str | None = None, authority: Path | None = None, timeouts: Timeouts = Timeouts()
    ) -> None:
        """
        Args:
            sslmode, authority: TLS to PostgreSQL; see `with_tls`.

        Raises:
            DatabaseConfigError: no URL of SQLite or PostgreSQL, the driver or folder is missing, or a remote
                server could be reached without TLS.
        """
        self.engine = _engine(url, sslmode, authority, timeouts)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._closed = False

    @classmethod
    def of(cls, settings: LisSettings) -> "Database":
        """The configured database. Raises DatabaseConfigError."""
        assert settings.database is not None, "without a database there is no laboratory"
        timeouts = Timeouts(settings.database_lock_timeout_s, settings.database_statement_timeout_s)
        return cls(settings.database.get_secret_value(), settings.database_sslmode, settings.database_ca, timeouts)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction: committed at the end of the block, rolled back if it raises.

        Raises:
            StorageUnavailable: the database does not answer, or is locked for too long. If the commit fails so, the
                outcome is unknown.
        """
        with self._session("write") as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read-only transaction with a consistent snapshot; never waits for a writer.

        Raises:
            StorageUnavailable: the database does not answer.
        """
        with self._session("read") as session:
            yield session

    @contextmanager
    def _session(self, purpose: str) -> Iterator[Session]:
        if self._closed:  # a thread that goes on after the service has stopped must not open a connection again
            raise StorageUnavailable
        level = {} if self.is_sqlite or purpose == "write" else {"isolation_level": "REPEATABLE READ"}
        engine = self.engine.execution_options(marrowlens_purpose=purpose, **level)
        try:
            with Session(engine, expire_on_commit=False) as session:
                yield session
        except DBAPIError as error:
            if error.connection_invalidated or type(error).__name__ in ("OperationalError", "InterfaceError"):
                raise StorageUnavailable from None
            raise DatabaseError(error) from None

    def migrate(self) -> None:
        """Migrate the tables to this version of the service; parallel calls wait for each other.

        Raises:
            StorageUnavailable: the database does not answer.
            DatabaseConfigError: the tables are of a later version.
        """
        config = _alembic()
        try:
            with self.engine.execution_options(marrowlens_purpose="write").begin() as connection:
                if not self.is_sqlite:
                    connection.execute(text("SET LOCAL lock_timeout = 0"))  # a migration takes as long as it takes
                    connection.execute(text("SET LOCAL statement_timeout = 0"))
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except DBAPIError as error:
            raise _unreachable(error) from error
        except CommandError as error:
            raise DatabaseConfigError(
                f"the tables are of a later version of marrowlens: {error}; update the service"
            ) from error

    def is_current(self) -> bool:
        """Whether the tables are of this version of the service. Changes nothing; a missing SQLite file is not created.

        Raises:
            StorageUnavailable: the database does not answer.
            DatabaseConfigError: the tables are of a later version.
        """
        return not self._is_missing_file() and self._found_revisions() == set(_scripts().get_heads())

    def check_exists(self) -> None:
        """Check that the SQLite file exists: a connection would create it.

        Raises:
            DatabaseConfigError: it does not exist.
        """
        if self._is_missing_file():
            raise DatabaseConfigError(
                f"the file {self.engine.url.database} does not exist; check the path, or create it with "
                "`marrowlens lis migrate`"
            )

    def check_tables(self) -> None:
        """Check that the tables exist and are of this version of the service. Changes nothing.

        Raises:
            StorageUnavailable: the database does not answer.
            DatabaseConfigError: the SQLite file or the tables do not exist, or the tables are of another version.
        """
        self.check_exists()
        found = self._found_revisions()
        if not found:
            raise DatabaseConfigError("the database has no tables; check its name, or run `marrowlens lis migrate`")
        if found != set(_scripts().get_heads()):
            raise DatabaseConfigError("the tables are of an earlier version; run `marrowlens lis migrate`")

    def _is_missing_file(self) -> bool:
        path = self.engine.url.database
        return self.is_sqlite and path is not None and not Path(path).exists()

    def _found_revisions(self) -> set[str]:
        """Revisions of the tables; empty without tables.

        Raises:
            StorageUnavailable: the database does not answer.
            DatabaseConfigError: the tables are of a later version.
        """
        try:
            with self.engine.execution_options(marrowlens_purpose="read").connect() as connection:
                found = set(MigrationContext.configure(connection).get_current_heads())
        except DBAPIError as error:
            raise _unreachable(error) from error
        if unknown := found - {script.revision for script in _scripts().walk_revisions()}:
            raise DatabaseConfigError(
                f"the tables are of a later version of marrowlens: {', '.join(sorted(unknown))}; update"
            )
        return found

    def empty_log(self) -> bool:
        """Whether SQLite's write-ahead log is empty now: until then it keeps what was erased. PostgreSQL needs no call.

        It is not emptied while a long read or write is in progress, so that nobody waits for it.
        """
        path = self.engine.url.database
        if not self.is_sqlite or path is None:
            return True
        try:
            with closing(sqlite3.connect(path, _LOG_WAIT_S)) as connection:
                is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:  # locked, or the disk is full
            return False
        return not is_busy

    def close(self) -> None:
        """Close every connection, one in use when its transaction ends, and open none any more."""
        self._closed = True
        event.listen(self.engine.pool, "checkin", lambda _, used: used.invalidate())
        self.engine.dispose()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic())


def _unreachable(error: DBAPIError) -> Exception:
    """The error of a failed connection: a TLS configuration error, or StorageUnavailable."""
    if meaning := tls_error(str(error.orig)):
        return DatabaseConfigError(meaning)
    return StorageUnavailable()


def _engine(url: str, sslmode: str | None, authority: Path | None, timeouts: Timeouts) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise DatabaseConfigError(f"unsupported database {parsed.get_backend_name()}; use {_FORMS}")
        if parsed.get_backend_name() == "postgresql":
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            parsed = with_tls(parsed, sslmode, authority)
            return _postgresql(parsed, timeouts)
        if sslmode or authority:
            raise DatabaseConfigError("MARROWLENS_LIS_DATABASE_SSLMODE and _CA are for PostgreSQL, not for SQLite")
        return _sqlite(parsed.database, timeouts)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise DatabaseConfigError(
            "the PostgreSQL driver is not installed; run: pip install -e '.[postgres]'"
        ) from error
    except InsecureConnection as error:
        raise DatabaseConfigError(str(error)) from error
    except (ArgumentError, ValueError):  # a ValueError quotes an invalid port, which can be part of a password
        raise DatabaseConfigError(
            f"invalid database URL; use {_FORMS}; in a password write %40 for @ and %3A for :"
        ) from None


_FORMS = "sqlite:////folder/lab.db or postgresql+psycopg://user@host/name"


def _postgresql(url: URL, timeouts: Timeouts) -> Engine:
    # A server that vanished from the network is noticed as soon as one that does not answer.
    silence = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    silence["tcp_user_timeout"] = _ms(timeouts.statement_s)
    engine = create_engine(
        url, pool_pre_ping=True, hide_parameters=True, connect_args={"connect_timeout": _CONNECT_S, **silence}
    )

    def limit(connection: Any, _: ConnectionPoolEntry) -> None:
        connection.autocommit = True  # a rollback would undo the settings
        connection.execute(f"SET lock_timeout = {_ms(timeouts.lock_s)}")
        connection.execute(f"SET statement_timeout = {_ms(timeouts.statement_s)}")
        connection.autocommit = False

    event.listen(engine, "connect", limit)
    return engine


def _ms(seconds: float) -> int:
    """Whole milliseconds, at least one: 0 would be no limit."""
    return max(1, round(1000 * seconds))


def _sqlite(path: str | None, timeouts: Timeouts) -> Engine:
    if not path or path == ":memory:":
        raise DatabaseConfigError("an in-memory SQLite database would be lost with the process; name a file")
    if not Path(path).absolute().parent.is_dir():
        raise DatabaseConfigError(f"the database's folder {Path(path).absolute().parent} does not exist; create it")
    engine = create_engine(f"sqlite:///{path}", hide_parameters=True, connect_args={"timeout": timeouts.lock_s})
    # SQLite gives -wal, -shm and -journal the permissions of the database file.
    event.listen(engine, "do_connect", lambda *_: create_private_file(Path(path)))
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def sqlite_paths(url: str) -> list[Path]:
    """The files of an SQLite database, existing or not; empty for PostgreSQL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # reported by Database.of
        return []
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return []
    return [Path(parsed.database + ending) for ending in ("", "-wal", "-shm", "-journal")]


def _prepare(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin`, not by the driver
    # secure_delete: what is erased is overwritten, not only unlinked.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Any) -> None:
    # A transaction that turns into a writer would fail with "database is locked" instead of waiting.
    writes = connection.get_execution_options().get("marrowlens_purpose") == "write"
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


#: Modes that fall back to plain text without TLS.
_FALL_BACK = ("allow", "prefer")


class InsecureConnection(ValueError):
    """The TLS settings contradict each other, or allow a fallback to plain text."""


def with_tls(url: URL, sslmode: str | None = None, authority: Path | None = None) -> URL:
    """The URL with an `sslmode` and the authority that verifies certificates.

    libpq's default, prefer, falls back to plain text silently. Here a remote server needs TLS unless it is disabled.

    Args:
        sslmode: from the settings; default: the URL's, PGSSLMODE, verify-full with an authority, require to another
            machine, or libpq's default to this one.
        authority: PEM file from the settings; default: the URL's sslrootcert, libpq's own file, or the system's.

    Raises:
        InsecureConnection: two different modes, or a mode that falls back to plain text to another machine.
    """
    named = _one(url, "sslmode")
    if sslmode and named and sslmode != named:
        raise InsecureConnection(f"the URL has sslmode={named}, the setting {sslmode}; set one")
    mode = sslmode or named or os.environ.get("PGSSLMODE")
    if mode is None:
        mode = "verify-full" if authority else None if _is_here(url) else "require"
    if mode in _FALL_BACK and not _is_here(url):
        raise InsecureConnection(f"sslmode={mode} falls back to plain text; use require, verify-full or disable")
    if mode == "disable" and authority:
        raise InsecureConnection(
            "sslmode=disable verifies no certificate, but MARROWLENS_LIS_DATABASE_CA is set; remove one"
        )
    query = {} if mode is None else {"sslmode": mode}
    if authority:
        query["sslrootcert"] = str(authority)
    elif mode == "verify-full" and not (_one(url, "sslrootcert") or _libpq_has_an_authority()):
        query["sslrootcert"] = "system"
    return url.update_query_dict(query)


def tls_error(message: str) -> str | None:
    """The error message for a connection that failed because of TLS; None for other reasons."""
    if "server does not support SSL" in message:
        return (
            "the server does not support TLS; enable it, or accept plain text with "
            "MARROWLENS_LIS_DATABASE_SSLMODE=disable"
        )
    wrong_name, no_file = "server certificate for" in message, "root certificate file" in message
    if wrong_name or no_file or ("SSL error:" in message and "unexpected eof" not in message):
        return "the server's certificate cannot be verified; set MARROWLENS_LIS_DATABASE_CA to its authority"
    return None


def _is_here(url: URL) -> bool:
    """Whether all servers of the URL are on this machine: loopback or a Unix socket."""
    if "service" in url.query or os.environ.get("PGSERVICE"):  # the host is in libpq's service file
        return False
    return all(not host or host[0] in "/@" or is_loopback(host) for host in _hosts(url))


def _hosts(url: URL) -> Iterator[str]:
    named = _all(url, "hostaddr") or os.environ.get("PGHOSTADDR") or url.host or _all(url, "host")
    yield from (named or os.environ.get("PGHOST", "")).split(",")


def _all(url: URL, name: str) -> str:
    found = url.query.get(name, "")
    if isinstance(found, str):
        return found
    # Several hosts can have a port each: host=a:5432&host=b:5433.
    return ",".join(each if each.startswith("/") else each.rpartition(":")[0] or each for each in found)


def _one(url: URL, name: str) -> str | None:
    found = url.query.get(name)
    return found if found is None or isinstance(found, str) else found[-1]


def _libpq_has_an_authority() -> bool:
    return bool(os.environ.get("PGSSLROOTCERT")) or Path("~/.postgresql/root.crt").expanduser().exists()
