"""Files of a model: regular ones alone, read once, and a graph whose every number is in its own bytes."""

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from graphs import write_artefact
from keys import bearer, entry, keys_file
from receivers import certificates
from serving import async_client, refused, served

from model.contract import ArtefactError, read_manifest
from model.drift.reference import read_reference
from model.regular_file import NotReadable, read_regular_file
from service.auth.api_keys import KeysFileError, read_keys
from service.runtime.artifact import read_artefact
from service.runtime.session import open_session
from service.runtime.signatures import TrustFileError, Verifier, read_key, read_list

OPERATOR = "mlk_of-an-operator"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # a whole path may be longer than a socket's may be


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


#: What may stand under a file's name, and the word for it. Reading a FIFO waits for ever, /dev/zero has no end.
NO_FILES: dict[str, Callable[[Path], None]] = {
    "a FIFO": fifo,
    "a socket": unix_socket,
    "a device": device,
    "a folder": Path.mkdir,
}


def replaced(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    NO_FILES[kind](path)


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    NO_FILES[kind](tmp_path / "it")
    (tmp_path / "link").symlink_to("it")
    for path in (tmp_path / "it", tmp_path / "link"):
        began_s = time.monotonic()
        with pytest.raises(NotReadable) as raised:
            read_regular_file(path)
        assert raised.value.strerror == f"{kind}, not a regular file"
        assert time.monotonic() - began_s < 5


def test_a_file_is_read_whole_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_regular_file(file, 5) == b"12345"
    with pytest.raises(NotReadable, match="larger than 4 bytes"):
        read_regular_file(file, 4)
    with pytest.raises(FileNotFoundError):
        read_regular_file(tmp_path / "none")


def test_a_name_that_leads_to_a_fifo_after_it_was_looked_at_does_not_wait(tmp_path: Path) -> None:
    """A file and a FIFO take turns under one name; a read gets the file, or a refusal, and never waits."""
    name, ended = tmp_path / "name", threading.Event()
    (tmp_path / "file").write_bytes(b"content")
    os.mkfifo(tmp_path / "fifo")
    name.symlink_to("file")

    def turn() -> None:
        while not ended.is_set():
            for kind in ("fifo", "file"):
                (tmp_path / "beside").symlink_to(kind)
                (tmp_path / "beside").rename(name)

    turning = threading.Thread(target=turn)
    turning.start()
    try:
        for _ in range(2000):
            try:
                assert read_regular_file(name) == b"content"
            except NotReadable as error:
                assert error.strerror == "a FIFO, not a regular file"
    finally:
        ended.set()
        turning.join()


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("suffix", [".onnx", ".json"])
def test_a_model_that_is_no_file_is_refused(tmp_path: Path, suffix: str, kind: str) -> None:
    artefact = write_artefact(tmp_path)
    replaced(artefact.with_suffix(suffix), kind)
    with pytest.raises(ArtefactError, match=f"{suffix}.* cannot be read \\({kind}, not a regular file\\)"):
        open_session(artefact)
    if suffix == ".json":
        with pytest.raises(ArtefactError, match=kind):
            read_manifest(artefact.with_suffix(suffix))


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_vouches_and_what_drift_is_measured_from_are_files(tmp_path: Path, kind: str) -> None:
    artefact, path = write_artefact(tmp_path), tmp_path / "it"
    NO_FILES[kind](path)
    for read in (read_key, read_list):
        with pytest.raises(TrustFileError, match=kind):
            read(path)
    with pytest.raises(ArtefactError, match=kind):
        read_reference(path)
    with pytest.raises(KeysFileError, match="regular file|No such device"):
        read_keys(path)
    with pytest.raises(ArtefactError, match=kind):
        read_artefact(artefact, Verifier(sha256_file=path))


@pytest.mark.parametrize("kind", NO_FILES)
async def test_a_reload_refuses_what_is_no_file_and_serves_on(tmp_path: Path, kind: str) -> None:
    artefact = write_artefact(tmp_path)
    second = write_artefact(tmp_path, name="second", seed=2)
    keys = keys_file(tmp_path, entry(OPERATOR, "operator"))
    for path in (second.with_suffix(".json"), second):
        replaced(path, kind)
        async with async_client(artefact, keys_file=keys) as http:
            http.headers.update(bearer(OPERATOR))
            problem = refused(await http.post("/model/reload", json={"artefact": "second.onnx"}), 422, "model-refused")
            assert f"{kind}, not a regular file" in problem.detail
            assert (await http.get("/health/ready")).status_code == 200


@pytest.mark.parametrize("what", ["artefact", "keys_file", "tls_cert", "tls_key", "tls_client_ca"])
def test_a_start_with_a_fifo_says_so_and_ends(tmp_path: Path, what: str) -> None:
    found = certificates(tmp_path / "ours")
    settings = {"tls_cert": found.server, "tls_key": found.server_key, "tls_client_ca": found.ca}
    os.mkfifo(tmp_path / "fifo")
    artefact = write_artefact(tmp_path)
    if what == "artefact":
        replaced(artefact, "a FIFO")
    else:
        settings[what] = tmp_path / "fifo"
    with served(artefact, **{name: str(value) for name, value in settings.items()}) as service:
        assert service.wait_ended() == 2
    assert re.search("(a FIFO, not|is not) a regular file", "\n".join(service.lines))


def test_what_is_opened_is_what_was_hashed(tmp_path: Path) -> None:
    """A model file that is swapped after it was read changes nothing: the bytes in hand are the bytes opened."""
    artefact = write_artefact(tmp_path)
    other = write_artefact(tmp_path, name="other", seed=5)
    graph, manifest = read_artefact(artefact)
    shutil.copy(other, artefact)
    assert graph != artefact.read_bytes()
    with pytest.raises(ArtefactError, match="sha256"):
        read_artefact(artefact)
    assert manifest.name == "micro"
