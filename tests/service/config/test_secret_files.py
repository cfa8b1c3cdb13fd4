"""Secrets: read from files, masked in output, never sent unencrypted; files that other users can write are refused."""

import json
import os
import stat
from pathlib import Path

import pytest
from keys import entry, keys_file
from typer.testing import CliRunner

from service.auth.api_keys import KeyRing, KeysFileError, read_keys
from service.cli.main import app as command_line
from service.config.secret_files import UnsafeFile, is_secret, read_private_file
from service.config.settings import SettingsError, environment_names, read_settings, secret_file_names
from service.config.urls import MASK, redact_url, transport_fault

FHIR = "MARROWLENS_LIS_FHIR_TOKEN"
OAUTH = "MARROWLENS_LIS_FHIR_OAUTH_CLIENT_SECRET"


def run(*words: str, **environment: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(command_line, [*words], env={"COLUMNS": "300", **environment})
    return done.exit_code, done.stdout, done.stderr


def file_with(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


# From files


@pytest.mark.parametrize("other", [FHIR, OAUTH])  # a token is either given or fetched
def test_every_secret_may_come_from_a_file(other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = [name for name, field in environment_names().items() if is_secret(field)]
    assert secrets == [name.removesuffix("_FILE") for name in secret_file_names()] and len(secrets) >= 4
    secrets.remove(other)
    if other == FHIR:
        monkeypatch.setenv("MARROWLENS_LIS_FHIR_OAUTH_TOKEN_URL", "https://login.example.org/token")
        monkeypatch.setenv("MARROWLENS_LIS_FHIR_OAUTH_CLIENT_ID", "marrowlens")
    values = {name: f"{name.lower()}-value" for name in secrets}
    values["MARROWLENS_LIS_DATABASE"] = f"sqlite:///{tmp_path}/lab.db"
    values["MARROWLENS_OTLP_HEADERS"] = "authorization=a-header-value"
    for name, value in values.items():
        path = tmp_path / name
        path.write_text(f"{value}\n")
        path.chmod(0o400)
        monkeypatch.setenv(f"{name}_FILE", str(path))
    settings = read_settings()
    found = {
        "MARROWLENS_TLS_KEY_PASSWORD": settings.tls_key_password,
        "MARROWLENS_OIDC_CLIENT_SECRET": settings.oidc_client_secret,
        "MARROWLENS_OTLP_HEADERS": settings.otlp_headers,
        "MARROWLENS_LIS_DATABASE": settings.lis.database,
        FHIR: settings.lis.fhir_token,
        OAUTH: settings.lis.fhir_oauth_client_secret,
    }
    assert {name: secret.get_secret_value() for name, secret in found.items() if secret is not None} == values
    code, said, _ = run("config", "check", "--json")
    shown = json.loads(said)
    assert code == 0 and all(shown[name] == {"value": "(secret)", "source": "file"} for name in secrets)
    assert not any(value in said for value in values.values())


@pytest.mark.parametrize(
    "content", [b"a-token", b"a-token\n", b"a-token\r\n", b"a-token\n\n", b"\xef\xbb\xbfa-token\n"]
)
def test_the_end_of_the_line_is_no_part_of_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv(f"{FHIR}_FILE", str(file_with(tmp_path, content)))
    token = read_settings().lis.fhir_token
    assert token is not None and token.get_secret_value() == "a-token"


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (None, 0, "no such file"),
        (b"", 0o600, "is empty"),
        (b"\n", 0o600, "is empty"),
        (b"  \n", 0o600, "is empty"),
        (b"one\ntwo\n", 0o600, "more than one line"),
        (b"one\x00two", 0o600, "more than one line"),
        (b"\xff\xfes\x00", 0o600, "not UTF-8"),
        (b"x" * 100_000, 0o600, "larger than"),
        (b"a-token", 0o620, "other users can write it (mode 0620); run chmod go-w"),
        (b"a-token", 0o602, "other users can write it (mode 0602); run chmod go-w"),
        (b"a to\tken", 0o600, "one word of visible ASCII"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_without_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, mode: int, said: str
) -> None:
    path = tmp_path / "secret" if content is None else file_with(tmp_path, content, mode)
    monkeypatch.setenv(f"{FHIR}_FILE", str(path))
    with pytest.raises(SettingsError, match="MARROWLENS_LIS_FHIR_TOKEN") as raised:
        read_settings()
    assert said in str(raised.value) and "a-token" not in str(raised.value)
    code, _, error = run("config", "check")
    assert code == 2 and said in error


def test_a_secret_is_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{FHIR}_FILE", str(file_with(tmp_path, b"a-token")))
    monkeypatch.setenv(FHIR, "another")
    with pytest.raises(SettingsError, match=f"{FHIR} and {FHIR}_FILE are both set; set one"):
        read_settings()
    monkeypatch.setenv(FHIR, "")  # empty counts as unset
    assert read_settings().lis.fhir_token is not None


def test_only_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARROWLENS_PORT_FILE", "/x")
    with pytest.raises(SettingsError, match="MARROWLENS_PORT_FILE is not a setting"):
        read_settings()


# Files that other users can write


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o777, 0o660])
def test_keys_that_others_may_write_are_refused(tmp_path: Path, mode: int) -> None:
    path = keys_file(tmp_path, entry("mlk_a", "a"))
    path.chmod(mode)
    with pytest.raises(KeysFileError, match=r"other users can write it \(mode 0\d+\); run chmod go-w"):
        read_keys(path)
    code, _, said = run("config", "check", MARROWLENS_KEYS_FILE=str(path))
    assert code == 2 and "MARROWLENS_KEYS_FILE" in said and "other users can write it" in said
    code, _, said = run("keys", "new", "b", "--scope", "classify", "--file", str(path))
    assert code == 2 and "other users can write it" in said


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o644, 0o444])
def test_keys_that_others_may_read_at_most_are_taken(tmp_path: Path, mode: int) -> None:
    path = keys_file(tmp_path, entry("mlk_a", "a"))
    path.chmod(mode)
    assert [each.name for each in read_keys(path)] == ["a"]


