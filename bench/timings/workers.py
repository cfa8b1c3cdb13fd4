"""Several workers on one machine: `compare` measures them, `reach` computes how far a front end reaches.

python -m bench.timings.workers compare --server-cores 0,1 --client-cores 1 --rounds 3
python -m bench.timings.workers reach --cores 32
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
import uvloop

from bench.plan.plan import FEATHERWEIGHT, MODELS, NETWORK
from bench.plan.servers import OURS, SERVERS
from bench.setup import featherweight, machine, pictures
from bench.setup.starting import READY, Job, started
from bench.simulations.worker_model import Costs, pictures_per_s
from bench.traffic.load import closed_loop
from bench.traffic.wire import Address
from service.runtime.artifact import bundled_artefact

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
DEADLINE_S = 30.0


def variants(threads: int) -> dict[str, Mapping[str, str]]:
    """The compared settings: the same number of threads in one worker, and in workers of one thread."""
    return {
        f"one worker of {threads} threads": {
            "MARROWLENS_WORKERS": "1",
            "MARROWLENS_INTRA_OP_THREADS": str(threads),
            "MARROWLENS_DECODE_THREADS": str(threads),
        },
        f"{threads} workers of one thread": {
            "MARROWLENS_WORKERS": str(threads),
            "MARROWLENS_INTRA_OP_THREADS": "1",
            "MARROWLENS_DECODE_THREADS": "1",
        },
    }


@app.command()
def compare(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; in each, all variants one after the other.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one measurement.")] = 5.0,
    clients: Annotated[int, typer.Option(min=1, help="Clients that send the next request after an answer.")] = 32,
    threads: Annotated[int, typer.Option(min=2, help="Threads of one worker; workers of one thread.")] = 2,
    server_cores: Annotated[str, typer.Option(help="Cores of the service, such as 0,1; all but the last.")] = "",
    client_cores: Annotated[str, typer.Option(help="Cores of the load generator; the last.")] = "",
) -> None:
    """Compare one worker of several threads with as many workers of one thread, by the ratio within each round.

    With the bundled network and the one-operator model. An answer that is not 200 stops the command.
    """
    cores = machine.cores(_numbers(server_cores), _numbers(client_cores))
    if not cores.separate:
        typer.echo("Service and load generator share a core: read the ratios, not the figures.", err=True)
    with tempfile.TemporaryDirectory() as folder:
        jpegs = pictures.drawn(Path(folder) / "pictures")
        one_operator = featherweight.write_artefact(Path(folder), bundled_artefact())
        artefacts = {NETWORK: bundled_artefact(), FEATHERWEIGHT: one_operator}
        for model in MODELS:
            job = Job(artefacts[model], cores, DEADLINE_S, Path(folder) / "logs")
            ratios = [_round(job, jpegs, variants(threads), clients, seconds, model) for _ in range(rounds)]
            typer.echo(f"{model}: {threads} workers / one worker = {median(ratios):.2f} (median of {rounds} rounds)")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.replace(",", " ").split())


def _round(
    job: Job,
    jpegs: Sequence[bytes],
    settings: Mapping[str, Mapping[str, str]],
    clients: int,
    seconds: float,
    model: str,
) -> float:
    """The ratio of the second variant to the first, in requests a second."""
    rates = []
    for name, variables in settings.items():
        rates.append(uvloop.run(_rate(job, jpegs, variables, clients, seconds)))
        typer.echo(f"{model}, {name}: {rates[-1]:.0f} requests/s")
    return rates[1] / rates[0]


async def _rate(job: Job, jpegs: Sequence[bytes], variables: Mapping[str, str], clients: int, seconds: float) -> float:
    server = SERVERS[OURS]
    server = replace(server, variables={**server.variables, **variables})
    requests = [server.one([jpeg]) for jpeg in jpegs]
    async with started(server, Path(sys.executable), job, READY) as address:
        return await _answered(address, requests, clients, seconds)


async def _answered(address: Address, requests: Sequence[bytes], clients: int, seconds: float) -> float:
    """Requests answered a second.

    Raises:
        SystemExit: an answer is not 200.
    """
    seen = await closed_loop(address, requests, clients, 1.0, seconds, DEADLINE_S)
    statuses = {None if each.reply is None else each.reply.status for each in seen.exchanges}
    if statuses != {200}:
        raise SystemExit(f"answers of status {sorted(map(str, statuses))}; see the logs of the service")
    return sum(each.ended is not None and each.ended <= seen.end for each in seen.exchanges) / seconds


@app.command()
def reach(
    cores: Annotated[int, typer.Option(min=1, help="Cores of the machine.")] = 32,
    loop_ms: Annotated[float, typer.Option(help="Event loop and batcher of one picture, under Python's lock.")] = 0.55,
    decode_ms: Annotated[float, typer.Option(help="Decoding of one picture, outside of the lock.")] = 0.65,
    session_ms: Annotated[float, typer.Option(help="Session of one picture, on a device that all share.")] = 0.05,
) -> None:
    """Simulate the pictures a second of 1, 2, 4, 8 and 16 workers. Runs no service; the costs are measured elsewhere.

    The default costs are those of docs/bench.md for the one-operator model on one core of an AMD EPYC (Zen 4).
    """
    costs = Costs(loop_ms / 1000, decode_ms / 1000, session_ms / 1000)
    alone = 0.0
    for count in (1, 2, 4, 8, 16):
        rate = pictures_per_s(costs, workers=count, cores=cores)
        alone = alone or rate
        typer.echo(f"{count:3} workers: {rate:6.0f} pictures/s, {rate / alone:5.2f} times one worker (simulated)")


if __name__ == "__main__":
    app()
