"""CPU time of a request by thread of the service, of this checkout and others, one after the other in each round.

CPU time is what a busy machine changes least, and ratios within a round less still. Linux only.

python -m bench.timings.thread_cost --against ../main --rounds 5
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
import uvloop

from bench.peers.names import HOST
from bench.plan.plan import FEATHERWEIGHT, MODELS
from bench.plan.servers import OURS, SERVERS
from bench.setup import featherweight, machine, pictures
from bench.setup.machine import ROOT, listed
from bench.setup.starting import answers_ready, free_port
from bench.traffic.load import Observed, closed_loop
from bench.traffic.wire import Address
from service.runtime.artifact import bundled_artefact

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time of one request, in microseconds."""

    loop_us: float
    all_us: float


@dataclass(frozen=True, slots=True)
class Service:
    """The service of one checkout, which runs."""

    tree: Path
    pid: int
    address: Address

    def cpu_us(self) -> Cost:
        """CPU time of the event loop's thread, which is the main thread, and of all threads, since the start."""
        spent = {int(task.name): _spent_us(task) for task in Path(f"/proc/{self.pid}/task").iterdir()}
        return Cost(spent[self.pid], sum(spent.values()))


def _spent_us(task: Path) -> float:
    return int((task / "schedstat").read_text().split()[0]) / 1000


@app.command()
def main(
    against: Annotated[list[Path], typer.Option(help="Another checkout; may be repeated.")],
    model: Annotated[str, typer.Option(help=f"{' or '.join(MODELS)}.")] = FEATHERWEIGHT,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; in each, all checkouts one after the other.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one measurement.")] = 2.0,
    clients: Annotated[int, typer.Option(min=1, help="Clients that send the next request after an answer.")] = 32,
) -> None:
    """Print the CPU time of a request for each checkout, and the ratio to the first of `--against`.

    The service runs on all cores but the last, with one thread for the model. An answer other than 200 and 429 stops
    it. Variables `MARROWLENS_*` apply to all checkouts.
    """
    uvloop.run(_compare([*(each.resolve() for each in against), ROOT], model, rounds, seconds, clients))


async def _compare(trees: Sequence[Path], model: str, rounds: int, seconds: float, clients: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        requests = [SERVERS[OURS].one([jpeg]) for jpeg in pictures.drawn(Path(folder) / "pictures")]
        artefact = bundled_artefact()
        if model == FEATHERWEIGHT:
            artefact = featherweight.write_artefact(Path(folder), artefact)
        async with AsyncExitStack() as stack:
            services = [await stack.enter_async_context(_started(tree, artefact)) for tree in trees]
            costs: list[list[Cost]] = [[] for _ in services]
            for service in services:
                await closed_loop(service.address, requests, clients, 0.0, seconds, PATIENCE_S)
            for _ in range(rounds):
                for service, found in zip(services, costs, strict=True):
                    found.append(await _measured(service, requests, seconds, clients))
    for service, found in zip(services, costs, strict=True):
        loop, everything = median(each.loop_us for each in found), median(each.all_us for each in found)
        ratio = median(each.loop_us / first.loop_us for each, first in zip(found, costs[0], strict=True))
        typer.echo(
            f"{service.tree}: event loop {loop:.0f} us a request (x {ratio:.2f}), all threads {everything:.0f} us"
        )


@asynccontextmanager
async def _started(tree: Path, artefact: Path) -> AsyncIterator[Service]:
    address = Address(HOST, free_port())
    process = _begun(tree, artefact, address)
    try:
        await answers_ready(process, address)
        yield Service(tree, process.pid, address)
    finally:
        process.terminate()
        process.wait()


def _begun(tree: Path, artefact: Path, address: Address) -> "subprocess.Popen[bytes]":
    python = ["taskset", "--cpu-list", listed(machine.cores().server), sys.executable, "-c", _SERVE]
    return subprocess.Popen(
        [*python, "serve", "--port", str(address.port), "--artefact", str(artefact)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "MARROWLENS_INTRA_OP_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


_SERVE = "import sys; sys.argv[0] = 'marrowlens'; from service.cli.main import app; app()"


async def _measured(service: Service, requests: Sequence[bytes], seconds: float, clients: int) -> Cost:
    before = service.cpu_us()
    seen = await closed_loop(service.address, requests, clients, 0.0, seconds, PATIENCE_S)
    after = service.cpu_us()
    count = _answered(seen)
    return Cost((after.loop_us - before.loop_us) / count, (after.all_us - before.all_us) / count)


def _answered(seen: Observed) -> int:
    """Number of exchanges.

    Raises:
        SystemExit: an answer is neither 200 nor 429.
    """
    statuses = {None if each.reply is None else each.reply.status for each in seen.exchanges}
    if not statuses <= {200, 429}:
        raise SystemExit(f"answers of status {sorted(map(str, statuses))}")
    return len(seen.exchanges)


if __name__ == "__main__":
    app()
