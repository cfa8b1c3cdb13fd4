"""One thread pool per purpose, for blocking calls.

With a shared pool, a database that does not answer would block body parsing, model reload and shutdown. Threads are
daemons, so a call that never returns does not prevent the process from exiting.
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
    """All threads of a pool are busy and its queue is full."""

    def __init__(self, name: str) -> None:
        super().__init__(f"thread pool {name}: all threads are busy and the queue is full; try again later")
        self.name = name


class ThreadPool(ThreadPoolExecutor):
    """At most `threads` daemon threads, started on demand, and a queue of at most `waiting` calls.

    It derives from ThreadPoolExecutor because asyncio requires that of a default executor. Threads and queue are its
    own: the interpreter joins those of ThreadPoolExecutor at exit.
    """

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        super().__init__(threads, name)
        self.name, self.threads = name, threads
        self._max_waiting = waiting
        self._changed = threading.Condition()  # guards the members below
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._started = self._busy = 0
        self._ended = False

    async def run(self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
        """The result of a call in a thread of this pool, in the caller's context variables.

        Cancelling the caller removes a queued call; a running call continues and its result is discarded.

        Raises:
            ThreadPoolFull: at once, nothing is queued.
        """
        call = partial(copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self, call)

    def submit(  # type: ignore[override]  # same, but `fn` is positional-only there
        self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> "Future[Result]":
        """Queue a call.

        Raises:
            ThreadPoolFull: all threads are busy and the queue is full.
            RuntimeError: the pool was shut down.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._ended:
                raise RuntimeError(f"thread pool {self.name} is shut down")
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
        """Accept no further calls; queued ones still run. Never waits, since a call may not return."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def busy(self) -> int:
        """Number of threads running a call."""
        return self._busy

    def waiting(self) -> int:
        """Number of queued calls."""
        return len(self._calls)

    def _forget(self, future: "Future[Any]") -> None:
        """Remove a cancelled call from the queue, so that it holds neither arguments nor a place."""
        if not future.cancelled():
            return
        with self._changed:
            self._calls = deque(each for each in self._calls if each[0] is not future)

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            self._run_call(*taken)
            del taken  # release the arguments before waiting for the next call

    def _run_call(self, future: "Future[Any]", call: Callable[[], Any]) -> None:
        active = future.set_running_or_notify_cancel()
        result, error = None, None
        try:
            result = call() if active else None
        except BaseException as raised:  # delivered to the caller, whatever it is
            error = raised
        with self._changed:
            self._busy -= 1  # before the result is set: the caller's next call finds this thread free
        if active and error is not None:
            future.set_exception(error)
        elif active:
            future.set_result(result)
        del error  # its traceback holds this frame

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            while not self._calls and not self._ended:
                self._changed.wait()
            if self._calls:
                self._busy += 1
                return self._calls.popleft()
            self._started -= 1
            return None


#: Parsing and encoding of bodies: archives, tensors, long lines, documents, heatmaps.
BODIES = ThreadPool("bodies", threads=8, waiting=1024)
#: Database transactions of the laboratory; fewer threads than SQLAlchemy's 15 connections.
DATABASE = ThreadPool("database", threads=12, waiting=512)
#: Picture files: stored by a laboratory, read and written by `marrowlens score`.
PICTURES = ThreadPool("pictures", threads=4, waiting=512)
#: Files that are reloaded while serving: API keys, certificates.
FILES = ThreadPool("files", threads=3, waiting=16)
#: Loading and warm-up of a model.
MODEL = ThreadPool("model", threads=2, waiting=16)
#: Drift measurements and export of traces.
TELEMETRY = ThreadPool("telemetry", threads=3, waiting=16)

POOLS = (BODIES, DATABASE, PICTURES, FILES, MODEL, TELEMETRY)


def event_loop_pool() -> ThreadPool:
    """A pool for the event loop's default executor, used for DNS lookups."""
    return ThreadPool("names", threads=8, waiting=512)
