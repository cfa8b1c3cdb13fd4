"""TLS to PostgreSQL: required to other machines by default, without fallback to plain text."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from receivers import certificates
from serving import served
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from service.cli.main import app as command_line
from service.errors import StorageUnavailable
from service.lis.storage.database import Database, DatabaseConfigError, InsecureConnection, with_tls

ELSEWHERE = "postgresql+psycopg://user:word@db.example/lab"
HERE = "postgresql+psycopg://user:word@127.0.0.1/lab"
SOCKET = "postgresql+psycopg://user@/lab?host=/var/run/postgresql"


@pytest.fixture(autouse=True)
def no_libpq_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PGSSLMODE", "PGHOST", "PGHOSTADDR", "PGSERVICE", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        (ELSEWHERE, "require"),
        ("postgresql+psycopg://user@10.0.0.7:5432/lab", "require"),
        ("postgresql+psycopg://user@[2001:db8::1]/lab", "require"),
        ("postgresql+psycopg://user@localhost.example/lab", "require"),
        ("postgresql+psycopg:///lab?host=a.example&host=b.example", "require"),
        ("postgresql+psycopg:///lab?host=127.0.0.1:5432&host=b.example:5432", "require"),
        ("postgresql+psycopg:///lab?host=127.0.0.1,b.example", "require"),
        ("postgresql+psycopg://user@127.0.0.1/lab?hostaddr=10.0.0.7", "require"),
        ("postgresql+psycopg:///lab?service=lab", "require"),
        (f"{ELSEWHERE}?sslmode=verify-ca", "verify-ca"),
        (f"{ELSEWHERE}?sslmode=disable", "disable"),
        (HERE, None),
        ("postgresql+psycopg://user@localhost/lab", None),
        ("postgresql+psycopg://user@[::1]/lab", None),
        (SOCKET, None),
        ("postgresql+psycopg:///lab", None),
        (f"{HERE}?sslmode=prefer", "prefer"),
    ],
)
def test_another_machine_is_spoken_to_by_tls(url: str, mode: str | None) -> None:
    assert with_tls(make_url(url)).query.get("sslmode") == mode


def test_libpqs_own_variables_count(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = make_url("postgresql+psycopg:///lab")
    monkeypatch.setenv("PGHOST", "db.example")
    assert with_tls(bare).query["sslmode"] == "require"
    monkeypatch.setenv("PGSSLMODE", "verify-ca")
    assert with_tls(bare).query["sslmode"] == "verify-ca"
    monkeypatch.setenv("PGSSLMODE", "prefer")
    with pytest.raises(InsecureConnection, match="falls back to plain text"):
        with_tls(bare)


@pytest.mark.parametrize("mode", ["prefer", "allow"])
def test_a_mode_that_falls_back_to_plain_text_is_refused(mode: str) -> None:
    with pytest.raises(DatabaseConfigError, match="falls back to plain text"):
        Database(f"{ELSEWHERE}?sslmode={mode}")


def test_two_modes_are_refused_and_an_authority_verifies(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    assert with_tls(make_url(f"{ELSEWHERE}?sslmode=require"), "require").query["sslmode"] == "require"
    with pytest.raises(InsecureConnection, match="set one"):
        with_tls(make_url(f"{ELSEWHERE}?sslmode=disable"), "verify-full")
    with pytest.raises(InsecureConnection, match="verifies no certificate"):
        with_tls(make_url(ELSEWHERE), "disable", authority)
    for url in (ELSEWHERE, HERE):
        assert with_tls(make_url(url), None, authority).query == {
            "sslmode": "verify-full",
            "sslrootcert": str(authority),
        }
    assert with_tls(make_url(ELSEWHERE), "verify-full").query["sslrootcert"] == "system"
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    assert "sslrootcert" not in with_tls(make_url(ELSEWHERE), "verify-full").query


def test_sqlite_has_no_mode(tmp_path: Path) -> None:
    with pytest.raises(DatabaseConfigError, match="are for PostgreSQL"):
        Database(f"sqlite:///{tmp_path}/lab.db", "require")


@contextmanager
def server(certificate: tuple[Path, Path] | None) -> Iterator[int]:
    """As PostgreSQL begins: it answers the request for TLS, and after that says that it is shutting down."""
    listening = socket.create_server(("127.0.0.1", 0))
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)

    def answer() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(10)
                connection.recv(8)
                connection.sendall(b"N" if context is None else b"S")
                if context is not None:
                    with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secure:
                        secure.do_handshake()
                        secure.recv(1000)
                        fields = b"SFATAL\0C57P03\0Mthe database system is shutting down\0\0"
                        secure.sendall(b"E" + (4 + len(fields)).to_bytes(4, "big") + fields)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)


def test_a_server_without_tls_is_told_and_no_word_is_sent_to_it(artefact: Path) -> None:
    with server(None) as port:
        database = Database(f"postgresql+psycopg://user:word@127.0.0.1:{port}/lab", "require")
        for action in (database.migrate, database.is_current):
            with pytest.raises(
                DatabaseConfigError, match="does not support TLS.*MARROWLENS_LIS_DATABASE_SSLMODE=disable"
            ):
                action()
        database.close()
        url = f"postgresql+psycopg://user:word@127.0.0.1:{port}/lab"
        environment = {"MARROWLENS_LIS_DATABASE": url, "MARROWLENS_LIS_DATABASE_SSLMODE": "require"}
        for words in (("lis", "migrate"), ("lis", "migrate", "--check", "--wait-s", "600")):
            done = CliRunner().invoke(command_line, list(words), env=environment)
            assert done.exit_code == 2 and "does not support TLS" in done.stderr and "word@" not in done.stderr, (
                done.stderr
            )
        with served(artefact, lis_database=url, lis_database_sslmode="require") as service:
            assert service.wait_ended() == 2
        assert any("does not support TLS" in line for line in service.lines), service.lines


def test_a_certificate_of_a_stranger_is_refused_and_a_known_one_is_not(tmp_path: Path) -> None:
    ours, theirs = certificates(tmp_path / "ours"), certificates(tmp_path / "theirs")
    with server((theirs.server, theirs.server_key)) as port:
        url = f"postgresql+psycopg://user:word@127.0.0.1:{port}/lab"
        database = Database(url, None, ours.ca)
        with pytest.raises(DatabaseConfigError, match="certificate cannot be verified.*MARROWLENS_LIS_DATABASE_CA"):
            database.is_current()
        database.close()
        database = Database(url, None, theirs.ca)
        with pytest.raises(StorageUnavailable):  # spoken to, by TLS
            database.is_current()
        database.close()
