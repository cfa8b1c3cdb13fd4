"""A training that pauses at an exact moment, so that a test need not be faster than the training that it interrupts.

The process stops itself with SIGSTOP when it is about to put a file in its place for the nth time. Files are renamed
to their place (model.atomic_file), and Python reports every rename to audit hooks.
`python -m pauses` is marrowlens-train with such a pause.
"""

import itertools
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

MOMENT = "PAUSE_BEFORE"


def moment(path: Path, time: int = 1) -> dict[str, str]:
    """The environment in which a training pauses before it puts `path` in its place for the nth time."""
    return {MOMENT: f"{time}:{path}"}


def pause_when_asked() -> None:
    """Let this process pause as its environment says."""
    if MOMENT not in os.environ:
        return
    time, _, path = os.environ[MOMENT].partition(":")
    times = itertools.count(1)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and str(arguments[1]) == path and next(times) == int(time):
            os.kill(os.getpid(), signal.SIGSTOP)

    sys.addaudithook(hook)


@contextmanager
def paused(process: BaseProcess) -> Iterator[int]:
    """Wait until a process has paused, which must not end before; gives its pid. It goes on after the block."""
    assert process.pid is not None
    try:
        while not is_paused(process.pid):
            process.join(0.005)
            assert process.is_alive(), "it ended before it could pause"
        yield process.pid
    finally:
        go_on(process.pid)


def is_paused(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        return False


def go_on(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    from training.cli import app

    pause_when_asked()
    app()
