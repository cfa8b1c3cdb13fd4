"""Two services by mistake on one SQLite file and one folder of pictures: one of them is refused, or both are right."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import forks
import hl7
import httpx
import pytest
from conftest import Draw
from databases import free_port
from laboratory import OBR, ORC, PID, SPM, order
from receivers import node_receiver
from serving import Served, served
from signed_specimens import WHO, ordered, state, until

SPECIMENS, PICTURES = 6, 4


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    database = tmp_path / "lab.db"
    return {"lis_database": f"sqlite:///{database}", "lis_retry_first_s": "0.05", "lis_hl7_timeout_s": "5"}


@contextmanager
def clients(*services: Served) -> Iterator[list[httpx.Client]]:
    for each in services:
        each.wait_listening()
    with ExitStack() as opened:
        made = (httpx.Client(base_url=each.url, headers=WHO, timeout=60) for each in services)
        yield [opened.enter_context(each) for each in made]


def at_once(calls: list[Callable[[], httpx.Response]]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(calls)) as callers:
        return [each.result() for each in [callers.submit(call) for call in calls]]


def work(number: int, both: list[httpx.Client], draw: Draw) -> str:
    """One specimen, with the same pictures and two signatures at once through both services."""
    one, other = both if number % 2 else both[::-1]
    made = one.post("/specimens", json={"number": f"BM-{number}", "patient": {"identifier": f"P-{number}"}})
    path = f"/specimens/{made.json()['id']}"
    pictures = [("images", (f"{n}.png", draw(100 * number + n), "image/png")) for n in range(PICTURES)]
    added = at_once([lambda http=http: http.post(f"{path}/cells", files=pictures) for http in (one, other)])
    assert sum(each.json()["added"] for each in added) == PICTURES
    revision = other.get(path).json()["revision"]
    wish = {"revision": revision, "accept_unread": True, "accept_below_target": True}
    signed = at_once([lambda http=http: http.post(f"{path}/sign", json=wish) for http in (one, other)])
    assert sorted(each.status_code for each in signed) == [200, 409]
    for place in range(1, PICTURES + 1):
        assert other.get(f"{path}/cells/{place}/picture").status_code == 200
    return path


def verified(settings: dict[str, str]) -> int:
    return forks.run(["audit", "verify"], {"MARROWLENS_LIS_DATABASE": settings["lis_database"]}).returncode


def test_two_services_on_one_file_send_each_report_once(
    artefact: Path, tmp_path: Path, settings: dict[str, str], draw: Draw
) -> None:
    """They start at the same moment, on no file yet; one is killed, and starts again."""
    with node_receiver("simple-hl7-receiver.js", tmp_path, "AA") as receiver:
        settings["lis_hl7_to"] = f"127.0.0.1:{receiver.port}"
        with served(artefact, **settings) as one:
            with served(artefact, **settings) as other, clients(one, other) as both:
                paths = [work(number, both, draw) for number in range(SPECIMENS // 2)]
                other.process.kill()
                other.wait_ended()
            with served(artefact, **settings) as again, clients(one, again) as both:
                paths += [work(number, both, draw) for number in range(SPECIMENS // 2, SPECIMENS)]
                for path in paths:
                    until(both[0], path, lambda found: state(found) == ["delivered"])
                assert (one.stop(), again.stop()) == (0, 0)
        sent = [str(hl7.parse(each["raw"]).segment("SPM")[2]) for each in receiver.received()]
    assert sorted(sent) == [f"BM-{number}" for number in range(SPECIMENS)]
    assert verified(settings) == 0


def test_the_second_order_listener_on_an_address_is_refused(artefact: Path, settings: dict[str, str]) -> None:
    port = free_port()
    settings["lis_hl7_listen"] = f"127.0.0.1:{port}"
    with served(artefact, **settings) as one:
        one.wait_listening()
        with served(artefact, **settings) as other:
            assert other.wait_ended() == 2
            said = "MARROWLENS_LIS_HL7_LISTEN: Address already in use"
            assert said in "\n".join(other.lines)
        [answer] = asyncio.run(ordered(port, order(PID, SPM, ORC, OBR)))
        assert "MSA|AA|ORD-1" in answer
