"""`marrowlens lis …`: outbox, codes, migrations and delivery of the laboratory."""

import asyncio
import getpass
import io
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.orm import Session

from model import csv_file
from model.contract import ArtefactError
from service.auth.identity import Actor, Identity, InvalidName, checked_name
from service.concurrency.supervisor import Supervisor
from service.concurrency.thread_pools import event_loop_pool
from service.config.lis import LaboratoryConfigError
from service.config.settings import Settings, SettingsError, read_settings
from service.errors import StorageUnavailable
from service.lis.exchange.code_map import CodeMap, CodeTableError, Sent
from service.lis.exchange.delivery import age_s
from service.lis.exchange.observations import Coded
from service.lis.laboratory import Laboratory
from service.lis.storage import audit, outbox
from service.lis.storage.database import Database, DatabaseRefused
from service.lis.storage.outbox import Overtaken, UnderWay
from service.lis.storage.states import MessageState
from service.lis.storage.tables import MessageRow, SpecimenRow
from service.runtime.artifact import bundled_artefact, read_manifest_of
from service.runtime.loader import artefact_verifier
from service.telemetry import logging as logs
from service.telemetry.metric_registry import MetricRegistry
from service.telemetry.metrics import BackgroundMetrics

#: Exit codes: tables of another version; bad settings, or a database that does not answer.
NOT_YET, CANNOT = 1, 2


@contextmanager
def open_session(*, writing: bool = False) -> Iterator[Session]:
    """A transaction on the laboratory's database; ends the command where there is none."""
    with _database() as database, database.writing() if writing else database.reading() as session:
        yield session


@contextmanager
def _database() -> Iterator[Database]:
    try:
        database = Database.of(laboratory_settings().lis)
        try:
            yield database
        finally:
            database.close()
    except (DatabaseRefused, StorageUnavailable) as error:
        stop(f"MARROWLENS_LIS_DATABASE: {error}")


def laboratory_settings() -> Settings:
    """The settings; ends the command where they are bad, or of no laboratory."""
    try:
        settings = read_settings()
    except SettingsError as error:
        stop(str(error))
    if settings.lis.database is None:
        stop("there is no laboratory: set MARROWLENS_LIS_DATABASE")
    return settings


def operator() -> Actor:
    """Who calls the command, as the operating system says."""
    try:
        return Actor(checked_name(getpass.getuser(), "your login name"), Identity(kind="command"))
    except (InvalidName, OSError, KeyError) as error:  # KeyError: a container's user without a name, before Python 3.13
        stop(f"the audit trail needs a name: {error}; set LOGNAME")


def stop(message: str, status: int = CANNOT) -> NoReturn:
    """End the command with a line on stderr."""
    typer.echo(f"marrowlens: {message}", err=True)
    raise typer.Exit(status)


#: Between two looks at a database that is waited for.
_AGAIN_S = 1.0


def migrate(
    wait_s: Annotated[float, typer.Option(min=0, help="How long the database is waited for.")] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing: wait until the tables are this version's.")
    ] = False,
) -> None:
    """Make the database's tables, or bring them to this version; `serve` does it too.

    May be called again, and by several at a time: one does it and the others wait. With --wait-s and --check it is
    what a replica runs before it starts, while a job beside it migrates.

    Exit codes: 0 the tables are this version's, 1 with --check they are not, 2 the database does not answer or is of a
    later version, or bad settings.
    """
    with _database() as database:
        done = _awaited(database.is_current if check else lambda: _migrated(database), wait_s)
    if not done:
        stop("the tables are not this version's: marrowlens lis migrate", status=NOT_YET)
    typer.echo("the database is up to date")


def _migrated(database: Database) -> bool:
    database.migrate()
    return True


def _awaited(done: Callable[[], bool], wait_s: float) -> bool:
    """Ask until it is done or the time is over; the last answer counts, be it that nobody answers."""
    end_s = time.monotonic() + wait_s
    said = False
    while True:
        is_last = time.monotonic() >= end_s
        try:
            if (finished := done()) or is_last:
                return finished
        except StorageUnavailable:
            if is_last:
                raise
        if not said:
            typer.echo(f"marrowlens: not yet; waiting for up to {wait_s:g} s", err=True)
            said = True
        time.sleep(min(_AGAIN_S, max(0.0, end_s - time.monotonic())))


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
        manifest = read_manifest_of(settings.artefact or bundled_artefact(), artefact_verifier(settings))
        sent = table.sent(manifest.classes)
    except (SettingsError, CodeTableError, ArtefactError) as error:
        stop(str(error))
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


_ALL = 1_000_000
_OVERTAKEN = "stays: a later report of its specimen may have arrived, which it would take back; drop it"

lis = typer.Typer()
for command in (codes, migrate):
    lis.command()(command)
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]
ControlIds = Annotated[list[str], typer.Argument(help="Control ids, as `show` lists them.", metavar="CONTROL_ID...")]


@lis.command()
def status(as_json: AsJson = False) -> None:
    """Show for each receiver how many messages wait, how old the oldest is, and how many are dead."""
    with open_session() as session:
        depths = outbox.depths(session)
    if as_json:
        rows = [
            {"channel": d.channel, "waiting": d.waiting, "dead": d.dead, "oldest_s": age_s(d.oldest_at)} for d in depths
        ]
        typer.echo(json.dumps(rows))
        return
    if not depths:
        typer.echo("nothing waits, nothing is dead")
        return
    lines = [(each.channel, str(each.waiting), str(each.dead), _duration(age_s(each.oldest_at))) for each in depths]
    _table(("channel", "waiting", "dead letters", "oldest waits for"), lines)


