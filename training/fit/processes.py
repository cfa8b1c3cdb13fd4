"""Which of the processes of one training this is, told from the environment that torchrun or Lightning gives it.

Knows environment variables and numbers. Knows no torch: what the processes say to each other stands in together.py.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Process:
    """One of `world` processes on `nodes` machines, of which `here` are on this one."""

    rank: int = 0  # among all; the first alone writes to the run's folder, and speaks
    world: int = 1
    local_rank: int = 0  # among those of this machine; the first of them decodes the pictures
    here: int = 1
    nodes: int = 1
    torchrun: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """What the environment says. Lightning starts the others of `--devices` on this machine, and late: `rank` is
        all that is told of them."""
        local = int(environment.get("LOCAL_RANK", "0"))
        if "TORCHELASTIC_RUN_ID" not in environment:
            return cls(rank=local, local_rank=local)
        return cls(
            rank=int(environment["RANK"]),
            world=int(environment["WORLD_SIZE"]),
            local_rank=local,
            here=int(environment["LOCAL_WORLD_SIZE"]),
            nodes=int(environment["GROUP_WORLD_SIZE"]),
            torchrun=True,
        )

    def devices(self, asked: int | None, gpus: int) -> int:
        """Processes on this machine.

        Args:
            asked: what --devices says; None: nothing.
            gpus: of this machine; 0: it computes on its CPU.

        Raises:
            ValueError: what was asked for, what torchrun has started and what there is do not agree.
        """
        devices = self.here if self.torchrun else asked or 1
        if asked not in (None, devices):
            mend = f"leave --devices out, or start torchrun --nproc-per-node {asked}"
            raise ValueError(f"--devices {asked}, where torchrun has started {devices} on this machine: {mend}")
        if self.world != self.nodes * self.here:
            uneven = f"{self.here} on this machine, {self.world} on {self.nodes}"
            raise ValueError(f"torchrun has started {uneven}: give every machine the same --nproc-per-node")
        if gpus and devices > gpus:
            raise ValueError(f"{devices} processes share every batch, one a GPU, and this machine has {gpus}")
        return devices


def this_process() -> Process:
    """This one, which stays the same for as long as it lives."""
    return Process.of(os.environ)
