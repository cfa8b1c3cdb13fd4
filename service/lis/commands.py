"""`marrowlens lis …` and `marrowlens audit …`: what waits, what is dead, and whether the audit trail holds.

Knows words and exit codes. Whoever may run these commands may read the database; what they print can hold patients'
data only where the help says so.
"""

import asyncio
import getpass
import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from service import logs
from service.access.identity import Actor, Identity, NameRefused, checked_name
from service.background_metrics import BackgroundMetrics
from service.declared import Registry
from service.errors import StorageUnavailable
from service.lis import audit, audit_checks, outbox
from service.lis.audit import End
from service.lis.codes_command import FILE_COLUMNS, codes
from service.lis.database import Database, DatabaseRefused
from service.lis.delivery import age_s
from service.lis.laboratory import Laboratory
from service.lis.migrate_command import migrate
from service.lis.outbox import Overtaken, UnderWay
from service.lis.states import MessageState
from service.lis.tables import MessageRow
from service.lis_settings import LaboratoryRefused
from service.settings import Settings, SettingsError, read_settings
from service.supervisor import Supervisor
from service.thread_pools import of_event_loop

#: Bad settings, or a database that does not answer.
CANNOT = 2
FAULTS = 1
_ALL = 1_000_000
_OVERTAKEN = "stays: a later report of its specimen may have arrived, which it would take back; drop it"

lis = typer.Typer()
audit_trail = typer.Typer()
for command in (codes, migrate):
    lis.command()(command)
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]
ControlIds = Annotated[list[str], typer.Argument(help="Control ids, as `show` lists them.", metavar="CONTROL_ID...")]


@lis.command()
def status(as_json: AsJson = False) -> None:
    """Show for each receiver how many messages wait, how old the oldest is, and how many are dead."""
    with _session() as session:
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
    with _session() as session:
        if control_id is None:
            _list(outbox.listed(session, (MessageState.DEAD, MessageState.WAITING), limit))
            return
        row = _found(session, control_id)
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
    retry_for = timedelta(hours=_settings().lis.retry_for_h)
    if not (control_ids or every):
        _stop("say which, or --all")
    with _session(writing=True) as session:
        if every:
            control_ids = [row.control_id for row in outbox.listed(session, (MessageState.DEAD,), _ALL)]
        overtaken = [each for each in control_ids if not _retried(session, each, retry_for)]
        if overtaken and not every:
            _stop(f"{overtaken[0]} {_OVERTAKEN}")
    for each in overtaken:
        typer.echo(f"{each} {_OVERTAKEN}", err=True)
    typer.echo(f"{len(control_ids) - len(overtaken)} to be sent again")


def _retried(session: Session, control_id: str, retry_for: timedelta) -> bool:
    """Whether it will be sent again; not where a later report could be taken back by it."""
    row = _found(session, control_id)
    if row.state != MessageState.DEAD:
        _stop(f"{control_id} is {row.state}: only a dead letter is sent again")
    try:
        outbox.retry_dead(session, row, _operator(), retry_for)
    except Overtaken:
        return False
    return True


@lis.command()
def drop(
    control_ids: ControlIds,
    why: Annotated[str, typer.Option(help="Stands in the audit trail.", prompt="why")],
) -> None:
    """Give up on messages that wait or are dead. The reports stay; the receiver will not have them."""
    with _session(writing=True) as session:
        for control_id in control_ids:
            row = _found(session, control_id)
            if row.state not in (MessageState.DEAD, MessageState.WAITING):
                _stop(f"{control_id} is {row.state}: there is nothing to give up")
            try:
                outbox.drop(session, row, _operator(), why)
            except UnderWay:
                _stop(f"{control_id} is being sent at this moment; look again in a minute")
    typer.echo(f"{len(control_ids)} dropped")


@lis.command()
def deliver() -> None:
    """Deliver reports until SIGTERM, in a process of its own: beside services that set MARROWLENS_LIS_DELIVER=false."""
    settings = _settings()
    logs.configure(settings.log_level, form=settings.log_format)
    try:
        laboratory = Laboratory(settings, Registry(), only_delivers=True)
        asyncio.run(_delivering(laboratory, settings.shutdown_timeout_s))
    except LaboratoryRefused as error:
        _stop(str(error))


async def _delivering(laboratory: Laboratory, timeout_s: float) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    asyncio.get_running_loop().set_default_executor(of_event_loop())
    background = Supervisor(BackgroundMetrics(Registry()))
    await laboratory.start((), background)
    typer.echo("delivering")
    await stopped.wait()
    await laboratory.close(timeout_s)
    await background.close(timeout_s)


@audit_trail.command()
def verify(
    known: Annotated[
        str | None, typer.Option(help="NUMBER:HASH as an earlier check printed it; keep it outside the database.")
    ] = None,
) -> None:
    """Check that no row of the audit trail, no report, message or reading was edited, added, removed or put elsewhere.

    Exit codes: 0 it holds, 1 it does not, 2 the database does not answer or bad settings.
    """
    with _session() as session:
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
        _stop("--known is not NUMBER:HASH as `marrowlens audit verify` prints it")
    return End(int(number), digest)


@contextmanager
def _session(*, writing: bool = False) -> Iterator[Session]:
    with _database() as database, database.writing() if writing else database.reading() as session:
        yield session


@contextmanager
def _database() -> Iterator[Database]:
    try:
        database = Database.of(_settings().lis)
        try:
            yield database
        finally:
            database.close()
    except (DatabaseRefused, StorageUnavailable) as error:
        _stop(f"MARROWLENS_LIS_DATABASE: {error}")


def _settings() -> Settings:
    try:
        settings = read_settings()
    except SettingsError as error:
        _stop(str(error))
    if settings.lis.database is None:
        _stop("there is no laboratory: set MARROWLENS_LIS_DATABASE")
    return settings


def _operator() -> Actor:
    """Who calls the command, as the operating system says."""
    try:
        return Actor(checked_name(getpass.getuser(), "your login name"), Identity(kind="command"))
    except (NameRefused, OSError, KeyError) as error:  # KeyError: a container's user without a name, before Python 3.13
        _stop(f"the audit trail needs a name: {error}; set LOGNAME")


def _found(session: Session, control_id: str) -> MessageRow:
    return outbox.by_control_id(session, control_id) or _stop(f"there is no message {control_id}")


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


def _stop(message: str) -> NoReturn:
    typer.echo(f"marrowlens: {message}", err=True)
    raise typer.Exit(CANNOT)
