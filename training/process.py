"""This process among those of one training, as torchrun or Lightning set it in the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Process:
    """Rank of this process, as torchrun or Lightning set it in the environment."""

    rank: int = 0  # among all processes; only rank 0 writes to the run folder and prints
    world: int = 1
    local_rank: int = 0  # on this machine; local rank 0 decodes the pictures
    local_world: int = 1
    nodes: int = 1
    torchrun: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Read the environment. Lightning sets LOCAL_RANK alone, on a single machine."""
        local = int(environment.get("LOCAL_RANK", "0"))
        if "TORCHELASTIC_RUN_ID" not in environment:
            return cls(rank=local, local_rank=local)
        return cls(
            rank=int(environment["RANK"]),
            world=int(environment["WORLD_SIZE"]),
            local_rank=local,
            local_world=int(environment["LOCAL_WORLD_SIZE"]),
            nodes=int(environment["GROUP_WORLD_SIZE"]),
            torchrun=True,
        )

    def devices(self, requested: int | None, gpus: int) -> int:
        """Number of processes on this machine.

        Args:
            requested: value of --devices; None: not given.
            gpus: GPUs of this machine; 0: train on the CPU.

        Raises:
            ValueError: --devices, torchrun and the GPUs contradict each other.
        """
        devices = self.local_world if self.torchrun else requested or 1
        if requested not in (None, devices):
            advice = f"omit --devices, or start torchrun --nproc-per-node {requested}"
            raise ValueError(f"--devices {requested}, but torchrun started {devices} on this machine; {advice}")
        if self.world != self.nodes * self.local_world:
            uneven = f"{self.local_world} on this machine, {self.world} on {self.nodes}"
            raise ValueError(f"torchrun started {uneven}; give every machine the same --nproc-per-node")
        if gpus and devices > gpus:
            raise ValueError(f"{devices} processes need one GPU each, this machine has {gpus}")
        return devices


def this_process() -> Process:
    """This process; constant for its lifetime."""
    return Process.of(os.environ)
