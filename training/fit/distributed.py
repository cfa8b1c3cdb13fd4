"""What the processes that torchrun started for one training agree on: before its steps, and once it has ended.

Knows torch.distributed. Knows no run, no pictures and no network. A process that was started alone, or by Lightning,
which starts the others when the first has come as far as the steps, agrees with itself at once.

On several machines nothing need be shared but the network: what the first process has decided or read, the others get
from it. One that cannot go on tells the others before it ends, so that none waits for it.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
_talks: list[Any] = []  # the one of `joined`, beside that of the steps

#: How long a step waits for a process that neither answers nor ends; the death of one is noticed at once.
STEP = timedelta(minutes=10)
#: The same while pictures are decoded, which may take one machine hours longer than another.
PREPARATION = timedelta(days=1)


class ProcessLost(ConnectionError):
    """Another process has died, or hangs."""


class ProcessFailed(ValueError):
    """Another process could not go on; it says why itself."""


@contextmanager
def process_group() -> Iterator[None]:
    """Be connected to the others that torchrun has started, if there are any.

    Raises:
        Lost: one of them has died meanwhile.
    """
    this = this_process()
    if not this.torchrun or this.world == 1:
        yield
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=STEP)
        _talks.append(dist.new_group(backend="gloo", timeout=PREPARATION))
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():  # which has no class of its own
            raise ProcessLost("another process is gone; the same command goes on from the last checkpoint") from error
        raise
    _talks.pop()
    dist.destroy_process_group()  # not after an error: others may hang in what it waits for


def gpus() -> int:
    """Of this machine."""
    return torch.cuda.device_count()


def on_rank_zero(decide: Callable[[], T]) -> T:
    """What the first process makes of it, in all of them.

    Raises:
        GaveUp: the first could not.
    """
    if not _talks:
        return decide()
    if this_process().rank:
        told = _broadcast(None)
        if told is None:
            raise ProcessFailed("the first process gave up, and says why")
        decided: T = told[0]
        return decided
    try:
        decided = decide()
    except Exception:
        _broadcast(None)
        raise
    _broadcast((decided,))
    return decided


def on_all_ranks(do: Callable[[], T]) -> T:
    """What this process makes of it, once all have done it.

    Raises:
        GaveUp: another could not.
    """
    try:
        done = do()
    except Exception:
        _gather(False)
        raise
    if not all(_gather(True)):
        raise ProcessFailed("another process gave up, and says why")
    return done


def local_rank_zero_first(do: Callable[[], T]) -> T:
    """The same, the first process of every machine before the others: what it leaves on the disk, they find."""
    this = this_process()
    if this.here == 1:
        return on_all_ranks(do)
    done = on_all_ranks(do if this.local_rank == 0 else lambda: None)
    then = on_all_ranks(do if this.local_rank > 0 else lambda: None)
    result = then if done is None else done
    assert result is not None, "one of the two was done"
    return result


def check_identical(found: str, what: str) -> None:
    """Hold what each has found against the others.

    Raises:
        ValueError: they have not found the same; in all of them.
    """
    if len(set(_gather(found))) > 1:
        raise ValueError(f"{what} differ between the machines")


def barrier() -> None:
    """Wait until all have come this far."""
    _gather(True)


def all_gather(own: Tensor) -> Tensor:
    """The tensors of all processes of the steps, (processes, ...), also of those that Lightning has started."""
    if not dist.is_available() or not dist.is_initialized():
        return own[None]
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return torch.stack(found)


def _broadcast(told: tuple[Any] | None) -> tuple[Any] | None:
    box = [told]
    dist.broadcast_object_list(box, src=0, group=_talks[-1])
    return box[0]


def _gather(told: T) -> list[T]:
    if not _talks:
        return [told]
    box: list[T] = [told] * dist.get_world_size()
    dist.all_gather_object(box, told, group=_talks[-1])
    return box


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
