"""One laboratory while it runs: use cases, receivers, order listener, background tasks."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from model.contract import CellClass
from model.plural import plural
from service.concurrency.supervisor import Supervisor, TaskName
from service.concurrency.thread_pools import DATABASE, PICTURES, ThreadPoolFull
from service.config.lis import LIS_PREFIX, LaboratoryConfigError, LisSettings
from service.config.settings import Settings
from service.errors import StorageUnavailable
from service.lis.domain.comment_templates import CommentTemplateError, CommentTemplates
from service.lis.domain.differential import CountingRules, check_terms
from service.lis.domain.report import Report, ReportContent
from service.lis.exchange.channels import Receiver, client_key, receivers
from service.lis.exchange.code_map import NAMED, CodeMap, CodeTableError
from service.lis.exchange.delivery import DeliveryWorker, age_s
from service.lis.exchange.fhir import transport as fhir
from service.lis.exchange.mllp.listener import OrderListener
from service.lis.exchange.mllp.sockets import client_tls, listener_tls
from service.lis.exchange.observations import COUNT
from service.lis.exchange.orders import Incoming, MessageIdentity, OrderRefused
from service.lis.exchange.printed_report import print_report
from service.lis.exchange.reference_ranges import RangeTableError, ReferenceRanges
from service.lis.metrics import Action, LisMetrics
from service.lis.picture_store import PictureStore
from service.lis.presence import Presence
from service.lis.reference_cells import ReferenceCells, ReferenceFolder, ReferenceFolderError
from service.lis.retention import Retention
from service.lis.storage import outbox
from service.lis.storage.database import Database, DatabaseConfigError, sqlite_paths
from service.lis.storage.file_rights import permission_warning
from service.lis.storage.outbox import Retry
from service.lis.use_cases import UseCases
from service.telemetry.metric_registry import MetricRegistry

log = logging.getLogger(__name__)
Result = TypeVar("Result")

#: Intervals of the outbox gauges and of retention.
_WATCH_S, _DELETION_S = 1.0, 3600.0
#: Time limit of one database call. A writer waits up to 10 s for a lock, and as long for a connection.
PATIENCE_S = 30.0
#: Time for cancelled tasks to end and for connections to close.
_CANCEL_S = 0.5
_TLS_FILES = (
    *("HL7_TLS_CA", "HL7_TLS_CERT", "HL7_TLS_KEY", "HL7_LISTEN_CA"),
    *("FHIR_TLS_CA", "FHIR_TLS_CERT", "FHIR_TLS_KEY"),
    "FHIR_OAUTH_PRIVATE_KEY",
)
#: Task names of the delivery workers, by channel.
TASKS: dict[str, TaskName] = {"hl7": "delivery_hl7", "fhir": "delivery_fhir", "astm": "delivery_astm"}


class Laboratory:
    """Created at start-up if MARROWLENS_LIS_DATABASE is set; started and closed by the app's lifespan.

    Every worker of a service has one, for its requests. Only the one that leads listens, delivers and cleans up.
    """

    def __init__(
        self, settings: Settings, registry: MetricRegistry, *, only_delivers: bool = False, leads: bool = True
    ) -> None:
        """
        Args:
            only_delivers: take no orders; deliver even with MARROWLENS_LIS_DELIVER=false.
            leads: listen, deliver and clean up from the start; else from `lead`.

        Raises:
            LaboratoryConfigError: the database URL, the code table, the picture folder or a TLS file is unusable.
        """
        lis = settings.lis
        assert lis.database is not None, "without a database there is no laboratory"
        self.metrics = LisMetrics(registry)
        self.draws = lis.fhir_pictures
        self.audits_reads = lis.audit_reads
        self._settings = settings
        with _config_errors("PICTURES"):
            self.picture_store = stored_pictures(lis)
        with _config_errors("DATABASE"):
            self._database = Database.of(lis)
        with _config_errors("REFERENCE_CELLS"):
            self._references = None if lis.reference_cells is None else ReferenceFolder.load(lis.reference_cells)
        signed = self.picture_store if lis.reference_signed else None
        self.reference_cells = ReferenceCells(self._database, self._references, signed)
        self.presence = Presence(self._database)
        with _config_errors("CODES"):
            codes = CodeMap.load(lis.codes, lis.least_code_status)
        with _config_errors("REFERENCE_RANGES"):
            self._ranges = ReferenceRanges.load(lis.reference_ranges)
        with _config_errors("COMMENT_TEMPLATES"):
            self._templates = CommentTemplates.load(lis.comment_templates)
        with _config_errors(*_TLS_FILES):
            self._receivers = receivers(lis, codes, self.picture_store, self._ranges)
            listens = lis.hl7_listen and not only_delivers
            self._listener = OrderListener(lis, self._take_orders, self.metrics.connections) if listens else None
        channels, content = [each.channel for each in self._receivers], report_content(lis)
        self.use_cases = UseCases(
            self._database,
            counting_rules(settings),
            channels,
            content,
            templates=self._templates,
            needs_second_reader=lis.second_reader,
        )
        delivers = lis.delivery == "on" and (lis.deliver or only_delivers)
        self._workers = [self._worker(receiver) for receiver in self._receivers] if delivers else []
        self._retention = Retention(self._database, lis)
        self._delivering: list[asyncio.Task[None]] = []
        self._prepared = False
        self._leads = leads
        self._tell_leader: Callable[[], None] | None = None

    def prepare(self, classes: Sequence[CellClass]) -> None:
        """Migrate the database, and check the listen address and the terms of the M:E ratio. Blocks; runs once.

        Args:
            classes: of the model; empty if there is none, then the M:E ratio is not checked.

        Raises:
            LaboratoryConfigError: the database does not answer or is of another version, the address is in use, or a
                term of the M:E ratio is no lineage or class.
        """
        if self._prepared:  # `serve` calls it before the server starts, to report errors in one line
            return
        with _config_errors("DATABASE"):
            self._database.migrate()
            if self._settings.lis.delivery == "off" and self._leads:
                self._hold_messages()
            for warning in exposed_files(self._settings.lis):
                log.warning("%s", warning)
        with _config_errors("HL7_LISTEN"):
            if self._listener is not None and self._leads:
                self._listener.try_address()
        with _config_errors("ME_MYELOID", "ME_ERYTHROID"):
            if classes:
                self.check_classes(classes)
        with _config_errors("REFERENCE_RANGES"):
            keys = {each.code for each in classes} | {f"{each.code}{COUNT}" for each in classes} | NAMED.keys()
            if classes and (unknown := self._ranges.unknown_keys(keys)):
                raise ValueError(f"{unknown[0]} is no result; use a class code or a key of `marrowlens lis codes`")
        with _config_errors("REFERENCE_CELLS"):
            codes = self._references.codes if self._references is not None and classes else ()
            if unknown := sorted(set(codes) - {each.code for each in classes}):
                raise ValueError(f"{unknown[0]} is no class of the model; name the subfolder by a class code")
        with _config_errors("COMMENT_TEMPLATES"):
            known = sorted(each.code for each in classes)
            if classes and (missing := self._templates.unknown_codes(known)):
                raise ValueError(f"{missing[0]} is no class of the model; use one of {', '.join(known)}")
        self._prepared = True

    def check_classes(self, classes: Sequence[CellClass]) -> None:
        """Check the classes of a model against the terms of the M:E ratio. Raises ValueError."""
        check_terms(self.use_cases.rules, classes)

    def _hold_messages(self) -> None:
        with self._database.writing() as session:
            count = outbox.hold_all(session)
        log.warning("delivery is off: %s held; see `marrowlens lis status`", plural(count, "waiting message"))

    async def start(self, classes: Sequence[CellClass], background: Supervisor) -> None:
        """Prepare, then `lead` if this process leads.

        Raises:
            LaboratoryConfigError: as `prepare`.
        """
        await DATABASE.run(self.prepare, classes)
        if self._leads:
            with _config_errors("HL7_LISTEN"):
                if self._listener is not None:
                    self._listener.bind()
            self.lead(background)

    def lead(self, background: Supervisor) -> None:
        """Start delivery, order listener and maintenance as tasks of `background`. An address in use is retried."""
        self._leads = True
        if self._listener is not None:
            background.start("order_listener", self._listener.serve)
        self._delivering = [background.start(TASKS[worker.channel], worker.run) for worker in self._workers]
        background.every("outbox_watch", _WATCH_S, self._watch)
        background.every("retention", _DELETION_S, self._expire)
        if self.picture_store is not None:
            background.every("picture_sweep", _DELETION_S, partial(self._delete_expired, self.picture_store))

    async def close(self, timeout_s: float) -> None:
        """Stop the listener and the delivery workers; deliveries in progress get `timeout_s` to end.

        If the database does not answer, claimed messages become free when their lease ends.
        """
        for worker in self._workers:
            worker.stop()
        ending = list(self._delivering)
        if self._listener is not None:
            ending.append(asyncio.create_task(self._listener.close(timeout_s)))
        await _wait(ending, timeout_s)
        for task in ending:
            task.cancel()
        await _wait(ending, _CANCEL_S)
        closing = [asyncio.create_task(worker.close()) for worker in self._workers]
        closing.append(asyncio.create_task(DATABASE.run(self._database.close)))
        await _wait(closing, _CANCEL_S)

    async def execute(self, what: Action, action: Callable[..., Result], *arguments: object) -> Result:
        """Run a use case that changes something, in a thread, and count it. Reports are sent at once.

        Raises:
            StorageUnavailable: as `query`.
        """
        result = await self.query(action, *arguments)
        self.metrics.count_action(what)
        if what in ("sign", "preliminary", "retry"):
            self.wake()
        return result

    def on_report(self, tell_leader: Callable[[], None]) -> None:
        """Call a function when a report was written and another process delivers it."""
        self._tell_leader = tell_leader

    def wake(self) -> None:
        """Deliver now: a report was written."""
        if not self._leads and self._tell_leader is not None:
            self._tell_leader()
        for worker in self._workers:
            worker.wake()

    async def query(self, action: Callable[..., Result], *arguments: object) -> Result:
        """Run a use case in a thread.

        Raises:
            StorageUnavailable: the database does not answer within 30 s, or too many calls are waiting for it.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await DATABASE.run(action, *arguments)
        except (TimeoutError, ThreadPoolFull) as error:
            raise StorageUnavailable from error

    async def load_picture(self, sha256: str, kind: str) -> bytes | None:
        """A stored picture; None if it was not stored, or has expired.

        Raises:
            StorageUnavailable: the disk does not answer within 30 s.
        """
        return None if self.picture_store is None else await self._read_file(self.picture_store.get, sha256, kind)

    async def load_reference_cell(self, code: str, picture: str) -> bytes | None:
        """A picture of the laboratory's folder of reference cells, or a drawing; None if it is neither.

        Raises:
            StorageUnavailable: as `load_picture`.
        """
        return await self._read_file(self.reference_cells.read, code, picture)

    async def _read_file(self, read: Callable[[str, str], bytes | None], *arguments: str) -> bytes | None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await PICTURES.run(read, *arguments)
        except (TimeoutError, ThreadPoolFull) as error:
            raise StorageUnavailable from error

    async def print_report(
        self, report: Report, replaced: Report | None, language: str, *, is_signed: bool = True
    ) -> bytes:
        """A report as a PDF. Raises StorageUnavailable if too many are being printed."""
        write = partial(print_report, language=language, ranges=self._ranges, replaced=replaced, is_signed=is_signed)
        try:
            return await PICTURES.run(write, report, self._settings.lis)
        except ThreadPoolFull as error:
            raise StorageUnavailable from error

    @property
    def order_address(self) -> tuple[str, int] | None:
        """Host and port of the order listener, once started; None without one."""
        return None if self._listener is None else self._listener.address

    def description(self) -> str:
        """The set-up in one line for the log, without the database URL, which can hold a password."""
        kind = "SQLite" if self._database.is_sqlite else "PostgreSQL"
        channels = ", ".join(each.channel.name for each in self._receivers)
        reports = f"reports sent by {channels}" if channels else "no receiver of reports"
        if channels and not self._workers:
            is_off = self._settings.lis.delivery == "off"
            reports = "delivery is off" if is_off else f"{reports} (by another process)"
        at = self.order_address if self._leads else None
        orders = f"orders accepted at {at[0]}:{at[1]}" if at else "no order listener"
        zone = self._settings.lis.time_zone or f"{datetime.now().astimezone().tzname()}, this machine's"
        return f"{kind}; {reports}; {orders}; times without an offset: {zone}"

    async def _take_orders(self, message: MessageIdentity, orders: Sequence[Incoming]) -> None:
        try:
            is_new = await self.query(self.use_cases.take_orders, message, orders)
        except OrderRefused:
            self.metrics.count_order_message("refused")
            raise
        self.metrics.count_order_message("taken" if is_new else "repeated")

    def _worker(self, receiver: Receiver) -> DeliveryWorker:
        retry = Retry(self._settings.lis.retry_first_s, self._settings.lis.retry_most_s)
        return DeliveryWorker(
            self._database, receiver.channel.name, receiver.transport, retry, receiver.time_limit_s, self.metrics
        )

    async def _watch(self) -> None:
        with suppress(StorageUnavailable):  # the gauges keep their values; other callers report the error
            found = await self.query(self._depths)
            ages_s = [age_s(depth.oldest_at) for depth in found]
            self.metrics.set_outbox((each.channel.name for each in self._receivers), found, ages_s)

    def _depths(self) -> list[outbox.Depth]:
        with self._database.reading() as session:
            return outbox.depths(session)

    @asynccontextmanager
    async def staged_pictures(self) -> AsyncIterator[list[Path]]:
        """The staged pictures of the block; settled at its end, whether their cells were committed or not.

        If the database does not answer, their cells may be committed later: the next sweeps settle them.
        """
        staged: list[Path] = []
        try:
            yield staged
        except StorageUnavailable:
            raise
        except Exception:
            await self._settle(staged)
            raise
        await self._settle(staged)

    async def _settle(self, staged: Sequence[Path]) -> None:
        if self.picture_store is not None and staged:
            await self._run_on_pictures(self.picture_store.settle, tuple(staged), self._retention.pictures_needed)

    async def delete_pictures(self, pictures: Sequence[str]) -> None:
        """Delete stored pictures by their hashes, unless a specimen needs them by now."""
        if self.picture_store is not None:
            await self._run_on_pictures(self.picture_store.delete, pictures, self._retention.pictures_needed)

    async def _run_on_pictures(self, action: Callable[..., object], *arguments: object) -> None:
        """Move or delete files. What cannot be done now is logged, and done by a sweep: the cells are committed."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await PICTURES.run(action, *arguments)
        except (OSError, StorageUnavailable, ThreadPoolFull) as error:  # TimeoutError is an OSError
            log.warning(
                "stored pictures could not be moved or deleted (%s); the next sweep retries", type(error).__name__
            )

    async def _expire(self) -> None:
        with suppress(StorageUnavailable):  # the next run does what is left
            if count := await DATABASE.run(self._retention.erase_patients, self.picture_store):
                log.info("retention period over: patients' data of %s erased", plural(count, "specimen"))
            if count := await DATABASE.run(self._retention.expire_messages):
                log.info("retention period over: text of %s deleted", plural(count, "delivered message"))
            await DATABASE.run(self.presence.forget_silent)
            await DATABASE.run(self._retention.empty_log)

    async def _delete_expired(self, picture_store: PictureStore) -> None:
        try:
            if count := await PICTURES.run(self._retention.delete_pictures, picture_store):
                log.info("%s deleted", plural(count, "expired picture"))
        except OSError as error:
            log.warning("expired pictures could not be deleted: %s", error.strerror)
        except StorageUnavailable:
            log.warning("expired pictures not deleted: the laboratory's database does not answer")


async def _wait(tasks: Sequence[asyncio.Task[Any]], timeout_s: float) -> None:
    """Return when all tasks have ended, or after `timeout_s`."""
    if tasks:
        await asyncio.wait(tasks, timeout=timeout_s)


@contextmanager
def _config_errors(*settings: str) -> Iterator[None]:
    """Raise errors of the block as LaboratoryConfigError, with the names of the settings in front."""
    names = ", ".join(f"{LIS_PREFIX}{setting}" for setting in settings)
    try:
        yield
    except StorageUnavailable as error:
        raise LaboratoryConfigError(f"{names}: the database does not answer; check its URL and access") from error
    except OSError as error:
        reason = f"{error.filename or ''} {error.strerror or error}".strip()
        raise LaboratoryConfigError(f"{names}: {reason}") from error
    except (
        DatabaseConfigError,
        CodeTableError,
        RangeTableError,
        CommentTemplateError,
        ReferenceFolderError,
        ValueError,
    ) as error:
        raise LaboratoryConfigError(f"{names}: {error}") from error


def counting_rules(settings: Settings) -> CountingRules:
    """The laboratory's counting rules from its settings."""
    lis = settings.lis
    return CountingRules(lis.target_cells, settings.count_other, lis.review_below, lis.me_myeloid, lis.me_erythroid)


