"""Delivery: takes messages from the outbox and hands them to a wire, one at a time, until they are settled.

Knows when to try and when to wait. Does not know protocols (`Wire`) nor what messages say. A worker may die at any
point: what it had claimed is another worker's when the lease ends.
"""

import asyncio
import logging
import os
import socket
import traceback
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from service.concurrency.thread_pools import DATABASE
from service.errors import StorageUnavailable
from service.lis.exchange.transport import NoAnswer, Rejected, Wire
from service.lis.metrics import DeliveryOutcome, LisMetrics
from service.lis.storage import outbox
from service.lis.storage.database import Database
from service.lis.storage.outbox import Claimed, Retry

log = logging.getLogger(__name__)

#: How often an idle worker looks for messages that another process wrote.
POLL_S = 1.0
#: How much longer than a delivery a message stays its worker's, who has yet to write down how it ended.
_SETTLING_S = 10.0


class Worker:
    """Delivers the messages of one channel. Several workers, in several processes, may share a channel.

    A delivery that takes longer than `longest_s` is given up, and only then is the message another worker's.
    """

    def __init__(
        self,
        database: Database,
        channel: str,
        wire: Wire,
        retry: Retry,
        longest_s: float,
        metrics: LisMetrics,
    ) -> None:
        self.channel = channel
        self._database = database
        self._wire = wire
        self._retry = retry
        self._longest_s = longest_s
        self._lease = timedelta(seconds=longest_s + _SETTLING_S)
        self._metrics = metrics
        self._name = f"{socket.gethostname()[:40]}:{os.getpid()}:{id(self):x}"[:64]
        self._failures = 0
        self._stopping = False
        self._kicked = asyncio.Event()

    def kick(self) -> None:
        """A message was written: look now."""
        self._kicked.set()

    async def run(self) -> None:
        """Deliver until `stop`; what is under way then is brought to its end."""
        while not self._stopping:
            pause_s = await self._step()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._kicked.wait(), pause_s)
            self._kicked.clear()

    async def close(self) -> None:
        """Let the connection go, once nothing is being delivered."""
        await self._wire.close()

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping = True
        self._kicked.set()

    async def _step(self) -> float:
        """Deliver what is due; how long to wait before looking again, in seconds."""
        try:
            while not self._stopping:
                claimed = await self._claimed()
                if claimed is None:
                    return POLL_S
                if not await self._deliver(claimed):
                    # The receiver, not the message, is most likely to blame: the next one would fare no better.
                    return self._retry.wait(self._failures).total_seconds()
        except StorageUnavailable:
            log.warning("delivery by %s waits: the laboratory's database does not answer", self.channel)
        except Exception as error:  # a worker that ended would leave everything undelivered, and nobody would know
            log.error("delivery by %s goes on after %s", self.channel, _where(error))
        return POLL_S

    async def _claimed(self) -> Claimed | None:
        claiming = asyncio.create_task(DATABASE.run(self._claim))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:  # the thread goes on: what it claims now would be nobody's until the lease ends
            if (claimed := await claiming) is not None:
                await DATABASE.run(self._let_go, claimed)
            raise

    async def _deliver(self, claimed: Claimed) -> bool:
        try:
            reply = await self._sent(claimed)
        except asyncio.CancelledError:  # whether the receiver has it, nobody knows: it is sent again, by whom it may
            await DATABASE.run(self._let_go, claimed)
            raise
        except Rejected as error:
            log.error("%s message %s is a dead letter: %s", self.channel, claimed.control_id, error.reason)
            await DATABASE.run(self._rejected, claimed, error)
            self._answered("rejected")
        except NoAnswer as error:
            self._failures += 1
            log.warning("%s message %s, try %d: %s", self.channel, claimed.control_id, claimed.attempts, error.reason)
            await DATABASE.run(self._unanswered, claimed, error)
            self._metrics.tried(self.channel, "unanswered")
            return False
        else:
            await DATABASE.run(self._delivered, claimed, reply)
            self._answered("delivered")
        return True

    async def _sent(self, claimed: Claimed) -> str:
        try:
            async with asyncio.timeout(self._longest_s):
                return await self._wire.deliver(claimed.message, claimed.control_id)
        except (Rejected, NoAnswer):
            raise
        except TimeoutError:
            raise NoAnswer(f"not delivered within {self._longest_s:g} s") from None
        except Exception as error:
            raise NoAnswer(f"the wire failed: {_where(error)}") from error

    def _answered(self, outcome: DeliveryOutcome) -> None:
        self._failures = 0
        self._metrics.tried(self.channel, outcome)

    def _claim(self) -> Claimed | None:
        with self._database.writing() as session:
            return outbox.claim(session, self.channel, self._name, self._lease)

    def _let_go(self, claimed: Claimed) -> None:
        with suppress(StorageUnavailable), self._database.writing() as session:
            outbox.let_go(session, claimed.row, self._name)

    def _delivered(self, claimed: Claimed, reply: str) -> None:
        with self._database.writing() as session:
            outbox.delivered(session, claimed.row, reply)

    def _rejected(self, claimed: Claimed, error: Rejected) -> None:
        with self._database.writing() as session:
            outbox.rejected(session, claimed.row, error.reason, error.reply)

    def _unanswered(self, claimed: Claimed, error: NoAnswer) -> None:
        with self._database.writing() as session:
            outbox.unanswered(session, claimed.row, self._name, error.reason, self._retry)


def _where(error: Exception) -> str:
    """An unexpected error by its kind and place: its own text could hold what a message said."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def age_s(moment: datetime | None) -> float:
    """How long ago, in seconds; 0 for never."""
    return 0.0 if moment is None else max(0.0, (datetime.now(UTC) - moment).total_seconds())