def test_a_folder_that_others_may_write_is_refused_but_for_a_sticky_one(tmp_path: Path) -> None:
    """A Secret as Kubernetes mounts it: a world-writable sticky folder with links."""
    folder = tmp_path / "keys"
    folder.mkdir()
    path = keys_file(folder, entry("mlk_a", "a"))
    link = tmp_path / "link.toml"
    link.symlink_to(path)
    folder.chmod(0o777)
    for each in (path, link):
        with pytest.raises(KeysFileError, match=r"other users can write its folder .* \(mode 0777\)"):
            read_keys(each)
    folder.chmod(0o1777)
    assert read_keys(link) == read_keys(path)


def test_a_group_may_write_the_folder_only_where_it_is_the_owners_own(tmp_path: Path) -> None:
    path = keys_file(tmp_path, entry("mlk_a", "a"))
    tmp_path.chmod(0o770)
    if os.geteuid() == 0:
        os.chown(tmp_path, 0, 4711)
        with pytest.raises(KeysFileError, match="other users can write its folder"):
            read_keys(path)
        os.chown(tmp_path, 0, 0)
    if os.getgid() == os.getuid():
        assert len(read_keys(path)) == 1


@pytest.mark.parametrize("given", ["file", "folder"])
def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    path = keys_file(tmp_path, entry("mlk_a", "a"))
    if os.geteuid() == 0:
        os.chown(path if given == "file" else tmp_path, 4711, 0)
    else:  # only root may change owners: run as another user instead
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(KeysFileError, match=r"owned by user \d+, neither root nor the user of this process"):
        read_keys(path)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    for path in (fifo, Path("/dev/zero"), tmp_path):
        with pytest.raises(UnsafeFile, match="not a regular file"):
            read_private_file(path, 100)


def test_a_running_ring_keeps_its_keys_when_the_file_becomes_loose(tmp_path: Path) -> None:
    refused: list[KeysFileError] = []
    path = keys_file(tmp_path, entry("mlk_a", "a"))
    ring = KeyRing(path, refused.append)
    path.write_text(entry("mlk_b", "b"))
    path.chmod(0o666)
    ring.refresh()
    assert ring.find("mlk_a") is not None and ring.find("mlk_b") is None
    assert not ring.valid and "other users can write it" in str(refused[0])
    path.chmod(0o600)  # a change of mode alone is noticed
    ring.refresh()
    assert ring.valid and ring.find("mlk_b") is not None


def test_a_new_file_of_keys_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    before = os.umask(0)
    try:
        assert run("keys", "new", "a", "--scope", "classify", "--file", str(path))[0] == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# Masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/fhir", "https://host/fhir"),
        ("https://user:pass@host:8443/fhir", f"https://{MASK}@host:8443/fhir"),
        ("https://token@host/fhir", f"https://{MASK}@host/fhir"),
        ("https://user:pa@ss@host/fhir", f"https://{MASK}@host/fhir"),
        ("https://user:pa/ss@host/fhir", f"https://{MASK}@host/fhir"),
        ("https://host/fhir?token=secret&a=b", f"https://host/fhir?{MASK}"),
        ("https://host/fhir#secret", f"https://host/fhir#{MASK}"),
        ("127.0.0.1", "127.0.0.1"),
        ("urn:marrowlens:codes", "urn:marrowlens:codes"),
    ],
)
def test_credentials_in_urls_are_masked(text: str, shown: str) -> None:
    assert redact_url(text) == shown


