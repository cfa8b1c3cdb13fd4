"""Hostile and careless JSON bodies to the laboratory: little CPU time, and a short answer."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cpu_cost import costs_less_than
from serving import client, refused
from starlette.testclient import TestClient

from service.config.lis import LisSettings

MIB = 1024 * 1024
HEADERS = {"content-type": "application/json", "x-acting-user": "m.muster"}
READINGS = f"/specimens/{'0' * 32}/readings"


@pytest.fixture(scope="module")
def http(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    database = f"sqlite:///{tmp_path_factory.mktemp('lab') / 'lab.db'}"
    with client(artefact, lis=LisSettings(database=database)) as started:
        yield started


def readings(*each: bytes) -> bytes:
    return b'{"readings":[' + b",".join(each) + b"]}"


HOSTILE = {
    "unknown keys": b"{" + b",".join(b'"k%d":0' % at for at in range(300_000)) + b"}",
    "unknown keys, few enough": b"{" + b",".join(b'"k%d":0' % at for at in range(40_000)) + b"}",
    "unknown keys below": b'{"patient":{' + b",".join(b'"k%d":0' % at for at in range(300_000)) + b"}}",
    "the longest key": b'{"' + b"a" * 3 * MIB + b'":1}',
    "readings of nothing": readings(*[b"{}"] * MIB),
    "readings of numbers": readings(*[b"0"] * (2 * MIB - 100)),
    "readings of unknown keys": readings(*[b'{"place":1,"x":1}'] * 10_000),
    "readings that are wrong": readings(*[b'{"place":"a","version":-1,"code":1,"why":2}'] * 10_000),
    "more readings than are taken": readings(*[b'{"place":1,"version":1,"code":"BLA"}'] * 10_001),
    "brackets": b"[" * 4 * MIB,
    "objects in objects": b'{"a":' * (4 * MIB // 5),
    "a huge number": b'{"revision":' + b"9" * 4_000_000 + b"}",
    "a number too large for 64 bits": b'{"revision":18446744073709551617,"readings":[]}',
    "NaN": b'{"revision":NaN,"number":Infinity}',
    "half a surrogate": b'{"number":"\\ud800","patient":{"identifier":"1"}}',
    "a name twice": b'{"revision":1,"revision":2,"readings":[]}',
    "no UTF-8": b'{"number":"\xe4","patient":{"identifier":"1"}}',
    "nothing": b"",
    "half of it": b'{"number":',
    "null": b"null",
    "an array": b"[]",
    "a string": b'"a"',
    "a NUL": b'{"number":"\\u0000","patient":{"identifier":"1"}}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_with_little_work_and_a_short_answer(http: TestClient, name: str) -> None:
    for path in ("/specimens", READINGS):
        with costs_less_than(100):
            answer = http.post(path, content=HOSTILE[name], headers=HEADERS)
        assert answer.status_code == 422 and answer.json()["type"].startswith("urn:problem-type:"), answer.text
        assert len(answer.content) < 2000


def test_of_many_faults_the_first_ten_are_told(http: TestClient) -> None:
    unknown = {f"k{at}": 0 for at in range(60)}
    detail = refused(http.post("/specimens", json=unknown, headers=HEADERS), 422, "invalid-parameter").detail
    assert detail.count("; ") == 10 and detail.endswith("; and 52 more")
    assert "number: Field required" in detail and "k7: unknown body parameter" in detail
    query = "&".join(f"a{at}=1" for at in range(3000))
    detail = refused(http.post(f"/classify?{query}"), 422, "invalid-parameter").detail
    assert detail == "query parameter a0: unknown; known: map_format, maps, top_k"
    detail = refused(http.post(f"/classify?maps={'x,' * 5000}"), 422, "invalid-parameter").detail
    assert len(detail) < 200


def test_what_is_missing_or_no_json_is_told(http: TestClient) -> None:
    for body, sentence in ((b"", "the body is missing"), (b"{", "not valid JSON: "), (b"[]", "must be a JSON object")):
        answer = http.post("/specimens", content=body, headers=HEADERS)
        assert sentence in refused(answer, 422, "invalid-parameter").detail


def test_json_in_utf_16_is_read_as_any(http: TestClient) -> None:
    body = json.dumps({"number": "BM-ä", "patient": {"identifier": "1"}}).encode("utf-16")
    answer = http.post("/specimens", content=body, headers=HEADERS)
    assert answer.status_code == 201 and answer.json()["number"] == "BM-ä"


def test_a_compressed_body_is_named(http: TestClient) -> None:
    answer = http.post("/specimens", content=b"\x1f\x8b", headers=HEADERS | {"content-encoding": "gzip"})
    assert "Content-Encoding gzip" in refused(answer, 415, "unsupported-body").detail


def test_the_largest_body_that_is_meant_is_read(http: TestClient) -> None:
    made = {"place": 2**31 - 1, "version": 1, "code": "BLA", "why": "chromatin open, nucleoli " * 12}
    answer = http.post(READINGS, json={"readings": [made] * 10_000}, headers=HEADERS)
    refused(answer, 404, "unknown-specimen")
