"""The tables on both databases: creation, migration, and errors without access."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from databases import Postgres, free_port
from lab import classified, manifest, open_request, return_to, use_cases, user
from sqlalchemy import select, text

from service.errors import StorageUnavailable
from service.lis.domain.report import Order
from service.lis.domain.specimens import find_by_order
from service.lis.storage.database import Database, DatabaseConfigError, DatabaseError
from service.lis.storage.tables import ModelRow, SpecimenRow, Table


def opened(url: str) -> Database:
    database = Database(url)
    database.migrate()
    return database


def test_migrations_make_the_tables_that_the_code_speaks_of(database_url: str) -> None:
    database = opened(database_url)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    database.close()


def test_a_migrated_database_is_left_as_it_is(database_url: str) -> None:
    database = opened(database_url)
    with database.writing() as session:
        session.execute(text("UPDATE audit_head SET number = 7"))
    database.migrate()
    with database.reading() as session:
        assert session.execute(text("SELECT number FROM audit_head")).scalar() == 7
    database.close()


def test_a_database_of_a_later_version_is_refused(database_url: str) -> None:
    database = opened(database_url)
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseConfigError, match="later version"):
        database.migrate()
    database.close()


def test_what_raises_is_rolled_back(database_url: str) -> None:
    database = opened(database_url)
    with pytest.raises(KeyError), database.writing() as session:
        session.execute(text("UPDATE audit_head SET number = 7"))
        raise KeyError
    with database.reading() as session:
        assert session.execute(text("SELECT number FROM audit_head")).scalar() == 0
    database.close()


def test_a_connection_in_use_when_the_database_is_closed_ends_with_its_transaction(database_url: str) -> None:
    database = opened(database_url)
    with database.writing() as session:
        used = session.connection().connection.driver_connection
        database.close()
        session.execute(text("UPDATE audit_head SET number = 7"))
    with pytest.raises(Exception, match="(?i)closed"):
        used.execute("SELECT 1")
    again = opened(database_url)
    with again.reading() as session:
        assert session.execute(text("SELECT number FROM audit_head")).scalar() == 7
    again.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "invalid database URL"),
        ("postgresql+psycopg://user:pass@word:s3cr3t@host/name", "%40 for @"),
        ("postgresql+psycopg://user:s3cr3t@host:s3cr3t/name", "invalid database URL"),
        ("mysql://host/name", "unsupported database mysql"),
        ("sqlite://", "name a file"),
        ("sqlite:///:memory:", "name a file"),
        ("sqlite:////nowhere/at/all/lab.db", "folder /nowhere/at/all does not exist"),
        ("postgresql+nodriver://host/name", "driver is not installed"),
    ],
)
def test_a_database_that_cannot_be_is_refused_in_a_sentence(url: str, said: str) -> None:
    with pytest.raises(DatabaseConfigError, match=said) as refused:
        Database(url)
    assert "s3cr3t" not in str(refused.value)


def test_a_server_that_is_not_there_is_unavailable_and_its_password_is_not_said() -> None:
    database = Database(f"postgresql+psycopg://lab:secret-word@127.0.0.1:{free_port()}/lab")
    with pytest.raises(StorageUnavailable) as refused, database.writing() as session:
        session.execute(text("SELECT 1"))
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None and refused.value.__suppress_context__
    database.close()


def test_a_file_that_is_no_database_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "lab.db").write_bytes(b"these are the minutes of a meeting " * 100)
    database = Database(f"sqlite:///{tmp_path / 'lab.db'}")
    with pytest.raises((StorageUnavailable, DatabaseConfigError)):
        database.migrate()
    database.close()


def test_an_error_of_the_database_says_nothing_of_what_is_in_it(database_url: str) -> None:
    database = opened(database_url)
    values = {"number": "BM-SECRET", "state": "open", "revision": 1, "patient": {"family": "Muster"}, "order": {}}
    with pytest.raises(DatabaseError) as failed, database.writing() as session:
        session.add(SpecimenRow(**values))
        session.flush()
    assert "IntegrityError" in str(failed.value) or "NotNullViolation" in str(failed.value)
    assert not any(word in str(failed.value) for word in ("SECRET", "Muster"))
    assert failed.value.__suppress_context__, "a traceback in the log would show the driver's own words"
    database.close()


def test_models_of_an_earlier_version_have_no_inert_parts(database_url: str) -> None:
    database = opened(database_url)
    with database.writing() as session:
        return_to(session, "0002")
        values = {"sha256": "ab" * 32, "name": "m", "version": "1.0.0", "classes": "[]", "unsupported": '["ABE"]'}
        names = ", ".join(values)
        session.execute(text(f"INSERT INTO models ({names}) VALUES (:{', :'.join(values)})"), values)
    database.migrate()
    with database.reading() as session:
        [row] = session.scalars(select(ModelRow)).all()
        assert (row.unsupported, row.inert) == (["ABE"], [])
    database.close()


def test_cells_of_an_earlier_version_have_no_decision_and_wait_as_before(database_url: str, artefact: Path) -> None:
    with use_cases(database_url, review_below=0.8) as laboratory:
        opened_id = laboratory.open(open_request(), user("m.muster")).id
        cells = [classified("NGS", probability=0.95), classified("BLA", probability=0.6)]
        laboratory.add(opened_id, cells, manifest(artefact), user("m.muster"))
        with laboratory.database.writing() as session:
            return_to(session, "0003")
        laboratory.database.migrate()
        found = laboratory.cells(opened_id, None, None, 0, 10).cells
        assert [(cell.decision, cell.reasons, cell.manifest, cell.waits) for cell in found] == [
            (None, None, None, False),
            (None, None, None, True),
        ]


def test_orders_of_an_earlier_version_are_found_by_their_numbers(database_url: str) -> None:
    with use_cases(database_url) as laboratory:
        ordered = open_request(order=Order(placer_number="P-77", filler_number="F-12"))
        opened_id = laboratory.open(ordered, user("m.muster")).id
        laboratory.open(open_request("BM-2"), user("m.muster"))
        with laboratory.database.writing() as session:
            return_to(session, "0004")
        laboratory.database.migrate()
        with laboratory.database.reading() as session:
            for numbers in (("P-77", None), (None, "F-12")):
                assert [row.id for row in find_by_order(session, *numbers)] == [opened_id]
            assert find_by_order(session, None, None) == ()


def test_a_connection_that_died_is_replaced(postgres_server: Postgres) -> None:
    database = opened(postgres_server.new_database())
    with database.reading() as session:
        session.execute(text("SELECT 1"))
    with database.engine.connect() as connection:
        killer = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        connection.execute(text(killer + " AND datname = current_database()"))
    with database.reading() as session:
        assert session.execute(text("SELECT number FROM audit_head")).scalar() == 0
    database.close()


def test_once_closed_it_opens_no_connection(database_url: str) -> None:
    database = Database(database_url)
    database.migrate()
    database.close()
    with pytest.raises(StorageUnavailable), database.reading():
        pass
    with pytest.raises(StorageUnavailable), database.writing():
        pass
