"""How evenly processes share the connections to one port: python -m bench.timings.accept_fairness [--connections 32]

Compares SO_REUSEPORT with one inherited listening socket: from which each process accepts all connections that wait, or
one at a time, or only if it has the fewest (as the service does). Every connection stays open until all are.
"""

import argparse
import asyncio
import multiprocessing
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import uvloop

HOST = "127.0.0.1"
METHODS = ("SO_REUSEPORT", "inherited, all that wait", "inherited, one at a time", "inherited, the fewest first")
#: Time in s for which a process leaves a connection to those with fewer; service.server.connections has the same.
YIELD_S = 0.005
BACKLOG = 2048


def bound(port: int, *, reuse: bool) -> socket.socket:
    """A bound socket that does not listen yet."""
    found = socket.socket()
    if reuse:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind((HOST, port))
    return found


def serve(index: int, method: str, shared: socket.socket, counts: Any, listening: Any) -> None:
    """Accept connections for ever, and send each the index of this process."""
    reuse = method == METHODS[0]
    own = bound(shared.getsockname()[1], reuse=True) if reuse else shared
    own.setblocking(False)

    async def accept() -> None:
        own.listen(BACKLOG)
        listening.release()
        loop = asyncio.get_running_loop()
        loop.add_reader(own, _acceptor(index, method, own, counts, loop))
        await asyncio.Event().wait()

    uvloop.run(accept())


def _acceptor(
    index: int, method: str, own: socket.socket, counts: Any, loop: asyncio.AbstractEventLoop
) -> Callable[[], None]:
    most = 1 if method in METHODS[2:] else 100
    kept: list[socket.socket] = []

    def accept() -> None:
        for _ in range(most):
            try:
                accepted, _ = own.accept()
            except BlockingIOError:
                return
            counts[index] += 1
            accepted.send(bytes([index]))
            kept.append(accepted)

    def accept_later() -> None:
        loop.add_reader(own, ready)
        accept()

    def ready() -> None:
        if method == METHODS[3] and counts[index] > min(counts):
            loop.remove_reader(own)
            loop.call_later(YIELD_S, accept_later)
        else:
            accept()

    return ready


async def shares(port: int, connections: int, processes: int) -> list[int]:
    """Connections of each process, the fewest first, when all connect at once."""
    writers = []

    async def connect() -> int:
        reader, writer = await asyncio.open_connection(HOST, port)
        writers.append(writer)
        return (await reader.readexactly(1))[0]

    found = Counter(await asyncio.gather(*(connect() for _ in range(connections))))
    for writer in writers:
        writer.close()
    return sorted(found[index] for index in range(processes))


def measured(method: str, processes: int, connections: int) -> list[int]:
    """The shares of freshly started processes."""
    context = multiprocessing.get_context("fork")
    counts, listening = context.Array("q", processes, lock=False), context.Semaphore(0)
    with bound(0, reuse=method == METHODS[0]) as shared:
        started = [
            context.Process(target=serve, args=(index, method, shared, counts, listening), daemon=True)
            for index in range(processes)
        ]
        for process in started:
            process.start()
        for _ in started:
            listening.acquire()
        found = asyncio.run(shares(shared.getsockname()[1], connections, processes))
        for process in started:
            process.kill()
            process.join()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the shares of every method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    print(f"{options.connections} connections, {os.cpu_count()} CPUs")  # noqa: T201
    for processes in (2, 4):
        for method in METHODS:
            rounds = [measured(method, processes, options.connections) for _ in range(options.rounds)]
            print(f"{processes} processes, {method}: {', '.join(' + '.join(map(str, each)) for each in rounds)}")  # noqa: T201


if __name__ == "__main__":
    main()
