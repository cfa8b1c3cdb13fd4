"""The benchmark plan: models, servers, workloads, rounds and durations."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bench.peers.names import MAX_QUEUE_SIZE

NETWORK, FEATHERWEIGHT = "network", "one-operator"
MODELS = (NETWORK, FEATHERWEIGHT)
BATCHES = (1, 2, 4, 8, 16, 32)
#: Pictures in one request of the workload `batch`, and requests at a time where a server has no such route.
REQUEST_PICTURES = 64


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of load."""

    name: str
    title: str
    kind: Literal["closed", "open", "batch"]
    clients: int = 0  # of a closed loop
    load: float = 0.0  # of an open loop: share of the capacity of the same server
    cut: bool = False  # whether the load ends without waiting for what is still open


SATURATED = "thirty-two"
WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("one", "1 client", "closed", clients=1),
        Workload("eight", "8 clients", "closed", clients=8),
        Workload(SATURATED, "32 clients", "closed", clients=32),
        Workload("open50", "open loop, 50 % of capacity", "open", load=0.5),
        Workload("open80", "open loop, 80 % of capacity", "open", load=0.8),
        Workload("batch", f"{REQUEST_PICTURES} pictures a request", "batch", clients=1),
        Workload("overload", "overload, 3 times the capacity", "open", load=3.0, cut=True),
    )
}
#: What is measured with each model where nothing is named.
USUAL = {NETWORK: tuple(WORKLOADS), FEATHERWEIGHT: ("one", SATURATED, "batch", "overload")}


class Plan(BaseModel):
    """One run of the bench."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...] = MODELS
    servers: tuple[str, ...]
    engines: tuple[str, ...]
    workloads: tuple[str, ...] = ()  # of every model; none: the usual ones of each
    rounds: int = 3
    seconds: float = 5.0  # of one cell
    engine_seconds: float = 0.4  # of one timing of an engine
    warm_s: float = 0.5  # before each cell
    first_warm_s: float = 2.0  # after a server's start
    deadline_s: float = 5.0  # later answers count as missed
    connections: int = 1024  # of an open loop, at most
    batches: tuple[int, ...] = BATCHES

    def shortened(self) -> "Plan":
        """The same plan as a smoke test."""
        return self.model_copy(
            update={"rounds": 1, "seconds": 0.5, "engine_seconds": 0.02, "warm_s": 0.1, "first_warm_s": 0.2}
        )

    def workloads_of(self, model: str) -> list[Workload]:
        """Workloads in measuring order: those that need the capacity after the one that measures it."""
        names = self.workloads or USUAL[model]
        needed = {SATURATED} if any(WORKLOADS[name].kind == "open" for name in names) else set()
        return [workload for name, workload in WORKLOADS.items() if name in names or name in needed]

    def window_s(self, workload: Workload, capacity_per_s: float) -> tuple[float, float]:
        """Start and end of the measured window, in seconds from the start of an open loop.

        Three times the capacity fills a queue in half the time that it takes to drain; what is admitted last then waits
        for all of it. What is answered from then on has met an overload as it stays.
        """
        if not workload.cut:
            return self.warm_s, self.warm_s + self.seconds
        settled_s = 1.5 * MAX_QUEUE_SIZE / capacity_per_s
        start = min(max(0.2 * self.seconds, settled_s), 2 * self.seconds)
        return start, start + self.seconds


def check_names(workloads: Sequence[str], models: Sequence[str]) -> None:
    """Raise if a name is unknown.

    Raises:
        ValueError: one is not.
    """
    for names, known in ((workloads, tuple(WORKLOADS)), (models, MODELS)):
        unknown = set(names) - set(known)
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")


class Setting(BaseModel):
    """Conditions that must be equal for measurements in one table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    commit: str
    processor: str
    server_cores: tuple[int, ...]
    client_cores: tuple[int, ...]
    artefact_sha256: str
    pictures: str  # in words
    pictures_sha256: str
    seconds: float
    deadline_s: float
    isolated: bool  # whether each server ran in an environment of its own

    @property
    def key(self) -> str:
        """Folder name for these measurements."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]
