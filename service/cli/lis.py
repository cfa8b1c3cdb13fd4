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
from typing import Annotated

import typer
from sqlalchemy import select
from sqlalchemy.orm import Session

from model import csv_file
from model.contract import ArtefactError
from service.auth.identity import Actor, Identity, InvalidName, checked_name
from service.cli.output import AsJson, load_settings, stop
from service.cli.tables import new_table, print_tables
from service.concurrency.supervisor import Supervisor
from service.concurrency.thread_pools import event_loop_pool
from service.config.lis import LaboratoryConfigError
from service.config.settings import Settings
from service.errors import Conflict, StorageUnavailable
from service.lis.domain import erasure, specimens
from service.lis.exchange.channels import client_key
from service.lis.exchange.code_map import CodeMap, CodeTableError, ResultCode
from service.lis.exchange.delivery import age_s
from service.lis.exchange.observations import Coded
from service.lis.laboratory import Laboratory, stored_pictures
from service.lis.picture_store import PictureStore
from service.lis.storage import audit, outbox
from service.lis.storage.database import Database, DatabaseConfigError
from service.lis.storage.outbox import DeliveryInProgress, LaterReportSent
from service.lis.storage.states import MessageState
from service.lis.storage.tables import MessageRow, SpecimenRow
from service.runtime.artifact import bundled_artefact, read_manifest_of
from service.runtime.loader import artefact_verifier
from service.telemetry import logging as logs
from service.telemetry.metric_registry import MetricRegistry
from service.telemetry.metrics import BackgroundMetrics

#: Exit code of `migrate --check` while the tables are of another version.
NOT_MIGRATED = 1


@contextmanager
def open_session(*, writing: bool = False) -> Iterator[Session]:
    """A transaction on the laboratory's database; exits if it is not available, or has no tables of this version."""
    with _existing_database() as database, database.writing() if writing else database.reading() as session:
        yield session


@contextmanager
def _database() -> Iterator[Database]:
    try:
        database = Database.of(laboratory_settings().lis)
        try:
            yield database
        finally:
            database.close()
    except (DatabaseConfigError, StorageUnavailable) as error:
        stop(f"MARROWLENS_LIS_DATABASE: {error}")


@contextmanager
def _existing_database() -> Iterator[Database]:
    """As `_database`, with tables of this version: only `migrate` and `serve` create or change them."""
    with _database() as database:
        database.check_tables()
        yield database


def laboratory_pictures() -> PictureStore | None:
    """The laboratory's picture store; exits without a database, so that a wrong path creates no folder."""
    with _existing_database():
        return stored_pictures(laboratory_settings().lis)


def laboratory_settings() -> Settings:
    """The settings; exits if they are invalid, or without a laboratory."""
    settings = load_settings()
    if settings.lis.database is None:
        stop("no laboratory is set up: set MARROWLENS_LIS_DATABASE")
    return settings


def operator() -> Actor:
    """The operating system's user, as the actor of the audit trail."""
    try:
        return Actor(checked_name(getpass.getuser(), "your login name"), Identity(kind="command"))
    except (InvalidName, OSError, KeyError) as error:  # KeyError: a container's user without a name, before Python 3.13
        stop(f"no valid user name for the audit trail: {error}; set LOGNAME")


#: Interval between two attempts while waiting for the database.
_RETRY_S = 1.0


def migrate(
    wait_s: Annotated[float, typer.Option(min=0, help="Maximum time to wait for the database, in seconds.")] = 0,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Change nothing; exit with 1 unless the tables are of this version within --wait-s."
        ),
    ] = False,
) -> None:
    """Create the database's tables, or migrate them to this version; `serve` does it too.

    Safe to run repeatedly and in parallel: one process migrates, the others wait. A replica runs it with --wait-s and
    --check before it starts, while a job migrates.

    Exit codes: 0 the tables are of this version, 1 with --check they are not, 2 database not available or of a later
    version, or invalid settings.
    """
    with _database() as database:
        done = _awaited(database.is_current if check else lambda: _migrated(database), wait_s)
    if not done:
        stop("the tables are not of this version; run `marrowlens lis migrate`", status=NOT_MIGRATED)
    typer.echo("the database is up to date")