def report_content(lis: LisSettings) -> ReportContent:
    """The results of a report besides the differential, by the settings."""
    return ReportContent(class_counts=lis.class_counts, provenance=lis.provenance, pdf=lis.attach_pdf or None)


def picture_folder(lis: LisSettings) -> Path | None:
    """The folder of stored pictures; None if they are not stored. Default: beside the SQLite file."""
    if isinstance(lis.pictures, Path) or lis.database is None:
        return lis.pictures if isinstance(lis.pictures, Path) else None
    files = [] if lis.pictures == "off" else sqlite_paths(lis.database.get_secret_value())
    return files[0].with_name(f"{files[0].name}.pictures") if files else None


def stored_pictures(lis: LisSettings) -> PictureStore | None:
    """The picture store of the settings; None if pictures are not stored. Raises OSError."""
    folder = picture_folder(lis)
    return PictureStore(folder, lis.picture_days) if folder else None


def setting_faults(lis: LisSettings) -> Iterator[str]:
    """Errors that would stop the laboratory's start: database URL, tables, picture folders, TLS files, private key."""
    if lis.database is None:
        return
    try:
        Database.of(lis)
    except DatabaseConfigError as error:
        yield f"{LIS_PREFIX}DATABASE: {error}"
    try:
        CodeMap.load(lis.codes, lis.least_code_status)
    except CodeTableError as error:
        yield f"{LIS_PREFIX}CODES: {error}"
    try:
        ReferenceRanges.load(lis.reference_ranges)
    except RangeTableError as error:
        yield f"{LIS_PREFIX}REFERENCE_RANGES: {error}"
    try:
        if lis.reference_cells is not None:
            ReferenceFolder.load(lis.reference_cells)
    except ReferenceFolderError as error:
        yield f"{LIS_PREFIX}REFERENCE_CELLS: {error}"
    try:
        CommentTemplates.load(lis.comment_templates)
    except CommentTemplateError as error:
        yield f"{LIS_PREFIX}COMMENT_TEMPLATES: {error}"
    folder = picture_folder(lis)
    if folder is not None and folder.exists() and not folder.is_dir():
        yield f"{LIS_PREFIX}PICTURES: {folder} is not a folder"
    for names, load, is_used in (
        ("HL7_TLS_CA, HL7_TLS_CERT, HL7_TLS_KEY", client_tls, lis.hl7_to),
        ("HL7_TLS_CERT, HL7_TLS_KEY, HL7_LISTEN_CA", listener_tls, lis.hl7_listen),
        ("FHIR_TLS_CA, FHIR_TLS_CERT, FHIR_TLS_KEY", fhir.client_tls, lis.fhir_url),
    ):
        try:
            if is_used:
                load(lis)
        except OSError as error:
            is_tls = isinstance(error, ssl.SSLError)
            reason = "not valid PEM files" if is_tls else f"{error.filename or ''} {error.strerror}".strip()
            yield f"{LIS_PREFIX}{names.replace(', ', f', {LIS_PREFIX}')}: {reason}"
    try:
        client_key(lis)
    except ValueError as error:
        yield f"{LIS_PREFIX}FHIR_OAUTH_PRIVATE_KEY: {error}"


def exposed_files(lis: LisSettings) -> Iterator[str]:
    """Warnings about files and folders with patients' data that other users may read or write."""
    if lis.database is None:
        return
    folder = picture_folder(lis)
    paths = [*sqlite_paths(lis.database.get_secret_value()), *([folder] if folder else [])]
    yield from filter(None, map(permission_warning, paths))
