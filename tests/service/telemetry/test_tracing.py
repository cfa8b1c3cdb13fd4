"""Traces and JSON logs: parents, stages, ids, and no client data."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from collector import Collector, attributes, collector
from conftest import Draw
from databases import free_port
from hypothesis import given
from hypothesis import strategies as st
from laboratory import OBR, ORC, PID, SPM, order
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from serving import Served, client, served, zipped
from signed_specimens import SECRETS, WHO, ordered, signed

from service.app import create_app
from service.config.settings import Settings
from service.telemetry.otel import PICTURES_A_REQUEST
from service.telemetry.tracing import parse_traceparent

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
ANOTHER = {"traceparent": f"00-{'a' * 32}-{PARENT}-01"}
STAGES = ["queue for decode", "decode", "queue for batch", "inference"]


def of_trace(found: Collector, trace_id: str = TRACE) -> dict[str, Span]:
    return {span.name: span for span in found.spans if span.trace_id.hex() == trace_id}


def test_a_request_is_a_tree_in_the_trace_of_its_caller(artefact: Path, draw: Draw) -> None:
    with collector() as found:
        with client(artefact, otlp_endpoint=found.url, trace_service_name="of-a-laboratory") as http:
            assert http.post("/classify", content=draw(1), headers=SENT | {"content-type": "image/png"}).is_success
    tree = of_trace(found)
    assert set(tree) == {"POST /classify", *STAGES}
    request = tree["POST /classify"]
    assert (request.parent_span_id.hex(), request.kind) == (PARENT, Span.SPAN_KIND_SERVER)
    said = {"http.request.method": "POST", "http.route": "/classify", "http.response.status_code": 200}
    assert attributes(request) == said | {"marrowlens.pictures.told": 1}
    assert {tree[name].parent_span_id for name in STAGES} == {request.span_id}
    moments = [moment for name in STAGES for moment in (tree[name].start_time_unix_nano, tree[name].end_time_unix_nano)]
    apart = [later - earlier for earlier, later in zip(moments, moments[1:], strict=False)]
    assert min(apart) > -1_000_000  # each stage begins at the end of the previous one, up to clock resolution
    assert (
        request.start_time_unix_nano - 1_000_000 <= moments[0] and moments[-1] <= request.end_time_unix_nano + 1_000_000
    )
    assert found.paths == {"/v1/traces"}
    assert found.resources[0].items() >= {"service.name": "of-a-laboratory"}.items()


def test_the_collectors_headers_are_sent(artefact: Path) -> None:
    with collector() as found:
        headers = "authorization=Bearer%20a-token,x-tenant=lab"
        with client(artefact, otlp_endpoint=found.url, otlp_headers=headers) as http:
            assert http.get("/model", headers=SENT).is_success
    assert found.headers[0].items() >= {"authorization": "Bearer a-token", "x-tenant": "lab"}.items()


def test_the_span_of_a_batch_is_linked_to_the_requests_in_it(artefact: Path, draw: Draw) -> None:
    with collector() as found:
        with client(artefact, otlp_endpoint=found.url) as http:
            body = zipped([(f"{number}.png", draw(number)) for number in range(3)])
            http.post("/classify/batch", content=body, headers=SENT | {"content-type": "application/zip"})
    [request], batches = found.named("POST /classify/batch"), found.named("batch")
    assert {link.span_id for batch in batches for link in batch.links} == {request.span_id}
    assert all(batch.trace_id.hex() != TRACE and not batch.parent_span_id for batch in batches)
    assert sum(int(attributes(batch)["marrowlens.batch.pictures"]) for batch in batches) == 3
    inferences = found.named("inference")
    assert len(inferences) == 3 and {link.span_id for each in inferences for link in each.links} == {
        batch.span_id for batch in batches
    }


def test_of_a_large_request_the_first_pictures_are_told(artefact: Path, draw: Draw) -> None:
    with collector() as found:
        with client(artefact, otlp_endpoint=found.url) as http:
            body = zipped([(f"{number}.png", draw(number)) for number in range(PICTURES_A_REQUEST + 9)])
            answer = http.post("/classify/batch", content=body, headers=SENT | {"content-type": "application/zip"})
    assert answer.json()["pictures"] == PICTURES_A_REQUEST + 9
    assert len(found.named("inference")) == len(found.named("decode")) == PICTURES_A_REQUEST


def test_a_picture_that_cannot_be_decoded_fails_where_it_failed_and_its_text_stays_here(artefact: Path) -> None:
    with collector() as found:
        with client(artefact, otlp_endpoint=found.url) as http:
            sent = b"\x89PNG\r\n\x1a\n" + b"of a patient called Muster"
            assert http.post("/classify", content=sent, headers=SENT | {"content-type": "image/png"}).status_code == 422
    tree = of_trace(found)
    assert set(tree) == {"POST /classify", "queue for decode", "decode"}
    assert (tree["decode"].status.code, attributes(tree["decode"])) == (
        Status.STATUS_CODE_ERROR,
        {"error.type": "UndecodablePicture"},
    )
    assert not tree["decode"].events and not tree["decode"].status.message
    assert tree["POST /classify"].status.code == Status.STATUS_CODE_UNSET  # a client error is not a server error
    assert not any(b"Muster" in body for body in found.bodies)


def test_what_the_caller_does_not_record_is_not_recorded(artefact: Path, draw: Draw) -> None:
    with collector() as found:
        with client(artefact, otlp_endpoint=found.url) as http:
            for headers in ({"traceparent": f"00-{TRACE}-{PARENT}-00"}, ANOTHER):
                http.post("/classify", content=draw(1), headers=headers | {"content-type": "image/png"})
    assert not of_trace(found) and len(of_trace(found, "a" * 32)) == 1 + len(STAGES)


def test_the_ratio_decides_where_the_caller_has_not(artefact: Path, draw: Draw) -> None:
    with collector() as found:
        with client(artefact, otlp_endpoint=found.url, trace_sample_ratio=0.0) as http:
            for headers in ({}, SENT):
                http.post("/classify", content=draw(1), headers=headers | {"content-type": "image/png"})
    assert {span.trace_id.hex() for span in found.spans if span.name != "batch"} == {TRACE}


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/v2/health/ready"])
def test_what_machinery_asks_is_not_told(artefact: Path, path: str) -> None:
    with collector() as found:
        with client(artefact, otlp_endpoint=found.url) as http:
            assert http.get(path, headers=SENT).is_success
    assert not found.spans


def test_paths_queries_and_names_stay_here(artefact: Path, draw: Draw) -> None:
    secrets = ("M26-0042", "Muster", "19640812")
    with collector() as found:
        with client(artefact, otlp_endpoint=found.url) as http:
            http.get(
                "/specimens/M26-0042?of=Muster",
                headers=SENT | {"tracestate": "patient=Muster", "x-request-id": "Muster"},
            )
            http.get("/Muster/19640812", headers=SENT | {"baggage": "name=Muster"})
            http.request("MUSTER", "/classify", headers=SENT)
            http.post("/classify?of=Muster", files={"image": ("Muster.png", draw(1), "image/png")}, headers=SENT)
            http.get("/classes", headers={"user-agent": "Muster", "traceparent": "Muster"})
    names = {span.name for span in found.spans}
    assert {"GET /specimens/{specimen_id}", "GET", "HTTP /classify", "POST /classify", "GET /classes"} <= names
    for body in found.bodies:
        assert not any(secret.encode() in body for secret in secrets)


def test_a_collector_that_is_not_there_fails_nothing(artefact: Path, draw: Draw) -> None:
    with served(artefact, otlp_endpoint=f"http://127.0.0.1:{free_port()}") as service:
        service.wait_listening()
        with httpx.Client(base_url=service.url, timeout=30) as http:
            for number in range(20):
                assert http.post("/classify", files={"image": draw(number)}, headers=SENT).is_success
        service.process.send_signal(signal.SIGTERM)
        assert service.wait_ended() == 0


def test_without_the_setting_nothing_that_sends_is_loaded(artefact: Path) -> None:
    script = (
        "import sys; from service.app import create_app; from service.config.settings import Settings; "
        "create_app(Settings());"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "[]\n"
    assert create_app(Settings(artefact=artefact)).state.recorder is None


def test_the_framework_sends_nothing_of_its_own(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as found:
        monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        with served(artefact) as service:
            service.wait_listening()
            httpx.get(f"{service.url}/specimens/M26-0042", headers=SENT)
            service.process.send_signal(signal.SIGTERM)
            assert service.wait_ended() == 0
    assert found.bodies == []


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://collector", "http://name:password@collector", "http://"])
def test_an_endpoint_that_is_no_base_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="otlp_endpoint"):
        Settings(otlp_endpoint=endpoint)


@pytest.mark.parametrize(
    "sent",
    [
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
        "",
    ],
)
def test_a_traceparent_that_is_none_is_not_taken(sent: str) -> None:
    assert parse_traceparent([(b"traceparent", sent.encode())]) is None


def test_a_traceparent_of_a_later_version_is_taken_and_two_are_none() -> None:
    header = (b"traceparent", f"42-{TRACE}-{PARENT}-03-later".encode())
    assert parse_traceparent([header]) == (TRACE, PARENT, True)
    assert parse_traceparent([header, header]) is None


@given(st.binary(max_size=80))
def test_no_header_breaks_the_parser(sent: bytes) -> None:
    found = parse_traceparent([(b"traceparent", sent)])
    assert found is None or (len(found.trace_id), len(found.span_id)) == (32, 16)


def test_a_day_in_the_laboratory_leaves_nothing_of_the_patient(artefact: Path, tmp_path: Path, draw: Draw) -> None:
    port = free_port()
    lab = {"lis_database": f"sqlite:///{tmp_path / 'lab.db'}", "lis_hl7_listen": f"127.0.0.1:{port}"}
    with collector() as found:
        chosen = {"log_format": "json", "log_level": "debug", "otlp_endpoint": found.url}
        with served(artefact, "--access-log", **lab, **chosen) as service:
            service.wait_listening()
            [answer] = asyncio.run(ordered(port, order(PID, SPM, ORC, OBR)))
            assert "MSA|AA|ORD-1" in answer
            with httpx.Client(base_url=service.url, headers=WHO, timeout=30) as http:
                specimen = signed(http, draw)
                http.get(f"/specimens/{specimen}/reports/1")
            service.process.send_signal(signal.SIGTERM)
            assert service.wait_ended() == 0
    assert {"POST /specimens/{specimen_id}/cells", "POST /specimens/{specimen_id}/sign"} <= {
        s.name for s in found.spans
    }
    assert len(objects(service)) > 5
    secrets = (*SECRETS, specimen, "beispiel")
    for body in found.bodies:
        assert not any(secret.encode() in body for secret in secrets)
    assert not any(secret in line for line in service.lines for secret in SECRETS)


def objects(service: Served) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.lines]


def test_every_line_of_the_log_is_an_object_with_the_ids_of_its_request(artefact: Path, draw: Draw) -> None:
    with served(artefact, "--access-log", log_format="json") as service:
        service.wait_listening()
        with httpx.Client(base_url=service.url, timeout=30) as http:
            asked = {"x-request-id": "r-1", **SENT}
            http.post("/classify?top_k=2", files={"image": ("Muster.png", draw(1), "image/png")}, headers=asked)
            http.get("/specimens/M26-0042", headers={"x-request-id": "r-2"})
        service.process.send_signal(signal.SIGTERM)
        assert service.wait_ended() == 0
    lines = objects(service)
    assert all({"ts", "level", "logger", "message"} <= line.keys() for line in lines)
    first, second = (line for line in lines if line["logger"] == "service.requests")
    assert (first["request_id"], first["trace_id"], first["route"], first["status"]) == ("r-1", TRACE, "/classify", 200)
    assert (second["request_id"], second["route"]) == ("r-2", "/specimens/{specimen_id}")
    assert first["method"] == "POST" and first["duration_ms"] > 0 and "trace_id" not in second
    assert not any(word in line for line in service.lines for word in ("Muster", "M26-0042", "top_k"))


def test_the_log_names_the_span_that_is_recorded(artefact: Path, draw: Draw) -> None:
    with collector() as found:
        with served(artefact, "--access-log", log_format="json", otlp_endpoint=found.url) as service:
            service.wait_listening()
            with httpx.Client(base_url=service.url, timeout=30) as http:
                http.post("/classify", files={"image": draw(1)}, headers=SENT)
            service.process.send_signal(signal.SIGTERM)
            assert service.wait_ended() == 0
    [line] = [line for line in objects(service) if line["logger"] == "service.requests"]
    assert (line["trace_id"], line["span_id"]) == (TRACE, of_trace(found)["POST /classify"].span_id.hex())
