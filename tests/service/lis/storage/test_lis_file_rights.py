"""File permissions of database and pictures: for the owner only, with any umask."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE

import forks
import pytest
from databases import free_port
from lab import open_request, use_cases, user
from serving import client
from sqlalchemy import text

from service.config.lis import LisSettings
from service.lis.laboratory import exposed_files, setting_faults
from service.lis.picture_store import PictureStore
from service.lis.storage.database import Database
from service.lis.storage.file_rights import create_private_file, create_private_folder, permission_warning

SHA256 = "ab" * 32
UMASKS = (0o000, 0o022, 0o077, 0o777)


@contextmanager
def umask(bits: int) -> Iterator[None]:
    before = os.umask(bits)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("bits", UMASKS)
def test_a_database_and_all_its_files_are_for_their_owner_alone(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "lab.db"
    with umask(bits), use_cases(f"sqlite:///{path}") as front:
        front.open(open_request(), user("m.muster"))
        with front.database.reading() as session:
            assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
            files = {each.name: mode(each) for each in tmp_path.iterdir()}
    assert files == dict.fromkeys(("lab.db", "lab.db-wal", "lab.db-shm"), 0o600)


@pytest.mark.parametrize("bits", UMASKS)
def test_a_journal_has_the_rights_of_its_database(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "lab.db"
    with umask(bits):
        create_private_file(path)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE t (x)")
        assert {each.name: mode(each) for each in tmp_path.iterdir()} == {"lab.db": 0o600, "lab.db-journal": 0o600}
        connection.close()


def test_a_database_behind_a_link_and_one_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    with umask(0):
        create_private_file(tmp_path / "link.db")
        assert mode(tmp_path / "real.db") == 0o600
        (tmp_path / "real.db").write_bytes(b"what is there")
        create_private_file(tmp_path / "link.db")
    assert (tmp_path / "real.db").read_bytes() == b"what is there"


@pytest.mark.parametrize("bits", UMASKS)
def test_pictures_and_their_folders_are_for_their_owner_alone(bits: int, tmp_path: Path) -> None:
    with umask(bits & 0o077):
        deep = PictureStore(tmp_path / "deep" / "pictures", 30)
        deep.settle([deep.stage(SHA256, b"a picture")], set)
    with umask(bits):
        kept = PictureStore(tmp_path / "own", 30)
        kept.settle([kept.stage(SHA256, b"a picture")], set)
        assert kept.get(SHA256) == b"a picture"
    for folder in (tmp_path / "deep" / "pictures", tmp_path / "own"):
        assert {mode(each) for each in (folder, folder / "ab", folder / "staging")} == {0o700}
        assert mode(folder / "ab" / f"{SHA256}.picture") == 0o600


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError):
        create_private_folder(tmp_path / "file")


def test_wider_rights_are_told_by_the_log_and_by_config_check(
    artefact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, pictures = tmp_path / "lab.db", tmp_path / "pictures"
    lis = LisSettings(database=f"sqlite:///{path}", pictures=pictures)
    with client(artefact, lis=lis):
        pass
    assert "other users have permissions" not in caplog.text
    path.chmod(0o644)
    pictures.chmod(0o750)
    said = [f"{path}: other users have permissions (mode 0644); run: chmod 600 {path}"]
    said += [f"{pictures}: other users have permissions (mode 0750); run: chmod 700 {pictures}"]
    assert list(exposed_files(lis)) == said
    with client(artefact, lis=lis):
        pass
    told = {"MARROWLENS_LIS_DATABASE": f"sqlite:///{path}", "MARROWLENS_LIS_PICTURES": str(pictures)}
    checked = forks.run(["config", "check"], {**os.environ, **told})
    assert checked.returncode == 0  # the service starts as well
    for line in said:
        assert line in caplog.text and f"marrowlens: warning: {line}" in checked.stderr
    assert mode(path) == 0o644


def test_nothing_is_said_of_what_is_not_there_or_no_file(tmp_path: Path) -> None:
    assert permission_warning(tmp_path / "none") is None
    for url in (f"sqlite:///{tmp_path / 'none.db'}", "postgresql://x@host/lab", "no url", "sqlite://"):
        assert list(exposed_files(LisSettings(database=url))) == []
    assert list(exposed_files(LisSettings())) == list(setting_faults(LisSettings())) == []


def test_a_file_of_tls_that_cannot_be_used_is_told_before_the_start(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no PEM")
    tls = {"hl7_tls_cert": bad, "hl7_tls_key": bad, "hl7_listen_ca": bad, "hl7_tls_ca": tmp_path / "none.pem"}
    addresses = {"hl7_listen": f"127.0.0.1:{free_port()}", "hl7_to": "127.0.0.1:9"}
    lis = LisSettings(database=f"sqlite:///{tmp_path / 'lab.db'}", **addresses, **tls)
    sent, taken = setting_faults(lis)
    assert sent.startswith("MARROWLENS_LIS_HL7_TLS_CA, ") and sent.endswith("No such file or directory")
    assert taken.startswith("MARROWLENS_LIS_HL7_TLS_CERT, ") and taken.endswith("not valid PEM files")


def test_a_database_that_is_only_looked_at_is_not_made_by_the_check(tmp_path: Path) -> None:
    list(exposed_files(LisSettings(database=f"sqlite:///{tmp_path / 'lab.db'}", pictures=tmp_path / "pictures")))
    Database(f"sqlite:///{tmp_path / 'lab.db'}").close()
    assert list(tmp_path.iterdir()) == []
