"""The supervisor: starts the workers of a service, restarts those that end, and passes signals on to them.

uvicorn's own supervisor has no back-off, checks one worker after the other, and knows neither readiness nor exit
statuses of workers (docs/decisions/0032-workers.md).
"""

import asyncio
import logging
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from service.concurrency.shared_counts import SharedCounts
from service.concurrency.worker import Worker
from service.config.settings import Settings
from service.errors import NotReady, ReloadInProgress, ReloadRejected
from service.exit_status import CANNOT_RUN, MODEL_FAILED
from service.server.workers.assignment import Assignment
from service.server.workers.channel import Channel, Message
from service.server.workers.process import WorkerProcess
from service.server.workers.reload import ReloadCoordinator, ServedModel, describe
from service.server.workers.shares import worker_settings

log = logging.getLogger(__name__)

#: Pauses in s before a worker is started again: none at first, then doubled up to the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
#: A worker that ran for so long in s is started again without a pause.
PROVEN_S = 60.0
#: Starts of one worker that may fail in a row while no other worker runs.
MAX_FAILED_STARTS = 3
#: Interval in s of the check for silent workers, and time for a worker to end after it closed its channel.
_WATCH_S, _END_S = 0.5, 10.0
#: Module of the worker process.
WORKER_MODULE = "service.cli.worker"


