"""The list of commands: complete, and an unknown one names the nearest."""

import pytest
from typer.testing import CliRunner

from service.cli.main import COMMANDS, GROUPS, app


@pytest.mark.parametrize(("wrong", "nearest"), [("serv", "serve"), ("lsi", "lis"), ("metric", "metrics")])
def test_an_unknown_command_names_the_nearest(wrong: str, nearest: str) -> None:
    said = CliRunner().invoke(app, [wrong])
    assert said.exit_code == 2 and f"No such command '{wrong}'. Did you mean '{nearest}'?" in said.output


def test_the_help_has_every_command_and_group() -> None:
    said = CliRunner().invoke(app, ["--help"]).output
    assert all(f"│ {name} " in said for name in (*COMMANDS, *GROUPS))
