"""`marrowlens audit`: check the audit trail, and compare a value with one that a change replaced."""

import json
import sys
from typing import Annotated

import typer
from sqlalchemy import select
from sqlalchemy.orm import Session

from model.plural import plural
from service.cli.lis import open_session
from service.cli.output import stop
from service.lis.storage import audit, audit_checks
from service.lis.storage.audit import ChainEnd
from service.lis.storage.digests import digest_of_value
from service.lis.storage.tables import AuditKeyRow, AuditRow, SpecimenRow

MISMATCH = 1

audit_trail = typer.Typer()


@audit_trail.command()
def verify(
    known: Annotated[
        str | None, typer.Option(help="NUMBER:HASH printed by an earlier check, stored outside the database.")
    ] = None,
) -> None:
    """Check that no row of the audit trail was edited, added, removed or moved, and that the tables agree with it.

    Compares patients, orders, cells, readings, reports and messages. Prints what was erased or has expired.

    Exit codes: 0 no mismatch, 1 mismatches, 2 database not available or invalid settings.
    """
    with open_session() as session:
        end, mismatches = audit.verify(session, _end(known))
        compared = audit_checks.verify(session)
    mismatches += compared.mismatches
    for line in compared.erased:
        typer.echo(line, err=True)
    if compared.uncovered:
        typer.echo(
            f"not compared until the next change: {plural(compared.uncovered, 'specimen')} of an earlier version",
            err=True,
        )
    for mismatch in mismatches:
        typer.echo(f"row {mismatch.number}: {mismatch.what}" if mismatch.number else mismatch.what, err=True)
    typer.echo(f"{end.number}:{end.hash}")
    if mismatches:
        typer.echo(f"audit trail not verified: {plural(len(mismatches), 'mismatch', 'mismatches')}", err=True)
        raise typer.Exit(MISMATCH)
    typer.echo(
        f"audit trail verified: {plural(end.number, 'row')}; store the line above outside the database, for --known",
        err=True,
    )


def _end(known: str | None) -> ChainEnd | None:
    if known is None:
        return None
    number, _, digest = known.partition(":")
    if not number.isdecimal() or len(digest) != 64:
        stop("invalid --known; use NUMBER:HASH as `marrowlens audit verify` prints it")
    return ChainEnd(int(number), digest)


@audit_trail.command()
def compare(
    number: Annotated[int, typer.Argument(help="Number of a row with the action `change`.", metavar="ROW")],
) -> None:
    """Check whether a change replaced the JSON value on stdin. The value is not printed or stored.

    marrowlens audit compare 42 <<< '{"identifier": "100234", "family": "Muster"}'

    Exit codes: 0 it did, 1 it did not, 2 unknown row, invalid JSON, database not available or invalid settings.
    """
    try:
        value = json.load(sys.stdin)
    except ValueError:
        stop("stdin is not valid JSON")
    with open_session() as session:
        row = session.get(AuditRow, number)
        details = json.loads(row.details) if row is not None and row.action == "change" else {}
        if row is None or "before" not in details:
            stop(f"row {number} has no digest of a replaced value")
        keys = _keys(session, row.specimen_id)
        for field, digest in details["before"].items():
            found = (digest_of_value(key, row.specimen_id, details["revision"], field, value) for key in keys)
            if digest in found:
                typer.echo(f"row {number} replaced this value of {field}")
                return
    typer.echo(f"row {number} replaced another value")
    raise typer.Exit(MISMATCH)


def _keys(session: Session, specimen_id: str | None) -> list[str]:
    """Keys of digests: the specimen's, unless it was erased, and the database's, for rows of earlier versions."""
    own = session.scalar(select(SpecimenRow.digest_key).where(SpecimenRow.id == specimen_id))
    return [*([own] if own else []), *session.scalars(select(AuditKeyRow.key))]
