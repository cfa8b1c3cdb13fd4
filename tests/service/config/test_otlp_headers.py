"""Headers for the collector: values that OpenTelemetry would reject and log are refused at start."""

import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.config.settings import read_settings


@pytest.mark.parametrize("name", ["MARROWLENS_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"])
@pytest.mark.parametrize(
    "headers", ["a-token", "x=1,a-token", "key=a-token;x", 'key="a-token"', "key=a-token%0A", "é=a-token"]
)
def test_headers_that_would_be_logged_are_refused_without_them(name: str, headers: str) -> None:
    environment = {"MARROWLENS_OTLP_ENDPOINT": "https://collector.example", name: headers}
    done = CliRunner().invoke(app, ["config", "check"], env=environment)
    assert done.exit_code == 2 and f"{name} is not a list of NAME=VALUE" in done.stderr
    assert "a-token" not in done.output


@pytest.mark.parametrize(
    "headers", ["authorization=Bearer a-token", "a=b%20c==, x-y = z,", "Authorization=Basic dTpw="]
)
def test_headers_as_other_tools_write_them_are_taken(headers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARROWLENS_OTLP_HEADERS", headers)
    assert read_settings().otlp_headers is not None
