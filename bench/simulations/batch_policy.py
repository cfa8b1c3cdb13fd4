"""Simulated latency of one core that decodes pictures and runs batches, by the rule that forms a batch.

Requests arrive at random. One thread decodes, one runs the model; both share the core equally while both have work.
Runs no service: costs are measured elsewhere.

python -m bench.simulations.batch_policy --load 0.8
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import typer

app = typer.Typer(add_completion=False)
#: The batch that 32 clients of a closed loop keep full, so that it sets the capacity.
FULL = 16
#: Pictures of a batch, by the number of pictures that wait for it.
POLICIES: dict[str, Callable[[int], int]] = {
    "all that wait, at most 16": lambda waiting: min(waiting, 16),
    "at most 8": lambda waiting: min(waiting, 8),
    "at most 4": lambda waiting: min(waiting, 4),
    "at most 2": lambda waiting: min(waiting, 2),
    "one": lambda _: 1,
    "half of those that wait": lambda waiting: min((waiting + 1) // 2, 16),
}


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of the core: for a picture before the model, in a batch, and for a batch of any size."""

    prepare_s: float
    picture_s: float
    batch_s: float

    def capacity_per_s(self) -> float:
        """Pictures a second in full batches."""
        return 1 / (self.prepare_s + self.picture_s + self.batch_s / FULL)


@dataclass(slots=True)
class Core:
    """The pictures on one core, each by the time of its arrival, and the work that is left of those in progress."""

    costs: Costs
    policy: Callable[[int], int]
    arrived: list[float] = field(default_factory=list)
    prepared: list[float] = field(default_factory=list)
    batch: list[float] = field(default_factory=list)
    prepare_left_s: float = 0.0
    run_left_s: float = 0.0

    def start(self) -> None:
        """Give each idle thread its next work."""
        if self.arrived and not self.prepare_left_s:
            self.prepare_left_s = self.costs.prepare_s
        if self.prepared and not self.batch:
            count = self.policy(len(self.prepared))
            self.batch, self.prepared = self.prepared[:count], self.prepared[count:]
            self.run_left_s = self.costs.batch_s + count * self.costs.picture_s

    def advance(self, most_s: float) -> tuple[float, list[float]]:
        """Work until a thread is done, or for `most_s`; the seconds, and the arrivals of pictures that are answered."""
        left_s = [each for each in (self.prepare_left_s, self.run_left_s) if each]
        took_s = min([most_s, *(each * len(left_s) for each in left_s)])
        done_s = took_s / max(1, len(left_s)) + 1e-12
        if self.prepare_left_s:
            self.prepare_left_s = max(0.0, self.prepare_left_s - done_s)
            if not self.prepare_left_s:
                self.prepared.append(self.arrived.pop(0))
        answered: list[float] = []
        if self.run_left_s:
            self.run_left_s = max(0.0, self.run_left_s - done_s)
            if not self.run_left_s:
                answered, self.batch = self.batch, []
        return took_s, answered


def latencies_s(
    costs: Costs, policy: Callable[[int], int], rate_per_s: float, seconds: float, seed: int
) -> list[float]:
    """Latencies of Poisson arrivals during `seconds`."""
    chance, core, found = random.Random(seed), Core(costs, policy), []
    now_s, next_s = 0.0, 0.0
    while now_s < seconds:
        if now_s >= next_s:
            core.arrived.append(next_s)
            next_s += chance.expovariate(rate_per_s)
        core.start()
        took_s, answered = core.advance(max(1e-9, next_s - now_s))
        now_s += took_s
        found += [now_s - arrival for arrival in answered]
    return found


@app.command()
def main(
    load: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of the capacity of full batches.")] = 0.8,
    prepare_ms: Annotated[float, typer.Option(help="Event loop and decoding of one picture.")] = 0.9,
    picture_ms: Annotated[float, typer.Option(help="Model, of one more picture in a batch.")] = 3.6,
    batch_ms: Annotated[float, typer.Option(help="Model and event loop, of a batch of any size.")] = 1.4,
    seconds: Annotated[float, typer.Option(min=1, help="Simulated time.")] = 600.0,
) -> None:
    """Print p50 and p99 of each rule. The default costs are those of the bundled network on one core of an AMD EPYC."""
    costs = Costs(prepare_ms / 1000, picture_ms / 1000, batch_ms / 1000)
    rate = load * costs.capacity_per_s()
    typer.echo(f"{rate:.0f} pictures/s, {load:.0%} of {costs.capacity_per_s():.0f}")
    for name, policy in POLICIES.items():
        p50, p99 = np.percentile(latencies_s(costs, policy, rate, seconds, seed=1), [50, 99])
        typer.echo(f"{name:26} p50 {1000 * p50:6.1f} ms, p99 {1000 * p99:7.1f} ms (simulated)")


if __name__ == "__main__":
    app()
