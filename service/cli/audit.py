"""`marrowlens audit …`: whether the audit trail holds, and whether a value is the one that a change replaced."""

import json
import sys
from typing import Annotated

import typer

from service.cli.lis import open_session, stop
from service.lis.storage import audit, audit_checks
from service.lis.storage.audit import End
from service.lis.storage.tables import AuditRow

FAULTS = 1

audit_trail = typer.Typer()


@audit_trail.command()
def verify(
    known: Annotated[
        str | None, typer.Option(help="NUMBER:HASH as an earlier check printed it; keep it outside the database.")
    ] = None,
) -> None:
    """Check that no row of the audit trail, no report, message or reading was edited, added, removed or put elsewhere.

    Exit codes: 0 it holds, 1 it does not, 2 the database does not answer or bad settings.
    """
    with open_session() as session:
        end, faults = audit.verify(session, _end(known))
        faults += audit_checks.verify(session)
    for fault in faults:
        typer.echo(f"{f'row {fault.number}' if fault.number else 'no row'} {fault.what}", err=True)
    typer.echo(f"{end.number}:{end.hash}")
    if faults:
        typer.echo(f"the audit trail does not hold: {len(faults)} faults", err=True)
        raise typer.Exit(FAULTS)
    typer.echo(f"the audit trail holds: {end.number} rows; keep the line above elsewhere, for --known", err=True)


def _end(known: str | None) -> End | None:
    if known is None:
        return None
    number, _, digest = known.partition(":")
    if not number.isdecimal() or len(digest) != 64:
        stop("--known is not NUMBER:HASH as `marrowlens audit verify` prints it")
    return End(int(number), digest)


@audit_trail.command()
def compare(number: Annotated[int, typer.Argument(help="Number of a row that says `change`.", metavar="ROW")]) -> None:
    """Check whether the JSON value on stdin is one that a change replaced. Nothing of it is printed or kept.

    marrowlens audit compare 42 <<< '{"identifier": "100234", "family": "Muster"}'

    Exit codes: 0 it is, 1 it is not, 2 no such row, no JSON, the database does not answer or bad settings.
    """
    try:
        value = json.load(sys.stdin)
    except ValueError:
        stop("what came on stdin is no JSON")
    with open_session() as session:
        row = session.get(AuditRow, number)
        details = json.loads(row.details) if row is not None and row.action == "change" else {}
        if row is None or "before" not in details:
            stop(f"row {number} holds no digest of a replaced value")
        for field, digest in details["before"].items():
            if digest == audit.digest_of_value(session, row.specimen_id, details["revision"], field, value):
                typer.echo(f"row {number} replaced this value of {field}")
                return
    typer.echo(f"row {number} replaced another value")
    raise typer.Exit(FAULTS)
