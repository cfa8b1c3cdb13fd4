"""A well-behaved client in a separate process, `python -m stress.clients.neighbour HOST PORT`.

It sends one picture after the other on a keep-alive connection and prints a line for each: send time, seconds until
the answer, status. It stops when its standard input is closed.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from subprocess import PIPE, Popen
from threading import Thread

import numpy as np
import typer

from stress.clients.pictures import picture
from stress.clients.wire import Cut, connect, post
from stress.processes.process import Process
from stress.results import Table

PAUSE_S = 0.02
REQUEST = post("/classify?maps=none", "image/jpeg", picture(5, "JPEG", 200, 200))


#: situation → when it was so, from and to, on time.monotonic
Windows = dict[str, list[tuple[float, float]]]


@dataclass(slots=True)
class Neighbour:
    """Observations so far: (sent, seconds, status); times on time.monotonic, which processes share."""

    seen: list[tuple[float, float, int]] = field(default_factory=list)

    def within(self, windows: Sequence[tuple[float, float]]) -> list[float]:
        """Seconds of the answers to what was sent within them."""
        return [took_s for sent_s, took_s, _ in self.seen if any(begin <= sent_s < end for begin, end in windows)]

    def faults(self) -> list[str]:
        others = sorted({status for _, _, status in self.seen} - {200})
        return [f"the well-behaved client was answered {status or 'nothing'}" for status in others]


@contextmanager
def neighbour(process: Process) -> Iterator[Neighbour]:
    """Run the client in the background and collect its observations."""
    beside = Neighbour()
    command = [sys.executable, "-m", "stress.clients.neighbour", process.host, str(process.port)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as popen:
        assert popen.stdin is not None and popen.stdout is not None
        lines = popen.stdout

        def read() -> None:
            for line in lines:
                sent_s, took_s, status = json.loads(line)
                beside.seen.append((sent_s, took_s, status))

        reader = Thread(target=read, daemon=True)
        reader.start()
        try:
            yield beside
        finally:
            popen.stdin.close()
            reader.join()


def p99(seconds: list[float]) -> float:
    return _percentile(seconds, 99)


def _percentile(seconds: list[float], percent: float) -> float:
    """A percentile; NaN without answers, as in a short phase on a busy machine."""
    return float(np.percentile(seconds, percent)) if seconds else float("nan")


def table(seen: Mapping[str, list[float]], to: str) -> Table:
    """Times in each phase, compared with those of one phase."""
    rows = [
        [
            situation,
            str(len(seconds)),
            f"{1000 * _percentile(seconds, 50):.0f}",
            f"{1000 * p99(seconds):.0f}",
            f"{p99(seconds) / p99(seen[to]):.1f}",
        ]
        for situation, seconds in seen.items()
    ]
    return Table(["well-behaved client", "answers", "median, ms", "p99, ms", f"p99 to {to}"], rows)


def main(host: str, port: int) -> None:
    """Send until standard input is closed."""
    asyncio.run(_send(host, port))


async def _send(host: str, port: int) -> None:
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    connection = await connect((host, port))
    while not over.done():
        sent_s, status = time.monotonic(), 0
        try:
            await connection.send(REQUEST)
            status = (await connection.answer()).status
        except (Cut, ConnectionError):
            connection.close()
            connection = await connect((host, port))
        sys.stdout.write(json.dumps([sent_s, time.monotonic() - sent_s, status]) + "\n")
        sys.stdout.flush()
        await asyncio.sleep(PAUSE_S)
    connection.close()


if __name__ == "__main__":
    typer.run(main)
