"""marrowlens-train as a process of its own, that can be killed: forked from a server that has imported torch once."""

import multiprocessing
import os
import resource
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from pauses import pause_when_asked

_FORKS = multiprocessing.get_context("forkserver")
# Not training.terminal nor what imports it: a process learns there, from its environment, which of several it is.
_FORKS.set_forkserver_preload(
    [
        "training.fit.train",
        "training.evaluation.evaluate",
        "training.export.export",
        "training.compare.baselines",
        "training.compare.plots",
    ]
)


def start(*arguments: str | Path, log: Path, **environment: str) -> BaseProcess:
    """Start a command; what it says on either stream goes to `log`."""
    process = _FORKS.Process(target=_run, args=([str(a) for a in arguments], log, environment), daemon=True)
    process.start()
    return process


def run(*arguments: str | Path, log: Path, **environment: str) -> int:
    """The exit code of a command."""
    process = start(*arguments, log=log, **environment)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def run_within_memory(more: int, *arguments: str | Path, log: Path) -> int:
    """The exit code of a command whose address space may grow by so many bytes."""
    process = _FORKS.Process(target=_run, args=([str(a) for a in arguments], log, {}, more), daemon=True)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run(arguments: list[str], log: Path, environment: dict[str, str], more: int | None = None) -> None:
    os.environ |= environment
    sys.argv = ["marrowlens-train", *arguments]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    import torch

    from training.cli import app

    pause_when_asked()
    if more is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.set_num_threads(1)  # of small networks one thread makes more than several, and no test waits for a busy core
    app()
