"""Run the benchmark plan: rounds over the servers in changing order, one at a time; skips finished measurements."""

import asyncio
import json
import subprocess
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import uvloop

from bench.comparison.measure import NoCapacity, Pictures, Subject, measure, warm
from bench.plan.cells import Cell, EngineTiming, Ledger, OnePicture
from bench.plan.plan import NETWORK, SATURATED, WORKLOADS, Plan
from bench.plan.runtimes import ENGINES, Engine
from bench.plan.servers import CEILING, SERVERS, Server
from bench.setup.environments import environment
from bench.setup.machine import ROOT, listed
from bench.setup.starting import Job, NoAnswer, started

ENGINE_LIMIT_S = 600


class Progress(Protocol):
    """Receives progress messages."""

    def step(self, text: str) -> None:
        """Show the current measurement."""

    def done(self, count: int = 1) -> None:
        """Advance by a number of measurements."""

    def say(self, text: str) -> None:
        """Print a permanent line."""


@dataclass(slots=True)
class Bench:
    """Everything needed to run a plan."""

    plan: Plan
    ledger: Ledger
    jobs: Mapping[str, Job]  # by model and decoder
    pictures: Mapping[tuple[str, str], Pictures]  # by model and decoder
    files: Sequence[Path]  # the same JPEGs
    size: int  # pixels of the model's input
    pythons: Mapping[str, Path]  # by server and engine
    progress: Progress
    failures: dict[str, str] = field(default_factory=dict)  # server or engine → why it is not in the table

    def steps(self) -> int:
        """Number of measurements of a whole run."""
        cells = sum(len(self.plan.workloads_of(model)) * len(self._servers(model)) for model in self.plan.models)
        return self.plan.rounds * (cells + len(self.plan.engines) + 1)

    def run(self) -> None:
        """Measure everything that the ledger lacks. A server that fails is skipped from then on."""
        for round in range(self.plan.rounds):
            random = np.random.default_rng(round)
            self._attempt(CEILING.name, partial(self._ceiling, round))
            for name in random.permutation(sorted(self.plan.engines)).tolist():
                self._attempt(name, partial(self._time, ENGINES[name], round))
            for model in self.plan.models:
                for name in random.permutation(self._servers(model)).tolist():
                    self._attempt(name, partial(self._serve, SERVERS[name], model, round))

    def _servers(self, model: str) -> list[str]:
        """Names of the servers that are measured with a model."""
        return sorted(name for name in self.plan.servers if model in SERVERS[name].models)

    def _attempt(self, name: str, measured: Callable[[], Coroutine[None, None, None]]) -> None:
        if name in self.failures:
            return
        try:
            uvloop.run(measured())
        except (NoAnswer, NoCapacity, OSError, subprocess.SubprocessError) as error:
            self.failures[name] = str(error)
            self.progress.say(f"left out: {error}")

    async def _serve(self, server: Server, model: str, round: int) -> None:
        """Run every workload of one server in one round, on a freshly started server."""
        open_cells = [w for w in self.plan.workloads_of(model) if not self._cell(server, model, w.name, round)]
        self.progress.done(len(self.plan.workloads_of(model)) - len(open_cells))
        if not open_cells:
            return
        self.progress.step(f"round {round + 1}, {model}: {server.title} starts")
        pictures = self.pictures[model, server.decoder]
        probe = server.one([pictures.jpegs[0]])
        async with started(server, self.pythons[server.name], self.jobs[model], probe) as address:
            subject = Subject(server, address, pictures, model)
            await warm(subject, self.plan)
            for workload in open_cells:
                self.progress.step(f"round {round + 1}, {model}: {server.title}, {workload.title}")
                saturated = self._cell(server, model, SATURATED, round)
                capacity = saturated.requests_per_s if saturated else 0.0
                self.ledger.add(await measure(subject, workload, self.plan, round, capacity))
                self.progress.done()

    async def _ceiling(self, round: int) -> None:
        """Measure the generator's maximum: 32 clients on a server that answers with fixed bytes."""
        if self._cell(CEILING, NETWORK, SATURATED, round):
            self.progress.done()
            return
        pictures = self.pictures[self.plan.models[0], CEILING.decoder]
        job = self.jobs[self.plan.models[0]]
        self.progress.step(f"round {round + 1}: the load generator alone")
        async with started(CEILING, self.pythons[CEILING.name], job, CEILING.one([pictures.jpegs[0]])) as address:
            subject = Subject(CEILING, address, pictures, NETWORK, checked=False)
            self.ledger.add(await measure(subject, WORKLOADS[SATURATED], self.plan, round, 0.0))
        self.progress.done()

    def _cell(self, server: Server, model: str, workload: str, round: int) -> Cell | None:
        return self.ledger.cell(model, server.name, workload, round)

    async def _time(self, engine: Engine, round: int) -> None:
        """Time one engine at every batch size, in a separate process on the servers' cores."""
        if not self.ledger.has_engine(engine.name, round):
            self.progress.step(f"round {round + 1}: {engine.title}")
            asked = (engine.module, self.pythons[engine.name], self.jobs[NETWORK], self._task())
            said = await asyncio.to_thread(run_engine, *asked)
            for line in said.splitlines():
                fields = json.loads(line)
                kind = OnePicture if "one_picture_ms" in fields else EngineTiming
                self.ledger.add(kind(round=round, **fields))
        self.progress.done()

    def _task(self) -> dict[str, Any]:
        return task(self.jobs[NETWORK], self.files, self.size, self.plan.batches, self.plan.engine_seconds)


def task(job: Job, files: Sequence[Path], size: int, batches: Sequence[int], seconds: float) -> dict[str, Any]:
    """The task as JSON for bench/engines/timing.py."""
    return {
        "artefact": str(job.artefact.resolve()),
        "pictures": [str(path.resolve()) for path in files],
        "size": size,
        "batches": list(batches),
        "seconds": seconds,
    }


def run_engine(module: str, python: Path, job: Job, asked: Mapping[str, Any], *more: str) -> str:
    """Run a module of bench.engines on the servers' cores; returns what it printed.

    Raises:
        subprocess.SubprocessError: it failed or did not end.
    """
    command = ["taskset", "--cpu-list", listed(job.cores.server), str(python), "-m", f"bench.engines.{module}"]
    run = subprocess.run(
        [*command, json.dumps(asked), *more],
        cwd=ROOT,
        env=environment() | job.variables(),
        capture_output=True,
        text=True,
        timeout=ENGINE_LIMIT_S,
        check=False,
    )
    if run.returncode:
        last = " / ".join(run.stderr.strip().splitlines()[-3:])
        raise subprocess.SubprocessError(f"{module} ended with status {run.returncode}; it said: {last}")
    return run.stdout
