"""Medians and ratios of the measurements.

A ratio is taken within a round, then its median over the rounds, because machine speed varies over time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.engines.names import AS_SERVED
from bench.plan.cells import Cell, Ledger
from bench.plan.plan import NETWORK
from bench.plan.servers import CEILING, OURS, SERVERS

Figure = Callable[[Cell], float | None]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, lowest and highest value over the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def spread(values: Sequence[float]) -> Spread | None:
    """Spread of one value a round; None without values."""
    if not values:
        return None
    return Spread(float(np.median(values)), min(values), max(values), len(values))


def by_round(ledger: Ledger, model: str, server: str, workload: str, figure: Figure) -> dict[int, float]:
    """A figure of one server under one workload, by round."""
    wanted = (model, server, workload)
    found = {c.round: figure(c) for c in ledger.cells if (c.model, c.server, c.workload) == wanted}
    return {round: value for round, value in found.items() if value is not None}


def ratio(above: dict[int, float], below: dict[int, float]) -> Spread | None:
    """Ratio in each round in which both values exist."""
    return spread([above[at] / below[at] for at in sorted(above.keys() & below.keys()) if below[at] > 0])


def peers(ledger: Ledger, model: str, workload: str) -> list[str]:
    """The other measured servers, including those that only explain a figure."""
    found = {c.server for c in ledger.cells if c.model == model and c.workload == workload}
    return [server for server in SERVERS if server in found and server != OURS]


def best_peer(ledger: Ledger, model: str, workload: str, figure: Figure, *, lowest: bool = False) -> str | None:
    """The peer with the highest (or lowest) median of a figure."""
    medians = {
        server: float(np.median(list(values.values())))
        for server in peers(ledger, model, workload)
        if SERVERS[server].peer and (values := by_round(ledger, model, server, workload, figure))
    }
    pick = min if lowest else max
    return pick(medians, key=lambda server: medians[server]) if medians else None


def engine_by_round(ledger: Ledger, engine: str, settings: Sequence[str] | None = None) -> dict[int, float]:
    """Pictures a second of an engine at its best batch size and setting, by round."""
    best: dict[int, float] = {}
    for timing in ledger.timings:
        if timing.engine == engine and (settings is None or timing.setting in settings):
            best[timing.round] = max(best.get(timing.round, 0.0), timing.pictures_per_s)
    return best


def bare_session(ledger: Ledger) -> dict[int, float]:
    """Pictures a second of the bare session with the service's options at its best batch size, by round."""
    return engine_by_round(ledger, "onnxruntime", [AS_SERVED])


def one_picture_ms(ledger: Ledger) -> dict[int, float]:
    """Decode and bare session.run of one picture, by round."""
    return {line.round: line.one_picture_ms for line in ledger.one_picture}


def physical_limit(ledger: Ledger) -> dict[int, float]:
    """Pictures a second of bare session and libjpeg-turbo in turn on the same core, by round."""
    bare = bare_session(ledger)
    decoded_ms = {line.round: line.turbo_ms for line in ledger.one_picture}
    return {at: 1000 / (1000 / bare[at] + decoded_ms[at]) for at in bare.keys() & decoded_ms.keys()}


def ceiling(ledger: Ledger) -> Spread | None:
    """Maximum requests a second of the load generator."""
    return spread([cell.requests_per_s for cell in ledger.cells if cell.server == CEILING.name])


def busiest(ledger: Ledger) -> float:
    """Highest requests a second of the generator with any server in a closed loop."""
    rates = [c.requests_per_s for c in ledger.cells if c.server != CEILING.name and c.generator_share is not None]
    return max(rates, default=0.0)


def models(ledger: Ledger) -> list[str]:
    """The measured models, the network first."""
    found = dict.fromkeys(c.model for c in ledger.cells if c.server != CEILING.name)
    return sorted(found, key=lambda model: model != NETWORK)
