"""`marrowlens openapi`."""

from pathlib import Path
from typing import Annotated

import typer

from service.api import openapi as openapi_document
from service.app import create_app
from service.cli.output import Check, load_settings, stop_logged, write_or_check


def openapi(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("openapi.json"),
    check: Check = False,
) -> None:
    """Write the OpenAPI document. Needs no model."""
    document = openapi_document.as_file(create_app(load_settings(stop_logged)))
    write_or_check(out, document, "marrowlens openapi", check=check)
