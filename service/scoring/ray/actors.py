"""Actors of Ray that score parts: where they run, how large they are, which of them live. Alone knows Ray.

Knows Ray, and what an actor is sent: the model's bytes, the plan and the few settings that a session depends on.
Does not know which part comes next, nor what to do about one that failed.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

from model.contract import ArtefactError, Manifest, manifest_text
from service.concurrency.thread_pools import MODEL
from service.config.settings import Settings
from service.runtime.hardware import cpu_budget
from service.runtime.loader import InferenceOptions
from service.runtime.session import OnnxSession, ProviderUnavailable
from service.scoring.ray.env import check_listens, ray_folder
from service.scoring.ray.errors import CannotScore
from service.scoring.ray.plan import Plan
from service.scoring.ray.request import Sizing
from service.scoring.ray.worker import Done, Failed, Fault, PartScorer

#: Parts that one actor has at a time: while one ends, the batches are filled from the next.
PARTS_EACH = 2
_OBJECTS_BYTES = 128 << 20  # the model goes through Ray's memory, pictures never do
_STARTS = 3  # Ray gives its own processes seconds to start, which on a busy machine is not enough


@dataclass(frozen=True, slots=True)
class Job:
    """What every actor is sent."""

    plan: str
    out: str
    options: InferenceOptions  # keys, tokens and the laboratory's settings stay where the run was started
    model: str
    graph: bytes
    manifest: bytes


def job(plan: Plan, out: str, name: str, graph: bytes, manifest: Manifest, settings: Settings, cpus: int) -> Job:
    """A job for a model that is read and verified already; actors do not read its files again.

    With as many threads as an actor has CPUs, where the settings name none.
    """
    options = InferenceOptions.from_settings(settings, cpus=cpus)
    return Job(plan.model_dump_json(), out, options, name, graph, manifest_text(manifest).encode())


class Scorer:
    """The actor. What goes wrong is answered, not raised: Ray would write it into its logs."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._scorer: PartScorer | None = None

    async def start(self) -> str | Failed:
        """Open the session; what it computes on, or why it cannot."""
        try:
            session = await MODEL.run(_session, self._job)
            plan = Plan.model_validate_json(self._job.plan)
            self._scorer = PartScorer(plan, self._job.out, session, self._job.options)
            await self._scorer.start()
        except (ArtefactError, ProviderUnavailable) as error:
            return Failed(Fault.MODEL, str(error))
        except (CannotScore, OSError) as error:
            return Failed(Fault.STORE, str(error))
        return session.provider

    async def score(self, part: int, last: bool) -> Done | Failed:
        """One part."""
        assert self._scorer is not None, "started first"
        return await self._scorer.score(part, last=last)


def _session(job: Job) -> OnnxSession:
    with tempfile.TemporaryDirectory(prefix="marrowlens-") as folder:
        artefact = Path(folder, job.model)
        artefact.write_bytes(job.graph)
        artefact.with_suffix(".json").write_bytes(job.manifest)
        return job.options.open_session(artefact)


@contextmanager
def joined(sizing: Sizing) -> Iterator[None]:
    """A cluster for the block: a running one that is joined, or one on this machine that ends with it.

    Raises:
        CannotScore: the cluster does not answer or is of another version, or none starts
    """
    address = sizing.address or os.environ.get("RAY_ADDRESS")
    with nullcontext() if address else _own_folder():
        if address:
            check_listens(address)
            _init(f"Ray at {address} cannot be joined", 1, address=address)
        else:
            cpus = max(cpu_budget(), sizing.cpus or 1)
            own: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECTS_BYTES}
            _init("Ray does not start on this machine", _STARTS, address="local", **own)
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _own_folder() -> Iterator[None]:
    """For the block, Ray and all processes that it starts write into a folder of this run."""
    before = os.environ.get("RAY_TMPDIR")
    with ray_folder() as folder:
        os.environ["RAY_TMPDIR"] = str(folder)
        try:
            yield
        finally:
            os.environ.pop("RAY_TMPDIR")
            if before is not None:
                os.environ["RAY_TMPDIR"] = before


