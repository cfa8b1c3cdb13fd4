"""Coordination of the processes of one training outside its steps: rank, agreement on decisions, shared failures.

`torchrun` starts all processes at once; they agree through a gloo process group. Lightning starts the processes of
`--devices` only when training begins; before that the first process runs alone, and every function here returns at
once. Machines need to share only the network: the others receive what rank 0 decided or read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from training.process import this_process

T = TypeVar("T")
_groups: list[Any] = []  # the gloo group of `process_group`, apart from the group of the steps

#: Timeout of a collective operation within a step; a dead process is noticed at once.
STEP_TIMEOUT = timedelta(minutes=10)
#: Timeout while pictures are decoded, where one machine may take hours longer than another.
PREPARATION_TIMEOUT = timedelta(days=1)


class ProcessLost(ConnectionError):
    """Another process has died or no longer answers."""


class ProcessFailed(ValueError):
    """Another process failed; it reports the error itself."""


@contextmanager
def process_group() -> Iterator[None]:
    """Connect to the other processes of torchrun, if there are any.

    Raises:
        ProcessLost: one of them died.
    """
    this = this_process()
    if not this.torchrun or this.world == 1:
        yield
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=STEP_TIMEOUT)
        _groups.append(dist.new_group(backend="gloo", timeout=PREPARATION_TIMEOUT))
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():  # gloo raises bare RuntimeErrors
            raise ProcessLost("another process died; run the same command to resume from the checkpoint") from error
        raise
    _groups.pop()
    dist.destroy_process_group()  # skipped after an error: others may block in a collective operation


def on_rank_zero(decide: Callable[[], T]) -> T:
    """Call a function on rank 0 and return its result on every rank.

    Raises:
        ProcessFailed: it raised on rank 0.
    """
    if not _groups:
        return decide()
    if this_process().rank:
        received = _broadcast(None)
        if received is None:
            raise ProcessFailed("rank 0 failed; see its error")
        result: T = received[0]
        return result
    try:
        result = decide()
    except Exception:
        _broadcast(None)
        raise
    _broadcast((result,))
    return result


def on_all_ranks(do: Callable[[], T]) -> T:
    """Call a function on every rank, wait for all of them, and return this rank's result.

    Raises:
        ProcessFailed: it raised on another rank.
    """
    try:
        result = do()
    except Exception:
        _gather(False)
        raise
    if not all(_gather(True)):
        raise ProcessFailed("another process failed; see its error")
    return result


def local_rank_zero_first(do: Callable[[], T]) -> T:
    """As `on_all_ranks`, but local rank 0 of each machine runs first, so that the others find its cache files."""
    this = this_process()
    if this.local_world == 1:
        return on_all_ranks(do)
    first = on_all_ranks(do if this.local_rank == 0 else lambda: None)
    then = on_all_ranks(do if this.local_rank > 0 else lambda: None)
    result = then if first is None else first
    assert result is not None, "every process runs exactly once"
    return result


def check_identical(value: str, what: str) -> None:
    """Compare a value over all processes.

    Raises:
        ValueError: it differs; raised on every rank.
    """
    if len(set(_gather(value))) > 1:
        raise ValueError(f"{what} differ between the machines")


def barrier() -> None:
    """Wait until every process gets here."""
    _gather(True)


def all_gather(own: Tensor) -> Tensor:
    """One tensor of each rank, (ranks, ...); also among processes that Lightning started."""
    if not dist.is_available() or not dist.is_initialized():
        return own[None]
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return torch.stack(found)


def _broadcast(value: tuple[Any] | None) -> tuple[Any] | None:
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_groups[-1])
    return box[0]


def _gather(value: T) -> list[T]:
    if not _groups:
        return [value]
    box: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(box, value, group=_groups[-1])
    return box