class WorkerSupervisor:
    """The workers of one service.

    Args:
        settings: of the whole service.
        listener: the bound socket that all workers accept from.
        folder: an empty folder for the files that they share.
        announce: called with the start lines once all workers are ready.
    """

    def __init__(
        self,
        settings: Settings,
        count: int,
        listener: socket.socket,
        folder: Path,
        *,
        access_log: bool,
        announce: Callable[[Sequence[str]], None],
    ) -> None:
        self._settings = worker_settings(settings, count)
        self._count, self._listener, self._folder = count, listener, folder
        self._access_log, self._announce = access_log, announce
        self._workers: dict[int, WorkerProcess] = {}
        self._models = ReloadCoordinator(self._serving)
        self._stopping = asyncio.Event()
        self._announced = self._all_ready = False
        self._leader: int | None = None
        self.status = 0
        self.error = ""
        own = self._worker(0)
        own.metrics.mkdir()
        self._counts = SharedCounts(own.counts, count)
        for row in range(count):
            self._counts.clear(row)

    async def run(self) -> int:
        """Serve until a signal; returns the exit status: 0, 2 (`error` says why) or 70."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            loop.add_signal_handler(signal.SIGHUP, lambda: tasks.create_task(self._models.reload_configured()))
            watching = tasks.create_task(self._watch())
            await asyncio.wait([tasks.create_task(self._keep(index)) for index in range(self._count)])
            watching.cancel()
        return self.status

    def stop(self) -> None:
        """Let all workers drain and end; each further call reaches them as another SIGTERM."""
        self._stopping.set()
        self._listener.close()
        for worker in self._workers.values():
            worker.signal(signal.SIGTERM)

    def _worker(self, index: int) -> Worker:
        return Worker(index, self._count, self._folder, leads=index == self._leader)

    async def _keep(self, index: int) -> None:
        """Run one worker until the service stops."""
        pause_s, failed_starts = 0.0, 0
        while not self._stopping.is_set():
            began_s = time.monotonic()
            worker = await self._start(index)
            status = await self._follow(worker)
            if self._stopping.is_set():
                self.status = MODEL_FAILED if MODEL_FAILED in (status, self.status) else self.status
                return
            failed_starts = 0 if worker.started else failed_starts + 1
            if self._gives_up(worker, failed_starts):
                self.stop()
                return
            if time.monotonic() - began_s > PROVEN_S:
                pause_s = 0.0
            log.error("Worker %d ended %s%s; restart in %g s", index, _end(status), _reason(worker), pause_s)
            await self._stopped_within(pause_s)
            pause_s = min(max(FIRST_PAUSE_S, 2 * pause_s), LONGEST_PAUSE_S)

    def _gives_up(self, worker: WorkerProcess, failed_starts: int) -> bool:
        """Whether the service ends, because this worker cannot start."""
        if worker.error and not self._announced:
            self.status, self.error = CANNOT_RUN, worker.error
        elif failed_starts >= MAX_FAILED_STARTS and not any(each.up for each in self._workers.values()):
            log.critical("No worker starts: stopping the service")
            self.status = MODEL_FAILED
        else:
            return False
        return True

    async def _stopped_within(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()

    async def _start(self, index: int) -> WorkerProcess:
        assignment = self._assignment(index)
        ours, theirs = socket.socketpair()
        fds = self._listener.fileno(), theirs.fileno()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the current folder holds no modules of the service
            "-m",
            WORKER_MODULE,
            *map(str, fds),
            pass_fds=fds,
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the supervisor only, which passes it on once
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        theirs.close()
        worker = WorkerProcess(index, process, await Channel.of(ours), time.monotonic())
        self._workers[index] = worker
        assert process.stdin is not None, "a pipe"
        process.stdin.write(pickle.dumps(assignment))
        process.stdin.close()
        if self._stopping.is_set():
            worker.signal(signal.SIGTERM)
        return worker

    def _assignment(self, index: int) -> Assignment:
        if self._leader is None:
            self._leader = index
        return Assignment(
            settings=self._settings,
            worker=self._worker(index),
            access_log=self._access_log,
            served=self._models.served,
        )

    async def _follow(self, worker: WorkerProcess) -> int:
        """Handle the messages of a worker until it has ended; returns its exit status."""
        while (message := await worker.channel.receive()) is not None:
            worker.heard_at_s = time.monotonic()
            self._handle(worker, message)
        try:
            async with asyncio.timeout(_END_S):
                status = await worker.process.wait()
        except TimeoutError:
            worker.signal(signal.SIGKILL)
            status = await worker.process.wait()
        worker.channel.close()
        worker.end()
        del self._workers[worker.index]
        self._counts.clear(worker.index)
        # By its index, which its files are named by.
        mark_process_dead(worker.index, str(self._worker(worker.index).metrics))  # type: ignore[no-untyped-call]
        self._tell_readiness()
        if self._leader == worker.index:
            self._leader = None
            self._appoint()
        return status

    def _handle(self, worker: WorkerProcess, message: Message) -> None:
        match message:
            case {"kind": "failed", "message": why}:
                worker.error = why
            case {"kind": "started", "lines": lines, "digest": digest}:
                worker.lines, worker.digest = lines, digest
                self._started(worker)
            case {"kind": "alive", "ready": ready, "all_ready": all_ready}:
                worker.ready, worker.all_ready = ready, all_ready
                self._tell_readiness()
                self._announce_once()
            case {"kind": "reload", "number": number, "name": name}:
                self._tasks.create_task(self._reload_for(worker, number, name))
            case {"kind": "report"}:
                for leader in (other for other in self._serving() if other.index == self._leader):
                    leader.tell("report")
            case {"kind": "answer"}:
                worker.answers.put_nowait(message)

    def _started(self, worker: WorkerProcess) -> None:
        if self._models.served.digest is None:
            self._models.served = ServedModel(digest=worker.digest)
        if self._models.served.digest != worker.digest:  # the model was changed while the worker started
            worker.restart()
            return
        worker.started = worker.up = True
        worker.tell("all_ready", ready=self._all_ready)
        self._appoint()

    def _appoint(self) -> None:
        """Let a worker that serves lead, if none does and the service goes on."""
        serving = self._serving()
        if self._leader is None and serving and not self._stopping.is_set():
            self._leader = serving[0].index
            serving[0].tell("lead")
            log.warning("Worker %d leads now", self._leader)

    async def _reload_for(self, worker: WorkerProcess, number: int, name: str | None) -> None:
        """Reload for a worker that was asked to by a client, and tell it how that ended."""
        try:
            await self._models.reload(name)
        except (ReloadRejected, NotReady, ReloadInProgress) as error:
            worker.tell("reloaded", number=number, **describe(error))
        else:
            worker.tell("reloaded", number=number)

    def _serving(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers.values() if worker.up]

    def _tell_readiness(self) -> None:
        """Tell all workers whether all are ready, if that has changed."""
        all_ready = sum(worker.ready for worker in self._serving()) == self._count
        if all_ready != self._all_ready:
            self._all_ready = all_ready
            for worker in self._workers.values():
                worker.tell("all_ready", ready=all_ready)

    def _announce_once(self) -> None:
        """Announce the service once every worker knows that all are ready."""
        if not self._announced and sum(worker.all_ready for worker in self._workers.values()) == self._count:
            self._announced = True
            self._announce(next(worker.lines for worker in self._workers.values() if worker.index == self._leader))

    async def _watch(self) -> None:
        """End workers that are silent for longer than `max_run_s`; a hanging model is found by the worker itself."""
        while True:
            await asyncio.sleep(_WATCH_S)
            now_s = time.monotonic()
            for worker in self._workers.values():
                if worker.up and now_s - worker.heard_at_s > self._settings.max_run_s:
                    log.critical("Worker %d does not respond: stopping it", worker.index)
                    worker.signal(signal.SIGKILL)


def _end(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"


def _reason(worker: WorkerProcess) -> str:
    return f": {worker.error}" if worker.error else ""