def _init(failed: str, attempts: int, **how: Any) -> None:
    for attempt in range(attempts):
        try:
            ray.init(log_to_driver=False, configure_logging=False, **how)
            return
        except Exception as error:  # of many kinds, Exception itself among them
            ray.shutdown()
            if attempt + 1 == attempts:
                raise CannotScore(f"{failed}: {_first_line(error)}") from error


@dataclass(frozen=True, slots=True)
class Size:
    """Of one actor, in what Ray counts."""

    cpus: int
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def size_of_an_actor(sizing: Sizing, settings: Settings) -> Size:
    """As asked for; else a GPU and its share of the CPUs where there are GPUs to compute on, and one CPU where not."""
    nodes = _nodes()
    no_gpu = settings.provider in ("cpu", "openvino")
    on_gpus = [node for node in nodes if node.get("GPU", 0) >= 1 and not no_gpu]
    gpus = sizing.gpus if sizing.gpus is not None else float(bool(on_gpus))
    if sizing.cpus or not (gpus and on_gpus):
        return Size(sizing.cpus or 1, gpus)
    shares = [node.get("CPU", 1) / node["GPU"] * gpus for node in on_gpus]
    return Size(max(1, int(min(shares))), gpus)


def room_for(size: Size) -> int:
    """How many such actors the nodes that live would hold, were they empty."""
    return sum(
        int(min(node.get("CPU", 0) / size.cpus, node.get("GPU", 0) / size.gpus if size.gpus else float("inf")))
        for node in _nodes()
    )


def _nodes() -> list[dict[str, float]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


@dataclass(slots=True, eq=False)
class Worker:
    """One actor, from when it was asked for; `provider` is empty until it has started."""

    actor: Any
    provider: str = ""
    parts: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of one call: of a part, or, where it is None, of a start."""

    worker: Worker
    part: int | None
    outcome: Done | Failed | str


class Pool:
    """The actors that there are. A context: at its end all are gone."""

    def __init__(self, job: Job, size: Size) -> None:
        self.size = size
        self.workers: list[Worker] = []
        self._job = ray.put(job)
        limits: dict[str, Any] = {
            "num_cpus": size.cpus,
            "num_gpus": size.gpus,
            "max_restarts": 0,
            "max_concurrency": PARTS_EACH + 1,
        }
        self._actor = ray.remote(**limits)(Scorer)
        self._calls: dict[Any, tuple[Worker, int | None]] = {}

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self.workers):
            self.drop(worker)

    def idlest(self) -> Worker | None:
        """Of those that have started, the one with most room for a part; None where none has any."""
        free = [worker for worker in self.workers if worker.provider and worker.parts < PARTS_EACH]
        return min(free, key=lambda worker: worker.parts, default=None)

    def add(self) -> None:
        """Ask for one actor more; it starts where and when a node has room."""
        worker = Worker(self._actor.remote(self._job))
        self.workers.append(worker)
        self._calls[worker.actor.start.remote()] = (worker, None)

    def give(self, worker: Worker, part: int, *, last: bool) -> None:
        """Have a part scored."""
        worker.parts += 1
        self._calls[worker.actor.score.remote(part, last)] = (worker, part)

    def drop(self, worker: Worker) -> bool:
        """End an actor; what it had under way is settled as a death. False where that was done before."""
        if worker not in self.workers:
            return False
        self.workers.remove(worker)
        ray.kill(worker.actor, no_restart=True)
        return True

    def settled(self, timeout_s: float) -> Iterator[Settled]:
        """What has come of calls, waiting for the first so long at most."""
        ended, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout_s) if self._calls else ([], [])
        for call in ended:
            worker, part = self._calls.pop(call)
            worker.parts -= part is not None
            outcome = _outcome(call)
            if isinstance(outcome, str):
                worker.provider = outcome
            yield Settled(worker, part, outcome)


def _outcome(call: Any) -> Any:
    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:  # a fault of the code or of its installation on that node
        return Failed(Fault.MODEL, str(error).strip().splitlines()[-1])
    except ray.exceptions.RayError as error:  # the actor, its node or its memory is gone
        return Failed(Fault.DEATH, _first_line(error))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