def _migrated(database: Database) -> bool:
    database.migrate()
    return True


def _awaited(done: Callable[[], bool], wait_s: float) -> bool:
    """Poll until `done` or for `wait_s`; the last result, or its StorageUnavailable, counts."""
    end_s = time.monotonic() + wait_s
    reported = False
    while True:
        is_last = time.monotonic() >= end_s
        try:
            if (finished := done()) or is_last:
                return finished
        except StorageUnavailable:
            if is_last:
                raise
        if not reported:
            typer.echo(f"marrowlens: waiting up to {wait_s:g} s for the database", err=True)
            reported = True
        time.sleep(min(_RETRY_S, max(0.0, end_s - time.monotonic())))


def codes(
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values, one result a line.")] = False,
) -> None:
    """Show the code of every result, in preliminary and signed reports, with warnings about doubtful codes.

    Reads MARROWLENS_LIS_CODES, MARROWLENS_LIS_LEAST_CODE_STATUS and the model's classes.

    Exit codes: 0 the code table is valid, 2 it is not, or invalid settings.
    """
    settings = load_settings()
    try:
        table = CodeMap.load(settings.lis.codes, settings.lis.least_code_status)
        manifest = read_manifest_of(settings.artefact or bundled_artefact(), artefact_verifier(settings))
        sent = table.result_codes(manifest.classes, counts=settings.lis.class_counts)
    except (CodeTableError, ArtefactError) as error:
        stop(str(error))
    if as_json:
        document = {"version": table.version, "least_status": table.least_status, "codes": [asdict(s) for s in sent]}
        typer.echo(json.dumps(document, indent=1))
    elif as_csv:
        typer.echo(_csv(sent), nl=False)
    else:
        _show(settings, table, sent)


def _csv(sent: list[ResultCode]) -> str:
    out = io.StringIO()
    rows = csv_file.Writer(out)
    rows.writerow(("key", "status", "preliminary_system", "preliminary", "signed_system", "signed", "warnings"))
    for each in sent:
        before, after = each.preliminary, each.signed
        warnings = "; ".join(each.warnings)
        rows.writerow((each.key, each.status, before.system, before.code, after.system, after.code, warnings))
    return out.getvalue()


def _show(settings: Settings, table: CodeMap, sent: list[ResultCode]) -> None:
    title = f"code table, version {table.version}; LOINC if the status is {table.least_status} or better"
    shown = new_table("key", "status", "preliminary", "signed", title=title)
    for each in sent:
        shown.add_row(each.key, each.status, _words(each.preliminary), _words(each.signed))
    print_tables(shown)
    for each in sent:
        for warning in each.warnings:
            typer.echo(f"{each.key}: {warning}")
    typer.echo(
        f"code system of local codes: {settings.lis.local_system} in HL7, {settings.lis.local_system_uri} in FHIR"
    )


def _words(coded: Coded) -> str:
    return f"LOINC {coded.code}" if coded.system == "loinc" else coded.code


_ALL = 1_000_000
#: States about which a person may decide.
UNDELIVERED = (MessageState.WAITING, MessageState.HELD, MessageState.DEAD)
_OVERTAKEN = "not sent: the specimen has a later report; drop this message"

lis = typer.Typer()
for command in (codes, migrate):
    lis.command()(command)
ControlIds = Annotated[list[str], typer.Argument(help="Control ids, as listed by `show`.", metavar="CONTROL_ID...")]


@lis.command()
def status(as_json: AsJson = False) -> None:
    """Show for each receiver the waiting messages, the age of the oldest, the held messages, and the dead letters.

    Names each held message by its control id: the receiver may have it already.
    """
    with open_session() as session:
        depths = outbox.depths(session)
        to_amend = len(_merged(session))
        held = outbox.list_messages(session, (MessageState.HELD,), _ALL)
    if as_json:
        typer.echo(json.dumps([_depth(depth, held) for depth in depths]))
        return
    if to_amend:
        typer.echo(f"{to_amend} signed specimens of merged patients wait for an amendment: marrowlens lis merged")
    if not depths:
        typer.echo("no waiting messages, no dead letters")
        return
    lines = [(d.channel, str(d.waiting), str(d.held), str(d.dead), _duration(age_s(d.oldest_at))) for d in depths]
    _table(("channel", "waiting", "held", "dead letters", "age of the oldest"), lines)
    if held:
        typer.echo("held: the receiver may already have these messages; look them up there by their control id")
        _list(held)


