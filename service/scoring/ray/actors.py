"""The actors that score parts, and the Ray cluster they run on. The only module that imports Ray."""

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
from service.scoring.ray.options import ClusterOptions, check_reachable, ray_folder
from service.scoring.ray.plan import Plan
from service.scoring.ray.worker import FailureKind, PartScorer, ScoredPart, TaskFailure
from service.scoring.tables import ScoringError

#: Parts that one actor has at a time: its batches are filled from the next part while one ends.
PARTS_PER_ACTOR = 2
_OBJECT_STORE_BYTES = 128 << 20  # holds the model; pictures do not pass through Ray
_START_ATTEMPTS = 3  # Ray gives its processes a few seconds to start, too few on a busy machine


@dataclass(frozen=True, slots=True)
class ActorConfig:
    """What every actor needs: plan, model and inference options, but no keys, tokens or laboratory settings."""

    plan: str
    out: str
    options: InferenceOptions
    model: str
    graph: bytes
    manifest: bytes


def actor_config(
    plan: Plan, out: str, name: str, graph: bytes, manifest: Manifest, settings: Settings, cpus: int
) -> ActorConfig:
    """The configuration of actors for a model that was read and verified here.

    Args:
        cpus: number of threads, unless the settings have one.
    """
    options = InferenceOptions.from_settings(settings, cpus=cpus)
    return ActorConfig(plan.model_dump_json(), out, options, name, graph, manifest_text(manifest).encode())


class ScoringActor:
    """The actor. Failures are returned, not raised: Ray would log them."""

    def __init__(self, config: ActorConfig) -> None:
        self._config = config
        self._scorer: PartScorer | None = None

    async def start(self) -> str | TaskFailure:
        """Open the session; returns its execution provider, or the failure."""
        try:
            session = await MODEL.run(_open_session, self._config)
            plan = Plan.model_validate_json(self._config.plan)
            self._scorer = PartScorer(plan, self._config.out, session, self._config.options)
            await self._scorer.start()
        except (ArtefactError, ProviderUnavailable) as error:
            return TaskFailure(FailureKind.MODEL, str(error))
        except (ScoringError, OSError) as error:
            return TaskFailure(FailureKind.STORE, str(error))
        return session.provider

    async def score(self, part: int, last: bool) -> ScoredPart | TaskFailure:
        """Score one part; see `PartScorer.score`."""
        assert self._scorer is not None, "start() must succeed first"
        return await self._scorer.score(part, last=last)


def _open_session(config: ActorConfig) -> OnnxSession:
    with tempfile.TemporaryDirectory(prefix="marrowlens-") as folder:
        artefact = Path(folder, config.model)
        artefact.write_bytes(config.graph)
        artefact.with_suffix(".json").write_bytes(config.manifest)
        return config.options.open_session(artefact)


@contextmanager
def ray_cluster(cluster: ClusterOptions) -> Iterator[None]:
    """Connect to a running cluster for the block, or start one on this machine and stop it afterwards.

    Raises:
        ScoringError: the cluster does not answer or has another version of Ray, or none can be started.
    """
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    with nullcontext() if address else _own_folder():
        if address:
            check_reachable(address)
            _init(f"cannot connect to Ray at {address}", 1, address=address)
        else:
            cpus = max(cpu_budget(), cluster.cpus or 1)
            local: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False}
            _init(
                "cannot start Ray", _START_ATTEMPTS, address="local", object_store_memory=_OBJECT_STORE_BYTES, **local
            )
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _own_folder() -> Iterator[None]:
    """For the block, set RAY_TMPDIR to a folder of this run."""
    before = os.environ.get("RAY_TMPDIR")
    with ray_folder() as folder:
        os.environ["RAY_TMPDIR"] = str(folder)
        try:
            yield
        finally:
            os.environ.pop("RAY_TMPDIR")
            if before is not None:
                os.environ["RAY_TMPDIR"] = before


def _init(failure: str, attempts: int, **options: Any) -> None:
    for attempt in range(attempts):
        try:
            ray.init(log_to_driver=False, configure_logging=False, **options)
            return
        except Exception as error:  # ray.init raises many kinds, also Exception itself
            ray.shutdown()
            if attempt + 1 == attempts:
                raise ScoringError(f"{failure}: {_first_line(error)}") from error


