"""Delivery: claims messages from the outbox and sends them, one at a time, until each is delivered or dead.

At least once: if a worker dies, its message is free for another worker when the lease ends.
"""

import asyncio
import logging
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from service.concurrency.supervisor import error_location
from service.concurrency.thread_pools import DATABASE
from service.errors import StorageUnavailable
from service.lis.exchange.transport import NoAnswer, Rejected, Transport
from service.lis.metrics import DeliveryOutcome, LisMetrics
from service.lis.storage import outbox
from service.lis.storage.database import Database
from service.lis.storage.outbox import Claimed, Retry

log = logging.getLogger(__name__)

#: How often an idle worker polls for messages that another process wrote.
POLL_S = 1.0
#: Lease after the delivery's time limit, to write the outcome to the database.
_SETTLING_S = 10.0


class DeliveryWorker:
    """Delivers the messages of one channel. Several workers, in several processes, may share a channel.

    A delivery is cancelled after `time_limit_s`; only then does its lease end.
    """

    def __init__(
        self,
        database: Database,
        channel: str,
        transport: Transport,
        retry: Retry,
        time_limit_s: float,
        metrics: LisMetrics,
    ) -> None:
        self.channel = channel
        self._database = database
        self._transport = transport
        self._retry = retry
        self._time_limit_s = time_limit_s
        self._lease = timedelta(seconds=time_limit_s + _SETTLING_S)
        self._metrics = metrics
        self._name = f"{socket.gethostname()[:40]}:{os.getpid()}:{id(self):x}"[:64]
        self._failures = 0
        self._stopping = False
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Poll the outbox now: a message was written."""
        self._woken.set()

    async def run(self) -> None:
        """Deliver until `stop`. The delivery in progress is finished first."""
        while not self._stopping:
            pause_s = await self._step()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), pause_s)
            self._woken.clear()

    async def close(self) -> None:
        """Close the connection, after the delivery in progress."""
        await self._transport.close()

    def stop(self) -> None:
        """Claim no more messages."""
        self._stopping = True
        self._woken.set()

    async def _step(self) -> float:
        """Deliver all due messages; returns the seconds until the next poll."""
        try:
            while not self._stopping:
                claimed = await self._claimed()
                if claimed is None:
                    return POLL_S
                if not await self._deliver(claimed):
                    # The receiver does not answer: the next message would fail too.
                    return self._retry.wait(self._failures).total_seconds()
        except StorageUnavailable:
            log.warning("%s: delivery paused: the laboratory's database does not answer", self.channel)
        except Exception as error:  # the worker must not end: nothing would be delivered any more
            log.error("%s: delivery failed (%s); retrying", self.channel, error_location(error))
        return POLL_S

    async def _claimed(self) -> Claimed | None:
        claiming = asyncio.create_task(DATABASE.run(self._claim))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:  # the thread goes on: release what it claims
            if (claimed := await claiming) is not None:
                await DATABASE.run(self._release, claimed)
            raise

    async def _deliver(self, claimed: Claimed) -> bool:
        """Send one message and store the outcome; False if the receiver did not answer."""
        try:
            reply = await self._sent(claimed)
        except asyncio.CancelledError:  # the receiver may have it: it is sent again
            await DATABASE.run(self._release, claimed)
            raise
        except Rejected as error:
            log.error("%s: message %s rejected: %s", self.channel, claimed.control_id, error.reason)
            await DATABASE.run(self._mark_rejected, claimed, error)
            self._answered("rejected")
        except NoAnswer as error:
            self._failures += 1
            log.warning(
                "%s: message %s, attempt %d: %s", self.channel, claimed.control_id, claimed.attempts, error.reason
            )
            await DATABASE.run(self._mark_unanswered, claimed, error)
            self._metrics.count_attempt(self.channel, "unanswered")
            return False
        else:
            await DATABASE.run(self._mark_delivered, claimed, reply)
            self._answered("delivered")
        return True

    async def _sent(self, claimed: Claimed) -> str:
        try:
            async with asyncio.timeout(self._time_limit_s):
                return await self._transport.deliver(claimed.message, claimed.control_id)
        except (Rejected, NoAnswer):
            raise
        except TimeoutError:
            raise NoAnswer(f"not delivered within {self._time_limit_s:g} s") from None
        except Exception as error:
            raise NoAnswer(f"unexpected error: {error_location(error)}") from error

    def _answered(self, outcome: DeliveryOutcome) -> None:
        self._failures = 0
        self._metrics.count_attempt(self.channel, outcome)

    def _claim(self) -> Claimed | None:
        with self._database.writing() as session:
            return outbox.claim(session, self.channel, self._name, self._lease)

    def _release(self, claimed: Claimed) -> None:
        with suppress(StorageUnavailable), self._database.writing() as session:
            outbox.release(session, claimed.row, self._name)

    def _mark_delivered(self, claimed: Claimed, reply: str) -> None:
        with self._database.writing() as session:
            outbox.mark_delivered(session, claimed.row, reply)

    def _mark_rejected(self, claimed: Claimed, error: Rejected) -> None:
        with self._database.writing() as session:
            outbox.mark_rejected(session, claimed.row, error.stored_reason(), error.reply)

    def _mark_unanswered(self, claimed: Claimed, error: NoAnswer) -> None:
        with self._database.writing() as session:
            outbox.mark_unanswered(session, claimed.row, self._name, error.reason, self._retry)


def age_s(moment: datetime | None) -> float:
    """Seconds since `moment`; 0 for None."""
    return 0.0 if moment is None else max(0.0, (datetime.now(UTC) - moment).total_seconds())
