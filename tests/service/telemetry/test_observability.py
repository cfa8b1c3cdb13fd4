"""A real Prometheus runs every query of rules, dashboard and docs against a running service."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Draw
from databases import free_port
from keys import bearer, entry, keys_file
from laboratory import OBR, ORC, PID, SPM, order
from queries import (
    FOLDER,
    Query,
    alternatives,
    dashboard_queries,
    guide_queries,
    rule_queries,
    rules,
    variable_queries,
    without_limits,
)
from receivers import node_receiver
from scraping import JOB, PROMETHEUS, Prometheus, scraping
from serving import Served, served, zipped
from signed_specimens import ordered, state, until

from service.runtime.artifact import bundled_artefact

KEY, SCRAPER = "mlk_the-tests", "mlk_prometheus"
PNG = {"content-type": "image/png"}

#: Queries without data in this test, with the reason; all others must return data.
UNANSWERED = {
    "MarrowlensDown": "a replica is ready; the last test ends it",
    "MarrowlensUnexpectedErrors": "nothing that a client can send is answered by 500",
    "MarrowlensStorageUnavailable": "the database answers",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not here: apt-get install prometheus"),
]


@dataclass
class Watched:
    """A service after varied traffic, and the Prometheus that scraped it."""

    service: Served
    prometheus: Prometheus
    requests: int


@pytest.fixture(scope="module")
def watched(draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("observed")
    scraper = entry(SCRAPER, "prometheus", ["metrics"])
    with node_receiver("simple-hl7-receiver.js", folder, "AE") as receiver:
        settings = {
            "keys_file": str(keys_file(folder, entry(KEY, "test", acts_for_others=True), scraper)),
            "max_batch_size": "2",
            "drift_window": "200",
            "max_queue_size": "4",
            "lis_database": f"sqlite:///{folder / 'lab.db'}",
            "lis_hl7_listen": f"127.0.0.1:{free_port()}",
            "lis_hl7_to": f"127.0.0.1:{receiver.port}",  # rejects all messages
            "lis_fhir_url": f"http://127.0.0.1:{free_port()}/fhir",  # nothing listens there
            "lis_retry_first_s": "0.2",
        }
        with served(bundled_artefact(), **settings) as service:
            service.wait_listening()
            target = service.url.removeprefix("http://")
            with scraping(folder, target, SCRAPER, FOLDER / "recording.yaml", FOLDER / "alerts.yaml") as prometheus:
                # No keep-alive: the test waits for Prometheus between requests, and a connection could be closing.
                fresh = httpx.Limits(keepalive_expiry=1)
                with httpx.Client(base_url=service.url, headers=bearer(KEY), timeout=60, limits=fresh) as http:
                    prometheus.until("marrowlens_ready == 1")
                    for _ in range(2):  # rate() needs a series that exists before its increase
                        requests = traffic(http, draw)
                        prometheus.until("marrowlens_requests_total{status='504'}")
                    report(http, int(settings["lis_hl7_listen"].split(":")[1]))
                prometheus.until("marrowlens_lis_dead_letters == 1")
                prometheus.until("rate(marrowlens_lis_delivery_attempts_total{outcome='rejected'}[1m])")
                prometheus.until("rate(marrowlens_lis_specimens_total{action='sign'}[1m])")
                yield Watched(service, prometheus, requests)


def traffic(http: httpx.Client, draw: Draw) -> int:
    """Send valid and invalid pictures, batches, overload, timeouts and model reloads; returns the number of answered
    single-picture requests."""
    answers = [http.post("/classify", content=draw(seed), headers=PNG).status_code for seed in range(20)]
    assert answers == [200] * 20
    assert http.post("/classify", content=b"no picture", headers=PNG).status_code == 415
    assert http.post("/classify", content=draw(0)[:200], headers=PNG).status_code == 422
    assert http.get("/nowhere").status_code == 404
    assert http.post("/model/reload", json={}, headers=bearer("not-a-key")).status_code == 401
    assert http.post("/model/reload", json={}, headers=bearer(SCRAPER)).status_code == 403
    assert http.post("/model/reload", json={"artefact": "nothing.onnx"}).status_code == 422
    assert http.post("/model/reload", json={}).status_code == 200
    many = zipped([(str(seed), draw(seed)) for seed in range(120)])  # enough to measure drift
    assert http.post("/classify/batch", content=many, headers={"content-type": "application/zip"}).status_code == 200
    assert too_many(http, [draw(seed, size=(900, 900)) for seed in range(32)])
    large = draw(0, size=(3000, 3000))  # decoding exceeds the timeout
    hurried = {**PNG, "x-request-timeout-ms": "20"}
    assert http.post("/classify", content=large, headers=hurried).status_code == 504
    return len(answers)


def too_many(http: httpx.Client, pictures: list[bytes]) -> bool:
    """Whether one of this many concurrent pictures was refused for overload."""
    with ThreadPoolExecutor(len(pictures)) as clients:
        for _ in range(50):
            sent = clients.map(lambda picture: http.post("/classify", content=picture, headers=PNG), pictures)
            if any(answer.status_code == 429 for answer in list(sent)):
                return True
    return False


def report(http: httpx.Client, port: int) -> None:
    """Send an order, a specimen with cells and a signature, and two messages that cannot be delivered."""
    assert "MSA|AA" in asyncio.run(ordered(port, order(PID, SPM, ORC, OBR)))[0]
    [summary] = http.get("/specimens?number=M26-0042").json()["specimens"]
    here, who = f"/specimens/{summary['id']}", {"X-Acting-User": "dr.beispiel"}
    files = [("images", (cell.name, cell.read_bytes())) for cell in sorted(Path("examples").glob("*.[pj][np]g"))]
    added = http.post(f"{here}/cells", files=files, headers=who).raise_for_status().json()
    assert added["added"] == len(files) > 3
    signed = http.post(
        f"{here}/sign",
        json={"revision": added["revision"], "accept_unread": True, "accept_below_target": True},
        headers=who,
    )
    assert signed.status_code == 200, signed.text
    until(http, here, lambda found: sorted(state(found)) == ["dead", "waiting"])


def test_no_rule_fails_to_be_evaluated(watched: Watched) -> None:
    watched.prometheus.until("marrowlens:slow_classify:ratio_rate3d")  # a rule of the last group but one
    known = watched.prometheus.rules()
    assert len(known) == len(rules("recording.yaml")) + len(rules("alerts.yaml"))
    assert [rule for rule in known if rule["health"] != "ok" or rule.get("lastError")] == []


@pytest.mark.parametrize("query", dashboard_queries(), ids=str)
def test_every_panel_has_something_to_draw(watched: Watched, query: Query) -> None:
    lines = watched.prometheus.draw(query.expr)
    assert lines, query.expr
    assert not [line for line in lines if line["metric"].get("job") == "other"], "another program's"


@pytest.mark.parametrize(("selector", "label"), variable_queries())
def test_every_variable_has_values(watched: Watched, selector: str, label: str) -> None:
    target = watched.service.url.removeprefix("http://")
    assert watched.prometheus.values(selector, label) == [{"job": JOB, "instance": target}[label]]


@pytest.mark.parametrize("query", [*rule_queries(), *guide_queries()], ids=str)
def test_every_rule_looks_at_something(watched: Watched, query: Query) -> None:
    for looked_at in alternatives(without_limits(query.expr)):
        asked = watched.prometheus.ask if query.of in UNANSWERED else watched.prometheus.until
        found = asked(looked_at)
        assert bool(found) == (query.of not in UNANSWERED), UNANSWERED.get(query.of, looked_at)
        assert not [sample for sample in found if sample["metric"].get("job") == "other"], "another program's"


def test_the_numbers_are_those_of_what_was_sent(watched: Watched) -> None:
    def number(query: str) -> float:
        [found] = watched.prometheus.ask(query)
        return float(found["value"][1])

    assert number('marrowlens_requests_total{route="/classify", status="200"}') >= 2 * watched.requests
    assert number('marrowlens_requests_total{route="/classify/batch", status="200"}') == 2
    assert number('marrowlens_refusals_total{reason="unauthorised"}') == 2
    assert number('marrowlens_model_changes_total{outcome="refused"}') == 2
    assert number("marrowlens_in_flight_limit_pictures") == 4
    assert number("marrowlens_keys") == 2
    assert number('marrowlens_lis_outbox_messages{channel="fhir"}') == 1
    assert 0 < number("marrowlens:request_errors:ratio_rate5m") < 1


def test_a_dead_letter_raises_its_alert(watched: Watched) -> None:
    [alert] = watched.prometheus.until('ALERTS{alertname="MarrowlensDeadLetters"}')
    labels: dict[str, Any] = alert["metric"]
    assert (labels["channel"], labels["job"], labels["severity"]) == ("hl7", JOB, "critical")


def test_promtool_finds_nothing_to_say_of_a_laboratory_s_metrics(watched: Watched) -> None:
    promtool = shutil.which("promtool")  # in the same package
    assert promtool is not None
    text = httpx.get(f"{watched.service.url}/metrics", headers=bearer(SCRAPER)).content
    assert b"marrowlens_lis_dead_letters" in text
    judged = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (judged.returncode, judged.stdout, judged.stderr) == (0, b"", b"")


def test_a_service_that_ends_is_missed(watched: Watched) -> None:
    # Last test of this file: it ends the service.
    watched.service.process.kill()
    watched.service.wait_ended()
    watched.prometheus.until('ALERTS{alertname="MarrowlensDown", alertstate="pending"}')
    [lost] = watched.prometheus.until('ALERTS{alertname="MarrowlensReplicaLost", alertstate="pending"}')
    assert lost["metric"]["instance"] == watched.service.url.removeprefix("http://")