def test_config_check_shows_no_credentials(tmp_path: Path) -> None:
    secrets = {
        "MARROWLENS_LIS_DATABASE": f"sqlite:///{tmp_path}/lab.db",
        "MARROWLENS_LIS_FHIR_URL": "https://lab-user:pass-word@fhir.example/base?key=a-key",
        "MARROWLENS_LIS_LOCAL_SYSTEM_URI": "https://codes.example/?access=a-key",
        "MARROWLENS_OTLP_HEADERS": "authorization=Bearer%20a-token",
        "MARROWLENS_LIS_FHIR_PATIENT_SYSTEMS": "HOSPITAL=https://user:pass-word@ids.example/",
    }
    for words in (("config", "check"), ("config", "check", "--json")):
        code, said, error = run(*words, **secrets)
        assert code == 0, error
        assert not any(each in said + error for each in ("pass-word", "lab-user", "a-key", "a-token"))
        assert "fhir.example" in said


# Never sent unencrypted

PLAIN = "http://elsewhere.example"


@pytest.mark.parametrize(
    "environment",
    [
        {"MARROWLENS_OIDC_ISSUER": PLAIN, "MARROWLENS_OIDC_AUDIENCE": "a"},
        {
            "MARROWLENS_OIDC_ISSUER": "https://i.example",
            "MARROWLENS_OIDC_AUDIENCE": "a",
            "MARROWLENS_OIDC_JWKS_URL": PLAIN,
        },
        {"MARROWLENS_LIS_FHIR_URL": PLAIN, FHIR: "a-token"},
        {"MARROWLENS_LIS_FHIR_URL": "http://user:a-token@elsewhere.example/"},
        {"MARROWLENS_LIS_FHIR_URL": f"{PLAIN}/?key=a-token"},
        {"MARROWLENS_LIS_FHIR_URL": "HTTP://127.0.0.1.elsewhere.example", FHIR: "a-token"},
        {"MARROWLENS_LIS_FHIR_URL": "http://10.0.0.7:8080/fhir", FHIR: "a-token"},
        {"MARROWLENS_LIS_FHIR_URL": "http://localhost@elsewhere.example/", FHIR: "a-token"},
        {"MARROWLENS_OTLP_ENDPOINT": f"{PLAIN}:4318", "MARROWLENS_OTLP_HEADERS": "authorization=a-token"},
        {"MARROWLENS_OTLP_ENDPOINT": f"{PLAIN}:4318", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=a-token"},
        {"MARROWLENS_OTLP_ENDPOINT": f"{PLAIN}:4318", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=a-token"},
    ],
    ids=lambda environment: " ".join(environment),
)
def test_a_secret_for_another_machine_over_plain_http_refuses_to_start(environment: dict[str, str]) -> None:
    for words in (("config", "check"), ("serve", "--port", "0")):
        code, said, error = run(*words, **environment)
        assert code == 2 and ("use https" in error or "MARROWLENS_LIS_FHIR_URL: " in error), error
        assert "a-token" not in said + error


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]:8080"])
def test_this_machine_may_be_sent_secrets_over_plain_http(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARROWLENS_LIS_FHIR_URL", f"http://{host}/fhir")
    monkeypatch.setenv(FHIR, "a-token")
    monkeypatch.setenv("MARROWLENS_OTLP_ENDPOINT", f"http://{host}")
    monkeypatch.setenv("MARROWLENS_OTLP_HEADERS", "authorization=a-token")
    assert read_settings().lis.fhir_token is not None


def test_without_a_secret_plain_http_stays_the_operators_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARROWLENS_LIS_FHIR_URL", f"{PLAIN}/fhir")
    monkeypatch.setenv("MARROWLENS_OTLP_ENDPOINT", f"{PLAIN}:4318")
    assert read_settings().lis.fhir_url == f"{PLAIN}/fhir"


@pytest.mark.parametrize("url", ["https://", "http:///x", "ftp://host", "https://host:port/", "https://[::1", "host"])
def test_what_is_no_url_is_told(url: str) -> None:
    assert transport_fault(url) is not None
