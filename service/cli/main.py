"""The command line `marrowlens`. Groups of commands are imported when one of their commands is called."""

import sys
from importlib import import_module
from typing import Any

try:
    import typer
    from typer.core import TyperGroup
    from typer.main import get_group

    from model.contract import RESEARCH_USE
    from service.cli.doctor import doctor, warm
    from service.cli.metrics import metrics
    from service.cli.score import score
    from service.cli.serve import openapi, serve
    from service.cli.verify import verify
except ImportError as error:  # the command is also installed where only the training packages are
    missing = f"{(error.name or '').partition('.')[0]} is not installed: pip install -e '.[service,cpu]'"
    sys.stderr.write(f"marrowlens: {missing if isinstance(error, ModuleNotFoundError) else error}\n")
    raise SystemExit(2) from error


def _lazy_group(module: str, name: str, help: str) -> typer.Typer:
    """A group that imports its commands, a `typer.Typer` in another module, when it is called."""

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> Any:
            return self._group().list_commands(ctx)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return self._group().get_command(ctx, cmd_name)

        def _group(self) -> Any:
            return get_group(getattr(import_module(module), name))

    group = typer.Typer(cls=LazyGroup, no_args_is_help=True, help=help)
    group.callback()(_no_callback)  # typer leaves out groups without commands and callback
    return group


def _no_callback() -> None:
    """Do nothing before the command."""


app = typer.Typer(no_args_is_help=True, add_completion=False, help=f"Classifies bone-marrow cells. {RESEARCH_USE}")
for command in (serve, openapi, score, verify, warm, doctor, metrics):
    app.command()(command)
for group, module, name, summary in (
    ("keys", "service.cli.keys", "keys", "Create, list and revoke API keys."),
    ("config", "service.cli.config", "config", "Check the settings in force; write their documentation."),
    ("drift", "service.cli.drift", "drift", "Measure input drift of a folder; make a reference."),
    ("lis", "service.cli.lis", "lis", "The laboratory's messages, codes and database."),
    ("readings", "service.cli.readings", "readings", "What people have read: training list, agreement with the model."),
    ("audit", "service.cli.audit", "audit_trail", "Verify the laboratory's audit trail."),
):
    app.add_typer(_lazy_group(module, name, summary), name=group)
