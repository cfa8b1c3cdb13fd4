"""`marrowlens config`: settings in force, their sources and errors, and the generated documentation."""

import json
import os
from pathlib import Path

import forks
import pytest
from typer.testing import CliRunner

from service.cli.config import page
from service.cli.main import app as command_line
from service.config.lis import LIS_PREFIX
from service.config.settings import environment_names

PAGE = Path("docs/settings.md")


def run(*words: str, **environment: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(command_line, ["config", *words], env={"COLUMNS": "200", **environment})
    return done.exit_code, done.stdout, done.stderr


def test_every_setting_has_its_value_and_its_source() -> None:
    code, said, _ = run("check", "--json", MARROWLENS_PORT="9000", marrowlens_rate_per_s="5", MARROWLENS_HOST="")
    found = json.loads(said)
    assert (code, set(found)) == (0, set(environment_names()))
    assert found["MARROWLENS_PORT"] == {"value": "9000", "source": "environment"}
    assert found["MARROWLENS_RATE_PER_S"] == {"value": "5.0", "source": "environment"}
    assert found["MARROWLENS_HOST"] == {"value": "127.0.0.1", "source": "default"}
    assert found[f"{LIS_PREFIX}TARGET_CELLS"] == {"value": "500", "source": "default"}
    assert {each["source"] for each in found.values()} == {"environment", "default"}
    code, table, _ = run("check", MARROWLENS_PORT="9000")
    [line] = [line for line in table.splitlines() if "MARROWLENS_PORT " in line]
    assert line.split() == ["MARROWLENS_PORT", "9000", "environment"]


def test_secrets_are_not_printed() -> None:
    secrets = {
        "MARROWLENS_LIS_DATABASE": "postgresql+psycopg://u:pass-word@host/x",
        "MARROWLENS_LIS_FHIR_TOKEN": "a-token",
        "MARROWLENS_TLS_KEY_PASSWORD": "pass-word",
    }
    for words in (("check",), ("check", "--json")):
        code, said, _ = run(*words, **secrets)
        assert code == 0 and said.count("(secret)") == 3
        assert "pass-word" not in said and "a-token" not in said


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"MARROWLENS_KEYFILE": "x", "MARROWLENS_PROT": "1"}, ["did you mean MARROWLENS_KEYS_FILE", "MARROWLENS_PORT"]),
        ({"MARROWLENS_LIS_DATABSE": "x"}, ["did you mean MARROWLENS_LIS_DATABASE?"]),
        ({"MARROWLENS_PORT": "many"}, ["MARROWLENS_PORT=many: "]),
        ({"MARROWLENS_KEYS_FILE": "/nowhere", "MARROWLENS_ARTEFACT": "/nothing"}, ["KEYS_FILE: /nowhere", "/nothing"]),
        ({"MARROWLENS_ARTEFACT_PUBLIC_KEY": "/nowhere"}, ["verification of the model: /nowhere cannot be read"]),
        ({"MARROWLENS_HOST": "0.0.0.0"}, ["authentication is off"]),
        ({"MARROWLENS_ARTEFACT_VOUCHED_ONLY": "true"}, ["MARROWLENS_ARTEFACT_VOUCHED_ONLY requires it"]),
        ({"MARROWLENS_DRIFT_REFERENCE": "/nowhere"}, ["MARROWLENS_DRIFT_REFERENCE: no such file"]),
        ({"MARROWLENS_TLS_CERT": "/nowhere", "MARROWLENS_TLS_KEY": "/nowhere"}, ["MARROWLENS_TLS_CERT"]),
    ],
)
def test_what_is_off_is_named_all_of_it(environment: dict[str, str], said: list[str]) -> None:
    code, _, error = run("check", **environment)
    assert code == 2
    assert all(each in error for each in said), error


@pytest.mark.parametrize(
    "setting",
    [
        "OIDC_CA",
        *(f"LIS_{name}" for name in ("CODES", "PICTURES", "REFERENCE_RANGES", "REFERENCE_CELLS", "COMMENT_TEMPLATES")),
    ],
)
def test_what_the_start_would_fail_by_or_wait_for_is_told_alike_by_both(setting: str, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    environment = {
        "MARROWLENS_OIDC_ISSUER": "https://issuer.example",
        "MARROWLENS_OIDC_AUDIENCE": "marrowlens",
        "MARROWLENS_LIS_DATABASE": f"sqlite:///{tmp_path / 'lab.db'}",
        f"MARROWLENS_{setting}": str(fifo),
    }
    for words in (("config", "check"), ("serve", "--port", "0")):
        done = forks.run(words, os.environ | environment)
        assert done.returncode == 2 and f"MARROWLENS_{setting}: {fifo}" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "setting", ["ARTEFACT", "ENGINE_CACHE", "KEYS_FILE", "OIDC_CA", "LIS_PICTURES", "LIS_FHIR_TOKEN_FILE"]
)
@pytest.mark.parametrize("value", ["https://u:s3cr3t@host/x", "s3://s3cr3t@bucket"])
def test_a_url_in_place_of_a_path_is_refused_without_it(setting: str, value: str) -> None:
    code, said, error = run("check", **{f"MARROWLENS_{setting}": value})
    assert code == 2 and f"MARROWLENS_{setting}" in error
    assert "s3cr3t" not in said + error


@pytest.mark.parametrize("url", ["postgresql+psycopg://u:pass@word:s3cr3t@h/n", "postgresql+psycopg://u:p@h:s3cr3t/n"])
def test_a_password_that_was_not_escaped_is_told_without_it(url: str) -> None:
    code, said, error = run("check", MARROWLENS_LIS_DATABASE=url)
    assert code == 2 and "MARROWLENS_LIS_DATABASE: invalid database URL" in error
    assert "s3cr3t" not in said + error


def test_a_file_of_no_keys_is_told(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("")
    path.chmod(0o600)
    code, _, error = run("check", MARROWLENS_KEYS_FILE=str(path))
    assert (code, "holds no key" in error) == (2, True)


def test_the_page_is_fresh_and_names_every_setting(tmp_path: Path) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "stale: marrowlens config docs"
    for name, field in environment_names().items():
        [line] = [line for line in page().splitlines() if line.startswith(f"| `{name}` |")]
        cells = line.replace("\\|", "").split("|")
        assert len(cells) == 6 and cells[3].strip(), line
        assert str(field.description).replace("|", "") in cells[4]
    out = tmp_path / "settings.md"
    assert run("docs", "--out", str(out), "--check")[0] == 1
    assert run("docs", "--out", str(out))[0] == 0
    assert run("docs", "--out", str(out), "--check")[0] == 0
    out.write_text(out.read_text().replace("8000", "8001"))
    assert run("docs", "--out", str(out), "--check")[0] == 1
