"""`marrowlens lis migrate` as a job and as a replica's wait, with real processes and databases."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import forks
import pytest
from click.testing import Result
from databases import Postgres, free_port, postgres
from serving import COMMAND
from typer.testing import CliRunner

from service.cli.main import app as command_line
from service.lis.storage.database import Database


def migrate(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MARROWLENS_LIS_DATABASE": url}
    return forks.run(["lis", "migrate", *words], environment)


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'lab.db'}"


def is_current(url: str) -> bool:
    database = Database(url)
    try:
        return database.is_current()
    finally:
        database.close()


def test_it_makes_the_tables_and_may_be_called_again(database_url: str) -> None:
    assert not is_current(database_url)
    for _ in range(2):
        done = migrate(database_url)
        assert (done.returncode, done.stdout) == (0, "the database is up to date\n"), done.stderr
        assert is_current(database_url)


def test_a_check_says_so_and_changes_nothing(database_url: str) -> None:
    before = migrate(database_url, "--check")
    assert before.returncode == 1
    assert "the tables are not of this version" in before.stderr
    assert not is_current(database_url)
    migrate(database_url)
    assert migrate(database_url, "--check").returncode == 0


def test_a_later_versions_database_is_refused_at_once_whoever_waits(database_url: str) -> None:
    migrate(database_url)
    database = Database(database_url)
    with database.writing() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    for words in ((), ("--check",)):
        refused = migrate(database_url, *words, "--wait-s", "100000")
        assert refused.returncode == 2
        assert "later version" in refused.stderr


@contextmanager
def waiting(url: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command after it has looked once and found nothing; at the end it has ended well."""
    environment = {**os.environ, "MARROWLENS_LIS_DATABASE": url}
    command = [str(COMMAND), "lis", "migrate", *words, "--wait-s", "100"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "marrowlens: waiting up to 100 s for the database\n"
        yield process
        said, more = process.communicate(timeout=60)
        assert (process.returncode, said, more) == (0, "the database is up to date\n", "")
    finally:
        process.kill()
        process.communicate()


def test_a_replica_waits_until_the_job_has_done_it(database_url: str) -> None:
    with waiting(database_url, "--check") as replica:
        assert replica.poll() is None
        assert migrate(database_url).returncode == 0


@pytest.mark.slow
def test_a_database_that_comes_late_is_waited_for() -> None:
    with postgres() as server:
        url = server.new_database()
        server.end()
        assert migrate(url).returncode == 2  # nobody waits
        with waiting(url):
            server.start()
        assert is_current(url)


@pytest.mark.slow
def test_waiting_ends(tmp_path: Path) -> None:
    gone = f"postgresql+psycopg://lab:secret-word@127.0.0.1:{free_port()}/lab"
    refused = migrate(gone, "--wait-s", "1.5")
    assert refused.returncode == 2
    assert "does not respond" in refused.stderr and "secret" not in refused.stderr
    assert migrate(sqlite(tmp_path), "--check", "--wait-s", "1.5").returncode == 1


def test_several_at_once_do_it_once(postgres_server: Postgres) -> None:
    url = postgres_server.new_database()
    environment = {**os.environ, "MARROWLENS_LIS_DATABASE": url}
    command = [str(COMMAND), "lis", "migrate"]
    together = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in together:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert is_current(url)


def test_without_a_laboratory_it_says_what_is_missing() -> None:
    refused = migrate("")
    assert refused.returncode == 2
    assert "set MARROWLENS_LIS_DATABASE" in refused.stderr


#: Commands on an existing laboratory, with what each types.
COMMANDS = (
    ("lis", "status"),
    ("lis", "merged"),
    ("lis", "show"),
    ("lis", "retry", "--all"),
    ("lis", "confirm", "1"),
    ("lis", "drop", "1", "--why", "case 17"),
    ("lis", "erase", "BM-1", "--why", "case 17"),
    ("audit", "verify"),
    ("audit", "compare", "1"),
    ("readings", "agreement"),
    ("readings", "export", "out"),
)


def on_database(url: str, folder: Path, words: tuple[str, ...]) -> Result:
    """A command, with `null` on stdin. Names of files in it are of the folder."""
    typed = [str(folder / word) if word == "out" else word for word in words]
    return CliRunner().invoke(command_line, typed, input="null", env={"MARROWLENS_LIS_DATABASE": url})


@pytest.mark.parametrize("words", [*COMMANDS, ("lis", "deliver")], ids=" ".join)
def test_a_wrong_path_is_named_and_nothing_is_created(words: tuple[str, ...], tmp_path: Path) -> None:
    refused = on_database(sqlite(tmp_path), tmp_path, words)
    assert refused.exit_code == 2
    assert f"MARROWLENS_LIS_DATABASE: the file {tmp_path / 'lab.db'} does not exist" in refused.stderr
    assert "check the path" in refused.stderr and "marrowlens lis migrate" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_check_creates_no_file(tmp_path: Path) -> None:
    assert migrate(sqlite(tmp_path), "--check").returncode == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_file_without_tables_is_named(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "lab.db").touch()
    refused = on_database(sqlite(tmp_path), tmp_path, words)
    assert refused.exit_code == 2
    assert "the database has no tables" in refused.stderr and "marrowlens lis migrate" in refused.stderr
    assert "does not respond" not in refused.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / "lab.db.pictures").exists()


def test_tables_that_do_not_exist_or_are_older_are_named(database_url: str, tmp_path: Path) -> None:
    database = Database(database_url)
    database.migrate()
    assert on_database(database_url, tmp_path, ("lis", "status")).exit_code == 0
    for version, said in (("0010", "of an earlier version"), ("9999", "of a later version")):
        with database.writing() as session:
            session.connection().exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'")
        refused = on_database(database_url, tmp_path, ("lis", "status"))
        assert (refused.exit_code, said in refused.stderr) == (2, True), refused.stderr
    with database.writing() as session:
        session.connection().exec_driver_sql("DROP TABLE alembic_version")
    database.close()
    assert "has no tables" in on_database(database_url, tmp_path, ("lis", "status")).stderr
