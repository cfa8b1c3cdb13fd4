"""The laboratory of several workers: one process listens and delivers, and another takes over when it ends."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from databases import free_port
from laboratory import OBR, ORC, PID, SPM, order
from receivers import node_receiver
from serving import Served
from signed_specimens import WHO, ordered, signed, state
from signed_specimens import until as until_delivered
from worker_processes import kill, listeners, metric, ready, until, workers

Draw = Callable[..., bytes]


def order_accepted(port: int, number: str) -> bool:
    """Whether an order for a specimen is acknowledged; not if nothing listens."""
    segments = (
        each.replace("M26-0042", number).replace("-77", number).replace("-12", number) for each in (SPM, ORC, OBR)
    )
    try:
        [answer] = asyncio.run(ordered(port, order(PID, *segments, f10=number)))
    except OSError:
        return False
    return f"MSA|AA|{number}" in answer


def delivered(service: Served, draw: Draw, number: str) -> None:
    """Sign a specimen on one connection, whichever worker has it, and wait for its delivery."""
    with httpx.Client(base_url=service.url, headers=WHO, timeout=30) as http:
        specimen = signed(http, draw, number)
        until_delivered(http, f"/specimens/{specimen}", lambda found: state(found) == ["delivered"])


@pytest.mark.slow
def test_one_worker_listens_and_delivers_and_another_takes_over(artefact: Path, tmp_path: Path, draw: Draw) -> None:
    port = free_port()
    settings = {"lis_database": f"sqlite:///{tmp_path / 'lab.db'}", "lis_hl7_listen": f"127.0.0.1:{port}"}
    with node_receiver("simple-hl7-receiver.js", tmp_path, "AA") as receiver:
        with workers(artefact, lis_hl7_to=f"127.0.0.1:{receiver.port}", **settings) as service:
            service.wait_said(f"orders accepted at 127.0.0.1:{port}")
            [leader] = listeners(service, port)
            assert order_accepted(port, "ONE")
            delivered(service, draw, "ONE")
            kill(service, leader)
            until(lambda: order_accepted(port, "TWO"))
            until(lambda: ready(service))
            [successor] = listeners(service, port)
            assert successor != leader
            delivered(service, draw, "TWO")
            assert metric(service, 'marrowlens_lis_order_messages_total{outcome="taken"}') == 2
            series = 'marrowlens_lis_delivery_attempts_total{channel="hl7",outcome="delivered"}'
            assert metric(service, series) == 2
            assert metric(service, 'marrowlens_background_task_running{task="delivery_hl7"}') == 1
            service.wait_said("leads now")
        assert len(receiver.received()) == 2
