"""One laboratory while it runs: use cases, receivers, order listener, background tasks."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from model.contract import CellClass
from service.concurrency.supervisor import Supervisor, TaskName
from service.concurrency.thread_pools import DATABASE, PICTURES, ThreadPoolFull
from service.config.lis import LIS_PREFIX, LaboratoryConfigError, LisSettings
from service.config.settings import Settings
from service.errors import StorageUnavailable
from service.lis.domain.differential import CountingRules, term_codes
from service.lis.exchange.channels import Receiver, receivers
from service.lis.exchange.code_map import CodeMap, CodeTableError
from service.lis.exchange.delivery import Worker, age_s
from service.lis.exchange.mllp.listener import OrderListener
from service.lis.exchange.mllp.sockets import client_tls, listener_tls
from service.lis.exchange.orders import IncomingOrder, MessageIdentity, OrderRefused
from service.lis.metrics import Action, LisMetrics
from service.lis.picture_store import KeptPictures
from service.lis.storage import outbox
from service.lis.storage.database import Database, DatabaseRefused, sqlite_files
from service.lis.storage.file_rights import rights_of_others
from service.lis.storage.outbox import Retry
from service.lis.use_cases import Desk
from service.telemetry.metric_registry import MetricRegistry

log = logging.getLogger(__name__)
Result = TypeVar("Result")

#: How often the outbox is looked at for the metrics, and how often old pictures are looked for.
_WATCH_S, _SWEEP_S = 1.0, 3600.0
#: How long a transaction is waited for. A writer waits 10 s for another one, and as long for a connection.
PATIENCE_S = 30.0
#: How long what was cancelled may take to end, and connections to close.
_CANCEL_S = 0.5
#: Under which name the delivery to a receiver stands in log and metrics.
TASKS: dict[str, TaskName] = {"hl7": "delivery_hl7", "fhir": "delivery_fhir", "astm": "delivery_astm"}


class Laboratory:
    """Made at start-up where a database is set; started and closed by the app's lifespan."""

    def __init__(self, settings: Settings, registry: MetricRegistry, *, only_delivers: bool = False) -> None:
        """
        Args:
            only_delivers: take no orders and keep no watch; deliver whatever MARROWLENS_LIS_DELIVER says.

        Raises:
            LaboratoryConfigError: the database's URL, the table of codes or the folder of pictures cannot be used.
        """
        lis = settings.lis
        assert lis.database is not None, "without a database there is no laboratory"
        self.metrics = LisMetrics(registry)
        self.draws = lis.fhir_pictures
        self.audits_reads = lis.audit_reads
        self._settings = settings
        with _refusing("PICTURES"):
            self.kept = KeptPictures(lis.pictures, lis.picture_days) if lis.pictures else None
        with _refusing("DATABASE"):
            self._database = Database.of(lis)
        with _refusing("CODES"):
            codes = CodeMap.load(lis.codes, lis.least_code_status)
        with _refusing("HL7_TLS_CA", "HL7_TLS_CERT", "HL7_TLS_KEY", "HL7_LISTEN_CA"):
            self._receivers = receivers(lis, codes, self.kept)
            listens = lis.hl7_listen and not only_delivers
            self._listener = OrderListener(lis, self._take_orders, self.metrics.connections) if listens else None
        self.desk = Desk(self._database, counting_rules(settings), [each.channel for each in self._receivers])
        self._workers = [self._worker(receiver) for receiver in self._receivers] if lis.deliver or only_delivers else []
        self._delivering: list[asyncio.Task[None]] = []
        self._prepared = False

    def prepare(self, classes: Sequence[CellClass]) -> None:
        """Bring the tables up to date, try the address for orders, and see whether the M:E ratio speaks of classes
        that the model has, if there is a model.

        Raises:
            LaboratoryConfigError: the database is not there or not ours, the address is taken, or a term of the M:E
                ratio is no class.
        """
        if self._prepared:  # by `serve`, which says what is wrong in a line, before it serves
            return
        with _refusing("DATABASE"):
            self._database.migrate()
            for warning in exposed_files(self._settings.lis):
                log.warning("%s", warning)
        with _refusing("HL7_LISTEN"):
            if self._listener is not None:
                self._listener.try_address()
        with _refusing("ME_MYELOID", "ME_ERYTHROID"):
            for term in (self.desk.rules.myeloid, self.desk.rules.erythroid) if classes else ():
                term_codes(term, classes)
        self._prepared = True

    async def start(self, classes: Sequence[CellClass], background: Supervisor) -> None:
        """Prepare, then deliver and listen, as tasks that `background` keeps running until it is closed.

        Raises:
            LaboratoryConfigError: it cannot be prepared.
        """
        await DATABASE.run(self.prepare, classes)
        with _refusing("HL7_LISTEN"):
            if self._listener is not None:
                self._listener.bind()
                background.start("order_listener", self._listener.serve)
        self._delivering = [background.start(TASKS[worker.channel], worker.run) for worker in self._workers]
        background.every("outbox_watch", _WATCH_S, self._watch)
        if self.kept is not None:
            background.every("picture_sweep", _SWEEP_S, partial(self._sweep, self.kept))

    async def close(self, timeout_s: float) -> None:
        """Take no orders and claim no messages any more; what is being sent may end within the time.

        A database that does not answer is left as it is: a message that was claimed is free again when its lease ends.
        """
        for worker in self._workers:
            worker.stop()
        ending = list(self._delivering)
        if self._listener is not None:
            ending.append(asyncio.create_task(self._listener.close(timeout_s)))
        await _ended(ending, timeout_s)
        for task in ending:
            task.cancel()
        await _ended(ending, _CANCEL_S)
        closing = [asyncio.create_task(worker.close()) for worker in self._workers]
        closing.append(asyncio.create_task(DATABASE.run(self._database.close)))
        await _ended(closing, _CANCEL_S)

    async def do(self, what: Action, action: Callable[..., Result], *arguments: object) -> Result:
        """Do one thing at the desk, in a thread, and count it; reports that it wrote are sent at once."""
        result = await self.look(action, *arguments)
        self.metrics.done(what)
        if what in ("sign", "preliminary"):
            for worker in self._workers:
                worker.kick()
        return result

    async def look(self, action: Callable[..., Result], *arguments: object) -> Result:
        """Look at something at the desk, in a thread.

        Raises:
            StorageUnavailable: the database does not answer in time, or so many calls wait for it that none is added.
        """
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await DATABASE.run(action, *arguments)
        except (TimeoutError, ThreadPoolFull) as error:
            raise StorageUnavailable from error

    async def kept_picture(self, sha256: str, kind: str) -> bytes | None:
        """A picture that is kept; None when it was never kept, or not any more.

        Raises:
            StorageUnavailable: the disk does not answer in time.
        """
        if self.kept is None:
            return None
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await PICTURES.run(self.kept.get, sha256, kind)
        except (TimeoutError, ThreadPoolFull) as error:
            raise StorageUnavailable from error

    @property
    def order_address(self) -> tuple[str, int] | None:
        """Where orders are taken, once started; None when none are."""
        return None if self._listener is None else self._listener.address

    def description(self) -> str:
        """What is set up, in a line: no address of a database, which could hold a password."""
        kind = "SQLite" if self._database.is_sqlite else "PostgreSQL"
        to = ", ".join(each.channel.name for each in self._receivers) or "nobody"
        at = self.order_address
        orders = f"orders taken at {at[0]}:{at[1]}" if at else "no orders taken"
        return f"{kind}, reports to {to}{'' if self._workers else ' by another process'}, {orders}"

    async def _take_orders(self, message: MessageIdentity, orders: Sequence[IncomingOrder]) -> None:
        try:
            taken = await self.look(self.desk.take_orders, message, orders)
        except OrderRefused:
            self.metrics.order("refused")
            raise
        self.metrics.order("taken" if taken else "repeated")

    def _worker(self, receiver: Receiver) -> Worker:
        retry = Retry(self._settings.lis.retry_first_s, self._settings.lis.retry_most_s)
        return Worker(self._database, receiver.channel.name, receiver.wire, retry, receiver.longest_s, self.metrics)

    async def _watch(self) -> None:
        with suppress(StorageUnavailable):  # the gauges stand; readers of the database say so
            found = await self.look(self._depths)
            ages_s = [age_s(depth.oldest_at) for depth in found]
            self.metrics.depths((each.channel.name for each in self._receivers), found, ages_s)

    def _depths(self) -> list[outbox.Depth]:
        with self._database.reading() as session:
            return outbox.depths(session)

    async def _sweep(self, kept: KeptPictures) -> None:
        try:
            if count := await PICTURES.run(kept.forget_old):
                log.info("%d pictures were kept for long enough and are deleted", count)
        except OSError as error:
            log.warning("old pictures could not be deleted: %s", error.strerror)


