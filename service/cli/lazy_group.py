"""Groups of commands whose modules are imported when one of them is called: `marrowlens serve` needs none of them."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group


def lazily(module: str, name: str, help: str) -> typer.Typer:
    """A group that stands for the `typer.Typer` of this name in a module not yet imported."""

    class Lazily(TyperGroup):
        def list_commands(self, ctx: Any) -> Any:
            return self._group().list_commands(ctx)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return self._group().get_command(ctx, cmd_name)

        def _group(self) -> Any:
            return get_group(getattr(import_module(module), name))

    # A group without a callback of its own counts as empty, and is left out.
    group = typer.Typer(cls=Lazily, no_args_is_help=True, help=help)
    group.callback()(_nothing)
    return group


def _nothing() -> None:
    """All is done by the commands."""
