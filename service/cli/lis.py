"""`marrowlens lis …`: what waits and what is dead.

Knows words and exit codes. Whoever may run these commands may read the database; what they print can hold patients'
data only where the help says so.
"""

import asyncio
import json
import signal
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.cli.lis_codes import FILE_COLUMNS, codes
from service.cli.lis_migrate import migrate
from service.cli.lis_output import laboratory_settings, open_session, operator, stop
from service.concurrency.supervisor import Supervisor
from service.concurrency.thread_pools import event_loop_pool
from service.config.lis import LaboratoryConfigError
from service.lis.exchange.delivery import age_s
from service.lis.laboratory import Laboratory
from service.lis.storage import audit, outbox
from service.lis.storage.outbox import Overtaken, UnderWay
from service.lis.storage.states import MessageState
from service.lis.storage.tables import MessageRow, SpecimenRow
from service.telemetry import logging as logs
from service.telemetry.metric_registry import MetricRegistry
from service.telemetry.metrics import BackgroundMetrics

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