@dataclass(frozen=True, slots=True)
class ActorResources:
    """CPUs and GPUs that Ray reserves for one actor."""

    cpus: int
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def actor_resources(cluster: ClusterOptions, settings: Settings) -> ActorResources:
    """The configured resources; by default one GPU with its share of the CPUs, or one CPU if there is no GPU to use."""
    nodes = _nodes()
    no_gpu = settings.provider in ("cpu", "openvino")
    gpu_nodes = [node for node in nodes if node.get("GPU", 0) >= 1 and not no_gpu]
    gpus = cluster.gpus if cluster.gpus is not None else float(bool(gpu_nodes))
    if cluster.cpus or not (gpus and gpu_nodes):
        return ActorResources(cluster.cpus or 1, gpus)
    shares = [node.get("CPU", 1) / node["GPU"] * gpus for node in gpu_nodes]
    return ActorResources(max(1, int(min(shares))), gpus)


def cluster_capacity(resources: ActorResources) -> int:
    """Number of such actors that the live nodes can hold if they run nothing else."""
    cpus, gpus = resources.cpus, resources.gpus
    return sum(
        int(min(node.get("CPU", 0) / cpus, node.get("GPU", 0) / gpus if gpus else float("inf"))) for node in _nodes()
    )


def _nodes() -> list[dict[str, float]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


@dataclass(slots=True, eq=False)
class ActorHandle:
    """One actor. `provider` is empty until it has started; `parts` counts the parts that it has now."""

    actor: Any
    provider: str = ""
    parts: int = 0


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The outcome of one call: of a part, or of a start, where `part` is None."""

    actor: ActorHandle
    part: int | None
    outcome: ScoredPart | TaskFailure | str


class ActorPool:
    """The actors of a run. A context manager: kills them at its end."""

    def __init__(self, config: ActorConfig, resources: ActorResources) -> None:
        self.resources = resources
        self.actors: list[ActorHandle] = []
        self._config = ray.put(config)
        limits: dict[str, Any] = {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "max_restarts": 0,
            "max_concurrency": PARTS_PER_ACTOR + 1,
        }
        self._actor_class = ray.remote(**limits)(ScoringActor)
        self._calls: dict[Any, tuple[ActorHandle, int | None]] = {}

    def __enter__(self) -> "ActorPool":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in list(self.actors):
            self.kill(actor)

    def least_busy(self) -> ActorHandle | None:
        """The started actor with the fewest parts; None if all have `PARTS_PER_ACTOR`."""
        free = [actor for actor in self.actors if actor.provider and actor.parts < PARTS_PER_ACTOR]
        return min(free, key=lambda actor: actor.parts, default=None)

    def add_actor(self) -> None:
        """Request one more actor; Ray starts it when a node has room."""
        actor = ActorHandle(self._actor_class.remote(self._config))
        self.actors.append(actor)
        self._calls[actor.actor.start.remote()] = (actor, None)

    def submit(self, actor: ActorHandle, part: int, *, last: bool) -> None:
        """Let an actor score a part."""
        actor.parts += 1
        self._calls[actor.actor.score.remote(part, last)] = (actor, part)

    def kill(self, actor: ActorHandle) -> bool:
        """Kill an actor; its parts then fail with ACTOR_DIED. Returns False if it was killed before."""
        if actor not in self.actors:
            return False
        self.actors.remove(actor)
        ray.kill(actor.actor, no_restart=True)
        return True

    def results(self, timeout_s: float) -> Iterator[TaskResult]:
        """The results of calls that have ended; waits up to `timeout_s` for the first."""
        ended, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout_s) if self._calls else ([], [])
        for call in ended:
            actor, part = self._calls.pop(call)
            actor.parts -= part is not None
            outcome = _outcome(call)
            if isinstance(outcome, str):
                actor.provider = outcome
            yield TaskResult(actor, part, outcome)


def _outcome(call: Any) -> Any:
    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:  # a bug, or a faulty installation on that node
        return TaskFailure(FailureKind.MODEL, str(error).strip().splitlines()[-1])
    except ray.exceptions.RayError as error:  # the actor, its node or its memory is lost
        return TaskFailure(FailureKind.ACTOR_DIED, _first_line(error))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