def _depth(depth: outbox.Depth, held: Sequence[MessageRow]) -> dict[str, object]:
    control_ids = [message.control_id for message in held if message.channel == depth.channel]
    counts = {"channel": depth.channel, "waiting": depth.waiting, "dead": depth.dead}
    return {**counts, "oldest_s": age_s(depth.oldest_at), "held": control_ids}


@lis.command()
def merged(as_json: AsJson = False) -> None:
    """List signed specimens whose patient was merged with another one: a person amends and signs them again."""
    with open_session() as session:
        rows = [
            (each.id, each.number, each.filler_number, f"{each.merged_at:%F %T}", each.reports)
            for each in _merged(session)
        ]
    names = ("id", "number", "filler_number", "merged_at", "reports")
    if as_json:
        typer.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))
    elif rows:
        columns = ("id", "number", "filler number", "merged (UTC)", "reports")
        _table(columns, [tuple("-" if each is None else str(each) for each in row) for row in rows])
    else:
        typer.echo("no signed specimen waits for an amendment after a merge")


def _merged(session: Session) -> Sequence[SpecimenRow]:
    return specimens.list_page(session, states=(), number=None, patient=None, merged=True, before=None, limit=_ALL)


@lis.command()
def show(
    control_id: Annotated[str | None, typer.Argument(help="One message; default: all waiting, held and dead.")] = None,
    message: Annotated[
        bool, typer.Option("--message", help="Also print the message: contains patients' data.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of messages.")] = 100,
) -> None:
    """List waiting, held and dead messages, or show one with the receiver's reply."""
    audits = laboratory_settings().lis.audit_reads
    with open_session(writing=audits) as session:
        if control_id is None:
            if audits:  # a reason may quote a patient
                audit.record(session, operator(), "look", None, what="messages")
            _list(outbox.list_messages(session, UNDELIVERED, limit))
            return
        row = _found(session, control_id)
        if audits:  # the message holds a patient's data, and the reply may quote it
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
    every: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
) -> None:
    """Send dead letters again, or release held messages: the same bytes with the same control id."""
    retry_for = timedelta(hours=laboratory_settings().lis.retry_for_h)
    if not (control_ids or every):
        stop("no message named; give control ids, or --all")
    with open_session(writing=True) as session:
        if every:
            control_ids = [row.control_id for row in outbox.list_messages(session, (MessageState.DEAD,), _ALL)]
        overtaken = [each for each in control_ids if not _retried(session, each, retry_for)]
        if overtaken and not every:
            stop(f"{overtaken[0]} {_OVERTAKEN}")
    for each in overtaken:
        typer.echo(f"{each} {_OVERTAKEN}", err=True)
    typer.echo(f"{len(control_ids) - len(overtaken)} queued again")


def _retried(session: Session, control_id: str, retry_for: timedelta) -> bool:
    """Queue a dead letter or a held message again; False if the receiver may have a later report."""
    row = _found(session, control_id)
    if row.state not in (MessageState.DEAD, MessageState.HELD):
        stop(f"{control_id} is {row.state}; only a dead letter or a held message can be sent again")
    try:
        outbox.requeue(session, row, operator(), retry_for)
    except LaterReportSent:
        return False
    return True


@lis.command()
def confirm(control_ids: ControlIds) -> None:
    """Mark messages as delivered that the receiver has, as you have found there: they are not sent again."""
    with open_session(writing=True) as session:
        for control_id in control_ids:
            row = _undelivered(session, control_id, "confirmed")
            with _not_in_progress(control_id):
                outbox.confirm(session, row, operator())
    typer.echo(f"{len(control_ids)} confirmed")


