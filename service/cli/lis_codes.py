"""`marrowlens lis codes`: which codes would be sent, before and after a person signs. Nothing is sent.

Knows tables, words and exit codes. What may be claimed is decided by `codes`.
"""

import io
import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from model import csv_file
from model.contract import ArtefactError
from service.config.settings import Settings, SettingsError, read_settings
from service.lis.exchange.code_map import CodeMap, CodeTableError, Sent
from service.lis.exchange.observations import Coded
from service.runtime.artifact import bundled_artefact, manifest_beside
from service.runtime.loader import verifier

BAD_SETTINGS = 2
#: How wide a table is where no terminal says so: nothing of a code is cut off.
FILE_COLUMNS = 200


def codes(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, one result a line.")] = False,
) -> None:
    """Show the code of every result as it would be sent, preliminary and signed, and what is doubtful about it.

    Reads MARROWLENS_LIS_CODES, MARROWLENS_LIS_LEAST_CODE_STATUS and the model's classes. Exit codes: 0 the table can be
    used, 2 it cannot, or bad settings.
    """
    try:
        settings = read_settings()
        table = CodeMap.load(settings.lis.codes, settings.lis.least_code_status)
        sent = table.sent(manifest_beside(settings.artefact or bundled_artefact(), verifier(settings)).classes)
    except (SettingsError, CodeTableError, ArtefactError) as error:
        typer.echo(f"marrowlens: {error}", err=True)
        raise typer.Exit(BAD_SETTINGS) from error
    if as_json:
        document = {"version": table.version, "least_status": table.least_status, "codes": [asdict(s) for s in sent]}
        typer.echo(json.dumps(document, indent=1))
    elif as_csv:
        typer.echo(_csv(sent), nl=False)
    else:
        _show(settings, table, sent)


def _csv(sent: list[Sent]) -> str:
    out = io.StringIO()
    rows = csv_file.Writer(out)
    rows.writerow(("key", "status", "preliminary_system", "preliminary", "signed_system", "signed", "warnings"))
    for each in sent:
        before, after = each.preliminary, each.signed
        warnings = "; ".join(each.warnings)
        rows.writerow((each.key, each.status, before.system, before.code, after.system, after.code, warnings))
    return out.getvalue()


def _show(settings: Settings, table: CodeMap, sent: list[Sent]) -> None:
    title = f"codes, version {table.version}; LOINC where {table.least_status} or better"
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("key", "status", "preliminary", "signed"):
        shown.add_column(column, no_wrap=True)
    for each in sent:
        shown.add_row(each.key, each.status, _words(each.preliminary), _words(each.signed))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = FILE_COLUMNS
    console.print(shown)
    for each in sent:
        for warning in each.warnings:
            console.print(f"{each.key}: {warning}")
    console.print(f"local codes are of {settings.lis.local_system} in HL7 and {settings.lis.local_system_uri} in FHIR")


def _words(coded: Coded) -> str:
    return f"LOINC {coded.code}" if coded.system == "loinc" else coded.code
