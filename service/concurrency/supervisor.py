"""Supervisor of background tasks: logs and counts their exceptions and restarts them with back-off."""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, Protocol

from service.concurrency.thread_pools import ThreadPoolFull

log = logging.getLogger(__name__)

#: Pause in s before the first restart; doubled at each further failure up to the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
#: Time in s without failure after which a restarted task counts as running.
PROVEN_S = 10.0

TaskName = Literal[
    "certificate",
    "delivery_astm",
    "delivery_fhir",
    "delivery_hl7",
    "drift",
    "keys",
    "model_retirement",
    "order_listener",
    "outbox_watch",
    "picture_sweep",
    "reload",
    "retention",
]


class TaskObserver(Protocol):
    """Receiver of task states, such as metrics."""

    def running(self, task: str, running: bool) -> None:
        """A task was started (True), or has failed and waits for its restart (False)."""

    def failed(self, task: str) -> None:
        """A task ended with an exception."""


class Supervisor:
    """The background tasks of one service, on one event loop."""

    def __init__(
        self, observer: TaskObserver, *, first_pause_s: float = FIRST_PAUSE_S, proven_s: float = PROVEN_S
    ) -> None:
        self._observer = observer
        self._first_pause_s, self._proven_s = first_pause_s, proven_s
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: TaskName, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run a coroutine function until it returns; restart it after an exception."""
        self._observer.running(name, True)
        return self._spawn(self._run(name, run))

    def every(self, name: TaskName, period_s: float, act: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run an action now and again `period_s` after each completion."""

        async def run() -> None:
            while True:
                try:
                    await act()
                except ThreadPoolFull as full:  # not a failure: retried after the period
                    log.warning("background task %s skipped: %s", name, full)
                await asyncio.sleep(period_s)

        return self.start(name, run)

    def once(self, name: TaskName, act: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run an action once. An exception is logged and counted, not retried."""
        return self._spawn(self._once(name, act))

    async def close(self, timeout_s: float) -> None:
        """Cancel all tasks and wait at most `timeout_s` for them."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # asyncio keeps only weak references to tasks
        task.add_done_callback(self._tasks.discard)
        return task

    async def _once(self, name: TaskName, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except Exception as error:
            self._observer.failed(name)
            log.error("background task %s failed: %s", name, error_location(error))

    async def _run(self, name: TaskName, run: Callable[[], Awaitable[None]]) -> None:
        loop, pause_s = asyncio.get_running_loop(), self._first_pause_s
        while True:
            began_s = loop.time()
            proving = loop.call_later(self._proven_s, self._observer.running, name, True)
            try:
                await run()
                return
            except Exception as error:
                if loop.time() - began_s > LONGEST_PAUSE_S:
                    pause_s = self._first_pause_s
                self._observer.failed(name)
                self._observer.running(name, False)
                log.error("background task %s failed, restart in %g s: %s", name, pause_s, error_location(error))
            finally:
                proving.cancel()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def error_location(error: BaseException) -> str:
    """Class, file and line of an error, without its message, which could hold patient data."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"