@lis.command()
def show(
    control_id: Annotated[
        str | None, typer.Argument(help="One message; without it, all that wait or are dead.")
    ] = None,
    message: Annotated[bool, typer.Option("--message", help="Print what it says: a patient's data.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many to list.")] = 100,
) -> None:
    """List messages that wait or are dead, or show one with the receiver's reply."""
    audits = laboratory_settings().lis.audit_reads
    with open_session(writing=audits and control_id is not None) as session:
        if control_id is None:
            _list(outbox.listed(session, (MessageState.DEAD, MessageState.WAITING), limit))
            return
        row = _found(session, control_id)
        if audits:  # the message is a patient's, and a receiver's reply may quote it
            specimen_id = session.scalar(select(SpecimenRow.id).where(SpecimenRow.row == row.specimen))
            audit.record(session, operator(), "look", specimen_id, what=f"message {control_id}")
    _table(
        ("", ""),
        [
            (name, str(value))
            for name, value in (
                ("control id", row.control_id),
                ("channel", row.channel),
                ("state", row.state),
                ("attempts", row.attempts),
                ("written", row.created_at.isoformat(timespec="seconds")),
                ("reason", row.reason or "-"),
                ("reply", (row.reply or "-").replace("\r", "\n")),
            )
        ],
    )
    if message:
        typer.echo(row.message.replace("\r", "\n"))


@lis.command()
def retry(
    control_ids: ControlIds = [],  # noqa: B006 (typer reads it, nothing writes to it)
    every: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
) -> None:
    """Send dead letters again, as they were: the same bytes under the same control id."""
    retry_for = timedelta(hours=laboratory_settings().lis.retry_for_h)
    if not (control_ids or every):
        stop("say which, or --all")
    with open_session(writing=True) as session:
        if every:
            control_ids = [row.control_id for row in outbox.listed(session, (MessageState.DEAD,), _ALL)]
        overtaken = [each for each in control_ids if not _retried(session, each, retry_for)]
        if overtaken and not every:
            stop(f"{overtaken[0]} {_OVERTAKEN}")
    for each in overtaken:
        typer.echo(f"{each} {_OVERTAKEN}", err=True)
    typer.echo(f"{len(control_ids) - len(overtaken)} to be sent again")


def _retried(session: Session, control_id: str, retry_for: timedelta) -> bool:
    """Whether it will be sent again; not where a later report could be taken back by it."""
    row = _found(session, control_id)
    if row.state != MessageState.DEAD:
        stop(f"{control_id} is {row.state}: only a dead letter is sent again")
    try:
        outbox.retry_dead(session, row, operator(), retry_for)
    except Overtaken:
        return False
    return True


@lis.command()
def drop(
    control_ids: ControlIds,
    why: Annotated[str, typer.Option(help="Stands in the audit trail.", prompt="why")],
) -> None:
    """Give up on messages that wait or are dead. The reports stay; the receiver will not have them."""
    with open_session(writing=True) as session:
        for control_id in control_ids:
            row = _found(session, control_id)
            if row.state not in (MessageState.DEAD, MessageState.WAITING):
                stop(f"{control_id} is {row.state}: there is nothing to give up")
            try:
                outbox.drop(session, row, operator(), why)
            except UnderWay:
                stop(f"{control_id} is being sent at this moment; look again in a minute")
    typer.echo(f"{len(control_ids)} dropped")


@lis.command()
def deliver() -> None:
    """Deliver reports until SIGTERM, in a process of its own: beside services that set MARROWLENS_LIS_DELIVER=false."""
    settings = laboratory_settings()
    logs.configure(settings.log_level, form=settings.log_format)
    try:
        laboratory = Laboratory(settings, MetricRegistry(), only_delivers=True)
        asyncio.run(_delivering(laboratory, settings.shutdown_timeout_s))
    except LaboratoryConfigError as error:
        stop(str(error))


async def _delivering(laboratory: Laboratory, timeout_s: float) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    asyncio.get_running_loop().set_default_executor(event_loop_pool())
    background = Supervisor(BackgroundMetrics(MetricRegistry()))
    await laboratory.start((), background)
    typer.echo("delivering")
    await stopped.wait()
    await laboratory.close(timeout_s)
    await background.close(timeout_s)


def _found(session: Session, control_id: str) -> MessageRow:
    return outbox.by_control_id(session, control_id) or stop(f"there is no message {control_id}")


def _list(rows: Sequence[MessageRow]) -> None:
    if not rows:
        typer.echo("nothing waits, nothing is dead")
        return
    columns = ("control id", "channel", "state", "attempts", "written", "reason")
    _table(
        columns,
        [
            (row.control_id, row.channel, row.state, str(row.attempts), f"{row.created_at:%F %T}", row.reason or "")
            for row in rows
        ],
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=box.SIMPLE, show_header=any(columns))
    for at, column in enumerate(columns):
        table.add_column(column, no_wrap=at == 0, overflow="fold")  # a control id is copied from here
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    console.print(table, width=None if console.is_terminal else FILE_COLUMNS)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if seconds else "-"
