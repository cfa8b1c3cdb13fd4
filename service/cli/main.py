"""The command line `marrowlens`. What a command needs is imported when it is called, or for the list of commands."""

import sys
from functools import cache
from importlib import import_module
from typing import Any, NoReturn


def _exit_not_installed(error: ImportError) -> NoReturn:
    """Say what to install; no traceback."""
    missing = f"{(error.name or '').partition('.')[0]} is not installed: pip install -e '.[service,cpu]'"
    sys.stderr.write(f"marrowlens: {missing if isinstance(error, ModuleNotFoundError) else error}\n")
    raise SystemExit(2) from error


try:
    import typer
    from typer.core import TyperGroup
    from typer.main import get_command, get_group

    from model.contract import RESEARCH_USE
except ImportError as error:  # the command is also installed where only the training packages are
    _exit_not_installed(error)

#: Command → the module that defines it.
COMMANDS = {
    "serve": "service.cli.serve",
    "score": "service.cli.score",
    "verify": "service.cli.verify",
    "warm": "service.cli.doctor",
    "doctor": "service.cli.doctor",
    "openapi": "service.cli.openapi",
    "metrics": "service.cli.metrics",
}
#: Group of commands → the module and the name of its `typer.Typer`, and what it is for.
GROUPS = {
    "keys": ("service.cli.keys", "keys", "Create, list and revoke API keys."),
    "config": ("service.cli.config", "config", "Check the settings in force; write their documentation."),
    "drift": ("service.cli.drift", "drift", "Measure input drift of a folder; make a reference."),
    "lis": ("service.cli.lis", "lis", "The laboratory's messages, codes and database."),
    "readings": ("service.cli.readings", "readings", "What people have read: training list, agreement with the model."),
    "audit": ("service.cli.audit", "audit_trail", "Verify the laboratory's audit trail."),
}


def _imported(module: str, name: str) -> Any:
    """A name in a module; exits with what to install if a package that the module needs is missing."""
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        _exit_not_installed(error)


@cache
def _command(name: str) -> Any:
    alone = typer.Typer(add_completion=False)
    alone.command(name)(_imported(COMMANDS[name], name))
    return get_command(alone)


class LazyCommands(TyperGroup):
    """The commands of `COMMANDS`, and the groups that were added."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = dict.fromkeys(COMMANDS) | dict(self.commands)  # their names are in lists and suggestions

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _command(cmd_name) if cmd_name in COMMANDS else super().get_command(ctx, cmd_name)


def _lazy_group(module: str, name: str, summary: str) -> typer.Typer:
    """A group that imports its commands when it is called."""

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> Any:
            return self._group().list_commands(ctx)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return self._group().get_command(ctx, cmd_name)

        def _group(self) -> Any:
            return get_group(_imported(module, name))

    group = typer.Typer(cls=LazyGroup, no_args_is_help=True, help=summary)
    group.callback()(_no_callback)  # typer leaves out groups without commands and callback
    return group


def _no_callback() -> None:
    """Do nothing before the command."""


app = typer.Typer(
    cls=LazyCommands,
    no_args_is_help=True,
    add_completion=False,
    help=f"Classifies bone-marrow cells. {RESEARCH_USE}",
)
app.callback()(_no_callback)
for group, (module, name, summary) in GROUPS.items():
    app.add_typer(_lazy_group(module, name, summary), name=group)