@lis.command()
def drop(
    control_ids: ControlIds,
    why: Annotated[str, typer.Option(help="Reason, for the audit trail.", prompt="why")],
) -> None:
    """Drop waiting, held or dead messages. The reports stay; the receiver will not get them."""
    with open_session(writing=True) as session:
        for control_id in control_ids:
            row = _undelivered(session, control_id, "dropped")
            with _not_in_progress(control_id):
                outbox.drop(session, row, operator(), why)
    typer.echo(f"{len(control_ids)} dropped")


def _undelivered(session: Session, control_id: str, done: str) -> MessageRow:
    row = _found(session, control_id)
    if row.state not in UNDELIVERED:
        stop(f"{control_id} is {row.state}; only a waiting, held or dead message can be {done}")
    return row


@contextmanager
def _not_in_progress(control_id: str) -> Iterator[None]:
    try:
        yield
    except DeliveryInProgress:
        stop(f"{control_id} is being sent; try again in a minute")


@lis.command()
def jwks() -> None:
    """Print the public key of MARROWLENS_LIS_FHIR_OAUTH_PRIVATE_KEY as a JWK Set, to register at the token endpoint."""
    try:
        key = client_key(laboratory_settings().lis)
    except ValueError as error:
        stop(f"MARROWLENS_LIS_FHIR_OAUTH_PRIVATE_KEY: {error}")
    if key is None:
        stop("no key is set up: set MARROWLENS_LIS_FHIR_OAUTH_PRIVATE_KEY")
    typer.echo(json.dumps({"keys": [key.public()]}, indent=2))


@lis.command()
def erase(
    number: Annotated[
        str, typer.Argument(help="Specimen number; its id if several have the number.", metavar="NUMBER")
    ],
    why: Annotated[str, typer.Option(help="Reason, for the audit trail; no names.", prompt="why")],
) -> None:
    """Erase the patient's data of a signed or cancelled specimen: patient, order, reports, messages, pictures.

    Counts, classes and the audit trail stay. The specimen is then listed by its id alone. Undelivered messages are
    dropped.
    """
    picture_store = laboratory_pictures()
    with open_session(writing=True) as session:
        row = _specimen(session, number)
        try:
            pictures = erasure.erase(
                session, specimens.lock(session, row.id, *erasure.ERASABLE, allowed=_ERASABLE), operator(), why
            )
        except Conflict as error:
            stop(str(error))
    if picture_store is not None:
        picture_store.delete(pictures, _pictures_needed)
    typer.echo(f"erased; the specimen is {row.id} now")


def _pictures_needed(pictures: Sequence[str]) -> set[str]:
    with open_session() as session:
        return erasure.pictures_needed(session, pictures)


def _specimen(session: Session, number: str) -> SpecimenRow:
    found = specimens.find_by_number(session, number)
    if not found and (by_id := session.scalar(select(SpecimenRow).where(SpecimenRow.id == number))):
        return by_id
    if not found:
        stop("no specimen has this number")
    if len(found) > 1:
        stop(f"{len(found)} orders have this number; name one by its id: {', '.join(each.id for each in found)}")
    return found[0]


_ERASABLE = "sign or cancel it first; only then can its patient's data be erased"


@lis.command()
def deliver() -> None:
    """Deliver reports until SIGTERM, for services with MARROWLENS_LIS_DELIVER=false."""
    settings = laboratory_settings()
    logs.configure(settings.log_level, log_format=settings.log_format)
    try:
        if settings.lis.delivery == "off":
            stop("MARROWLENS_LIS_DELIVERY=off: nothing is delivered; remove it when each held message is decided")
        with _database() as database:
            database.check_exists()
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
    return outbox.lock_message(session, control_id) or stop(f"unknown message {control_id}")


def _list(rows: Sequence[MessageRow]) -> None:
    if not rows:
        typer.echo("no waiting, held or dead messages")
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
    table = new_table(*columns)
    for row in rows:
        table.add_row(*row)
    print_tables(table)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if seconds else "-"