async def _ended(tasks: Sequence[asyncio.Task[Any]], timeout_s: float) -> None:
    """Return when all have ended, or the time is over."""
    if tasks:
        await asyncio.wait(tasks, timeout=timeout_s)


@contextmanager
def _refusing(*settings: str) -> Iterator[None]:
    """Errors of the block, said of the settings that they come from."""
    names = ", ".join(f"{LIS_PREFIX}{setting}" for setting in settings)
    try:
        yield
    except StorageUnavailable as error:
        raise LaboratoryConfigError(f"{names}: the database does not answer; is it there, and ours?") from error
    except OSError as error:
        raise LaboratoryConfigError(f"{names}: {error.filename or ''} {error.strerror or error}") from error
    except (DatabaseRefused, CodeTableError, ValueError) as error:
        raise LaboratoryConfigError(f"{names}: {error}") from error


def counting_rules(settings: Settings) -> CountingRules:
    """How this laboratory counts."""
    lis = settings.lis
    return CountingRules(lis.target_cells, settings.count_other, lis.review_below, lis.me_myeloid, lis.me_erythroid)


def setting_faults(lis: LisSettings) -> Iterator[str]:
    """What the start would fail by: a URL, files of TLS or a table of codes that cannot be used, and the like."""
    if lis.database is None:
        return
    try:
        Database.of(lis)
    except DatabaseRefused as error:
        yield f"{LIS_PREFIX}DATABASE: {error}"
    try:
        CodeMap.load(lis.codes, lis.least_code_status)
    except CodeTableError as error:
        yield f"{LIS_PREFIX}CODES: {error}"
    if lis.pictures is not None and lis.pictures.exists() and not lis.pictures.is_dir():
        yield f"{LIS_PREFIX}PICTURES: {lis.pictures} is no folder"
    for names, load, wanted in (
        ("HL7_TLS_CA, HL7_TLS_CERT, HL7_TLS_KEY", client_tls, lis.hl7_to),
        ("HL7_TLS_CERT, HL7_TLS_KEY, HL7_LISTEN_CA", listener_tls, lis.hl7_listen),
    ):
        try:
            if wanted:
                load(lis)
        except OSError as error:
            unfit = isinstance(error, ssl.SSLError)
            said = "no PEM files that fit" if unfit else f"{error.filename or ''} {error.strerror}".strip()
            yield f"{LIS_PREFIX}{names.replace(', ', f', {LIS_PREFIX}')}: {said}"


def exposed_files(lis: LisSettings) -> Iterator[str]:
    """Files and folders with patients' data, or pictures, that others than their owner may read or write."""
    if lis.database is None:
        return
    paths = [*sqlite_files(lis.database.get_secret_value()), *([lis.pictures] if lis.pictures else [])]
    yield from filter(None, map(rights_of_others, paths))
