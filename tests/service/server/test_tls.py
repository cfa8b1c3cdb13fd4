"""TLS: versions, client certificates, and a certificate that is renewed while the service runs."""

import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from conftest import Draw
from receivers import Certificates, certificates
from serving import Served, served


@pytest.fixture
def ours(tmp_path: Path) -> Certificates:
    return certificates(tmp_path / "ours")


def settings(of: Certificates, *, mutual: bool = False) -> dict[str, str]:
    found = {"tls_cert": str(of.server), "tls_key": str(of.server_key)}
    return found | ({"tls_client_ca": str(of.ca)} if mutual else {})


def trusting(authority: Path, client: Certificates | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority)
    if client is not None:
        context.load_cert_chain(client.client, client.client_key)
    return context


def status(service: Served, context: ssl.SSLContext) -> int:
    return httpx.get(f"{service.url}/health/live", verify=context).status_code


def test_the_service_speaks_tls_and_nothing_else(artefact: Path, ours: Certificates, draw: Draw) -> None:
    with served(artefact, **settings(ours)) as service:
        service.wait_listening()
        assert service.url.startswith("https://")
        answer = httpx.post(f"{service.url}/classify", files={"image": draw(1)}, verify=trusting(ours.ca))
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        with pytest.raises(httpx.TransportError):
            httpx.get(service.url.replace("https", "http"))
        with pytest.raises(httpx.ConnectError, match="certificate"):
            httpx.get(service.url)  # the system does not trust the test's CA
        assert status(service, trusting(ours.ca)) == 200
        assert service.stop() == 0


def test_old_versions_of_tls_are_not_spoken(artefact: Path, ours: Certificates) -> None:
    with served(artefact, **settings(ours)) as service:
        service.wait_listening()
        port = service.url.rpartition(":")[2]
        for version, taken in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
            # At security level 0 OpenSSL offers the old version.
            words = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", version, "-cipher", "ALL:@SECLEVEL=0"]
            done = subprocess.run(words, input=b"", capture_output=True, check=False, timeout=60)
            assert (b"Cipher is (NONE)" not in done.stdout) == taken, done.stdout


def test_only_clients_whom_the_authority_vouches_for_may_connect(
    artefact: Path, ours: Certificates, tmp_path: Path
) -> None:
    others = certificates(tmp_path / "others")
    with served(artefact, **settings(ours, mutual=True)) as service:
        service.wait_listening()
        for client in (None, others):
            with pytest.raises(httpx.TransportError):
                status(service, trusting(ours.ca, client))
        assert status(service, trusting(ours.ca, ours)) == 200


def test_a_renewed_certificate_is_used_without_a_restart(artefact: Path, ours: Certificates, tmp_path: Path) -> None:
    renewed = certificates(tmp_path / "renewed")
    with served(artefact, **settings(ours)) as service:
        service.wait_listening()
        shutil.copy(renewed.server, ours.server)  # certificate without its key: they do not match
        service.wait_said("TLS certificate rejected, keeping the current one")
        assert status(service, trusting(ours.ca)) == 200
        shutil.copy(renewed.server_key, ours.server_key)
        service.wait_said("TLS certificate reloaded")
        assert status(service, trusting(renewed.ca)) == 200
        with pytest.raises(httpx.ConnectError):
            status(service, trusting(ours.ca))


def test_a_client_that_never_ends_its_handshake_holds_up_nobody(artefact: Path, ours: Certificates) -> None:
    with served(artefact, **settings(ours)) as service:
        service.wait_listening()
        host, port = service.url.removeprefix("https://").split(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(50)]
        assert status(service, trusting(ours.ca)) == 200
        assert service.stop() == 0
        for each in silent:
            each.close()


def test_a_key_may_have_a_password(artefact: Path, ours: Certificates) -> None:
    locked = ours.server_key.with_name("locked.key")
    words = ["openssl", "pkey", "-in", ours.server_key, "-aes256", "-passout", "pass:a word", "-out", locked]
    subprocess.run(words, check=True, timeout=60)
    with_lock = settings(ours) | {"tls_key": str(locked)}
    with served(artefact, **with_lock, tls_key_password="a word") as service:
        service.wait_listening()
        assert status(service, trusting(ours.ca)) == 200
    for password in ({}, {"tls_key_password": "another"}):
        with served(artefact, **with_lock, **password) as service:
            assert service.wait_ended() == 2
        assert len(service.lines) == 1 and "MARROWLENS_TLS_KEY" in service.lines[0], service.lines


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tls_cert": "/nowhere.pem"}, "No such file"),
        ({"tls_key": "openapi.json"}, "MARROWLENS_TLS_KEY"),
        ({"tls_client_ca": "/nowhere.pem"}, "MARROWLENS_TLS_CLIENT_CA: No such file"),
        ({"tls_client_ca": "openapi.json"}, "MARROWLENS_TLS_CLIENT_CA"),
    ],
)
def test_files_that_cannot_be_used_are_said_in_a_line(
    artefact: Path, ours: Certificates, wrong: dict[str, str], said: str
) -> None:
    with served(artefact, **(settings(ours) | wrong)) as service:
        assert service.wait_ended() == 2
    assert len(service.lines) == 1 and said in service.lines[0], service.lines
