"""Thread pools by purpose: calls that block wait for calls of their own kind alone.

One pool for everything would let a database that does not answer hold the parsing of bodies, the reload of the model
and the end of the process. The threads are daemons: a call that never returns does not keep the process from ending.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

Params = ParamSpec("Params")
Result = TypeVar("Result")


class ThreadPoolFull(RuntimeError):
    """Every thread of a pool works, and as many calls wait for one as may."""

    def __init__(self, name: str) -> None:
        super().__init__(f"every thread for {name} is busy, and too many calls wait for one")
        self.name = name


class ThreadPool(ThreadPoolExecutor):
    """At most `threads` daemon threads, made when they are needed, and a bounded queue of calls.

    A ThreadPoolExecutor only because an event loop takes nothing else as its default: threads and queue are its own,
    for those of the standard library are joined when the interpreter ends.
    """

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        super().__init__(threads, name)
        self.name, self.threads = name, threads
        self._max_waiting = waiting
        self._changed = threading.Condition()  # guards all that follows
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._started = self._busy = 0
        self._ended = False

    async def run(self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
        """The result of a call in a thread of this pool, in the caller's context.

        Cancelling the caller takes back a call that has not begun; one that has begun goes on, unheard.

        Raises:
            ThreadPoolFull: at once; nothing was queued.
        """
        call = partial(copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self, call)

    def submit(  # type: ignore[override]  # the standard library's own says the same with a positional-only name
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> "Future[Result]":
        """Queue a call.

        Raises:
            ThreadPoolFull: no thread is free, and too many calls wait.
            RuntimeError: the pool was shut down.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._ended:
                raise RuntimeError(f"the pool of threads for {self.name} was shut down")
            if len(self._calls) >= self.threads - self._busy + self._max_waiting:
                raise ThreadPoolFull(self.name)
            if self._started < self.threads and len(self._calls) >= self._started - self._busy:
                threading.Thread(target=self._work, name=f"{self.name}-{self._started}", daemon=True).start()
                self._started += 1
            self._calls.append((future, partial(function, *args, **kwargs)))
            self._changed.notify()
        future.add_done_callback(self._forget)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Take no further calls; the queued ones are still made. Waits for none: a call may never return."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def busy(self) -> int:
        """Threads that are in a call."""
        return self._busy

    def waiting(self) -> int:
        """Calls that no thread has begun."""
        return len(self._calls)

    def _forget(self, future: "Future[Any]") -> None:
        """A call that was taken back while it waited must not hold its arguments, nor a place in the queue."""
        if not future.cancelled():
            return
        with self._changed:
            self._calls = deque(each for each in self._calls if each[0] is not future)

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            self._make(*taken)
            del taken  # what it holds is the caller's again

    def _make(self, future: "Future[Any]", call: Callable[[], Any]) -> None:
        wanted = future.set_running_or_notify_cancel()
        result, error = None, None
        try:
            result = call() if wanted else None
        except BaseException as raised:  # whoever waits for the call is told, whatever it was
            error = raised
        with self._changed:
            self._busy -= 1  # before the caller hears of it: its next call finds this thread free
        if wanted and error is not None:
            future.set_exception(error)
        elif wanted:
            future.set_result(result)
        del error  # it holds this frame

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            while not self._calls and not self._ended:
                self._changed.wait()
            if self._calls:
                self._busy += 1
                return self._calls.popleft()
            self._started -= 1
            return None


#: Parsing and writing of bodies: archives, tensors, long lines, documents, drawn maps.
BODIES = ThreadPool("bodies", threads=8, waiting=1024)
#: Transactions of the laboratory; fewer than the 15 connections that SQLAlchemy opens.
DATABASE = ThreadPool("database", threads=12, waiting=512)
#: Files of pictures: those that a laboratory keeps, and those that `marrowlens score` reads and writes.
PICTURES = ThreadPool("pictures", threads=4, waiting=512)
#: Files that the service reads anew while it serves: API keys, certificates.
FILES = ThreadPool("files", threads=3, waiting=16)
#: Opening and warming a model.
MODEL = ThreadPool("model", threads=2, waiting=16)
#: Drift, traces, and memory that goes back to the system.
TELEMETRY = ThreadPool("telemetry", threads=3, waiting=16)

POOLS = (BODIES, DATABASE, PICTURES, FILES, MODEL, TELEMETRY)


def event_loop_pool() -> ThreadPool:
    """A pool for what an event loop itself, or a library on it, sends to its default: looking up names of hosts."""
    return ThreadPool("names", threads=8, waiting=512)
