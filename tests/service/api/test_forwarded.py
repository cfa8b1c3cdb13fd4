"""Forwarded headers: those of trusted proxies are used, all others are ignored."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from keys import entry, keys_file
from serving import Served, client, served

from service.config.settings import SettingsError, read_settings

HEADERS = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(keys_file(tmp_path_factory.mktemp("ring"), entry("mlk_one", "one")))


@pytest.fixture(scope="module")
def unbelieving(artefact: Path, ring: str) -> Iterator[Served]:
    with served(artefact, "--access-log", keys_file=ring) as started:
        started.wait_listening()
        yield started


@pytest.fixture(scope="module")
def believing(artefact: Path, ring: str) -> Iterator[Served]:
    with served(
        artefact, "--access-log", keys_file=ring, trusted_proxies="127.0.0.1, 10.0.0.0/8, 2001:db8::/32"
    ) as started:
        started.wait_listening()
        yield started


def caller(service: Served, headers: list[tuple[str, str]]) -> str:
    """The client address in the log of a request without a key."""
    before = len(service.lines)
    httpx.get(f"{service.url}/model", headers=headers)
    service.wait_said("GET /model 401", after=before)
    [line] = [line for line in service.lines[before:] if "GET /model 401" in line]
    return line.partition(" by ")[2].split()[0]


def test_nobody_is_believed_unless_it_is_said(unbelieving: Served) -> None:
    assert caller(unbelieving, list(HEADERS.items())) == "127.0.0.1"
    assert "strict-transport-security" not in httpx.get(f"{unbelieving.url}/health/live", headers=HEADERS).headers


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["[2001:db9::7]:4711"], "2001:db9::7"),
        (["2001:db9::7"], "2001:db9::7"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        (["203.0.113.9, 192.0.2.7"], "192.0.2.7"),  # the client wrote the first
        (["203.0.113.9, 192.0.2.7, 10.1.2.3"], "192.0.2.7"),
        (["203.0.113.9", "192.0.2.7, 2001:db8::1"], "192.0.2.7"),
        (["10.1.2.3"], "10.1.2.3"),
        (["192.0.2.7, somebody"], "127.0.0.1"),
        (["by dr.beispiel"], "127.0.0.1"),
        (["192.0.2.7, unknown, 10.1.2.3"], "10.1.2.3"),
        ([""], "127.0.0.1"),
    ],
)
def test_of_a_trusted_proxy_the_last_address_that_is_no_proxys_is_believed(
    believing: Served, forwarded: list[str], client: str
) -> None:
    assert caller(believing, [("X-Forwarded-For", each) for each in forwarded]) == client


@pytest.mark.parametrize(
    ("sent", "secure"),
    [("https", True), ("http", False), ("http, https", True), ("https, http", False), ("HTTPS", False), ("wss", False)],
)
def test_and_so_is_the_scheme(believing: Served, sent: str, secure: bool) -> None:
    answer = httpx.get(f"{believing.url}/health/live", headers={"X-Forwarded-Proto": sent})
    assert ("strict-transport-security" in answer.headers) is secure


@pytest.mark.parametrize(
    "name", ["X-Forwarded-Prefix", "X-Forwarded-Host", "X-Original-URL", "Forwarded", "X-Script-Name"]
)
def test_nothing_else_is_believed(believing: Served, name: str) -> None:
    for value in ("/health", "/docs", "for=192.0.2.7;host=elsewhere"):
        assert httpx.get(f"{believing.url}/model", headers={name: value}).status_code == 401
        assert "servers" not in httpx.get(f"{believing.url}/openapi.json", headers={name: value}).json()


def test_a_list_that_is_none_is_said() -> None:
    with pytest.raises(SettingsError, match="MARROWLENS_TRUSTED_PROXIES"):
        read_settings(trusted_proxies="10.0.0.0/8, the.proxy")
    with pytest.raises(SettingsError, match="MARROWLENS_ROOT_PATH"):
        read_settings(root_path="elsewhere/")


def test_behind_a_path_the_interface_asks_there_and_the_doors_stay_shut(artefact: Path, tmp_path: Path) -> None:
    ring = keys_file(tmp_path, entry("mlk_one", "one"))
    with client(artefact, keys_file=ring, root_path="/docs") as http:
        assert http.get("/openapi.json").json()["servers"] == [{"url": "/docs"}]
        assert http.get("/model").status_code == 401
        assert http.get("/docs/model").status_code == 401  # a path of its own, which there is not
        assert http.get("/docs/model", headers={"Authorization": "Bearer mlk_one"}).status_code == 404


@pytest.mark.parametrize(("max_age_s", "sent"), [(31536000, "max-age=31536000"), (60, "max-age=60"), (0, None)])
def test_how_long_browsers_come_by_tls_alone_is_a_setting(artefact: Path, max_age_s: int, sent: str | None) -> None:
    with client(artefact, hsts_max_age_s=max_age_s) as http:
        assert http.get("https://localhost/health/live").headers.get("strict-transport-security") == sent
        assert "strict-transport-security" not in http.get("http://localhost/health/live").headers
