"""What the processes that torchrun started for one training agree on: before its steps, and once it has ended.

Knows torch.distributed. Knows no run, no pictures and no network. A process that was started alone, or by Lightning,
which starts the others when the first has come as far as the steps, agrees with itself at once.

On several machines nothing need be shared but the network: what the first process has decided or read, the others get
from it. One that cannot go on tells the others before it ends, so that none waits for it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from training.fit.processes import this_process

T = TypeVar("T")
_talks: list[Any] = []  # the one of `joined`, beside that of the steps

#: How long a step waits for a process that neither answers nor ends; the death of one is noticed at once.
STEP = timedelta(minutes=10)
#: The same while pictures are decoded, which may take one machine hours longer than another.
PREPARATION = timedelta(days=1)


class Lost(ConnectionError):
    """Another process has died, or hangs."""


class GaveUp(ValueError):
    """Another process could not go on; it says why itself."""


@contextmanager
def joined() -> Iterator[None]:
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
            raise Lost("another process is gone; the same command goes on from the last checkpoint") from error
        raise
    _talks.pop()
    dist.destroy_process_group()  # not after an error: others may hang in what it waits for


def gpus() -> int:
    """Of this machine."""
    return torch.cuda.device_count()


def agreed(decide: Callable[[], T]) -> T:
    """What the first process makes of it, in all of them.

    Raises:
        GaveUp: the first could not.
    """
    if not _talks:
        return decide()
    if this_process().rank:
        told = _broadcast(None)
        if told is None:
            raise GaveUp("the first process gave up, and says why")
        decided: T = told[0]
        return decided
    try:
        decided = decide()
    except Exception:
        _broadcast(None)
        raise
    _broadcast((decided,))
    return decided


def each(do: Callable[[], T]) -> T:
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
        raise GaveUp("another process gave up, and says why")
    return done


def first_here(do: Callable[[], T]) -> T:
    """The same, the first process of every machine before the others: what it leaves on the disk, they find."""
    this = this_process()
    if this.here == 1:
        return each(do)
    done = each(do if this.local_rank == 0 else lambda: None)
    then = each(do if this.local_rank > 0 else lambda: None)
    result = then if done is None else done
    assert result is not None, "one of the two was done"
    return result


def check_alike(found: str, what: str) -> None:
    """Hold what each has found against the others.

    Raises:
        ValueError: they have not found the same; in all of them.
    """
    if len(set(_gather(found))) > 1:
        raise ValueError(f"{what} differ between the machines")


def settle() -> None:
    """Wait until all have come this far."""
    _gather(True)


def of_all(own: Tensor) -> Tensor:
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
