"""Discrete-event simulation of the front end of one machine: workers, cores, and one device for the session.

A picture needs its worker's event loop and a core, then a core to decode, then the device. Each client sends its next
picture after an answer. Times of loop and decoding are exponential, those of the session constant.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random

#: Clients of each worker: enough that its event loop always has work.
CLIENTS = 32


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one picture."""

    loop_s: float
    decode_s: float
    session_s: float


@dataclass(slots=True)
class _Resource:
    """A number of equal servers with one queue."""

    free: int
    waiting: deque[Callable[[], None]] = field(default_factory=deque)

    def take(self, then: Callable[[], None]) -> None:
        """Call `then` once a server is free; it holds the server until `give`."""
        if self.free:
            self.free -= 1
            then()
        else:
            self.waiting.append(then)

    def give(self) -> None:
        """Free a server, or hand it to the next that waits."""
        if self.waiting:
            self.waiting.popleft()()
        else:
            self.free += 1


class _Machine:
    def __init__(self, costs: Costs, workers: int, cores: int) -> None:
        self.costs = costs
        self.now_s, self.done = 0.0, 0
        self._random = Random(0)
        self._events: list[tuple[float, int, Callable[[], None]]] = []  # the number makes each unique
        self._numbers = count()
        self._cores, self._device = _Resource(cores), _Resource(1)
        self._loops = [_Resource(1) for _ in range(workers)]

    def run(self, pictures: int) -> None:
        """Answer so many pictures."""
        for loop in self._loops:
            for _ in range(CLIENTS):
                self._send(loop)
        while self.done < pictures:
            self.now_s, _, action = heapq.heappop(self._events)
            action()

    def _after(self, pause_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + pause_s, next(self._numbers), action))

    def _send(self, loop: _Resource) -> None:
        loop.take(lambda: self._compute(self.costs.loop_s, lambda: self._read(loop)))

    def _compute(self, mean_s: float, then: Callable[[], None]) -> None:
        """Call `then` after a time on a core, which it must give back."""
        self._cores.take(lambda: self._after(self._random.expovariate(1 / mean_s), then))

    def _read(self, loop: _Resource) -> None:
        self._cores.give()
        loop.give()
        self._compute(self.costs.decode_s, lambda: self._decoded(loop))

    def _decoded(self, loop: _Resource) -> None:
        self._cores.give()
        self._device.take(lambda: self._after(self.costs.session_s, lambda: self._answered(loop)))

    def _answered(self, loop: _Resource) -> None:
        self._device.give()
        self.done += 1
        self._send(loop)


def pictures_per_s(costs: Costs, *, workers: int, cores: int, pictures: int = 20_000) -> float:
    """Pictures a second of so many workers on so many cores."""
    machine = _Machine(costs, workers, cores)
    machine.run(pictures)
    return machine.done / machine.now_s
