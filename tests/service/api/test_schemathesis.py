"""A running service against its own OpenAPI document, with requests that nobody would think of: no 5xx, no answer
of another shape than documented. Drawn from a fixed seed."""

from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from keys import bearer, entry, keys_file
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import served, tarred, zipped

from examples import examples

Draw = Callable[..., bytes]
KEY = "mlk_of-the-front"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def url(artefact: Path, draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pictures = st.integers(0, 50).map(draw)
    spoilt = st.one_of(st.binary(max_size=200), pictures.map(lambda data: data[: len(data) // 2]))
    names = st.text(st.characters(categories=["L"]), min_size=1)
    members = st.dictionaries(names, pictures | spoilt, max_size=3).map(lambda found: list(found.items()))
    schemathesis.openapi.media_type("image/png", pictures | spoilt)
    schemathesis.openapi.media_type("application/zip", members.map(zipped) | spoilt)
    schemathesis.openapi.media_type("application/x-tar", members.map(tarred) | spoilt)
    folder = tmp_path_factory.mktemp("laboratory")
    lab = {"lis_database": f"sqlite:///{folder / 'lab.db'}", "lis_pictures": str(folder / "pictures")}
    keys = str(keys_file(folder, entry(KEY, "front", acts_for_others=True)))
    with served(artefact, keys_file=keys, **lab) as started:
        started.wait_listening()
        yield started.url


@pytest.fixture(scope="module")
def specimens(url: str, draw: Draw) -> list[str]:
    """Specimens with a cell each; the first ones were signed, so that there are reports to read and to amend."""
    with httpx.Client(base_url=url, headers={"X-Acting-User": "m.muster", **bearer(KEY)}, timeout=60) as http:
        wishes = [{"number": f"there {n}", "patient": {"identifier": "1"}} for n in range(SPECIMENS)]
        ids: list[str] = [http.post("/specimens", json=wish).json()["id"] for wish in wishes]
        for specimen in ids:
            http.post(f"/specimens/{specimen}/cells", files={"images": draw(1)}).raise_for_status()
        wish = {"revision": 2, "accept_unread": True}
        for specimen in ids[:SIGNED]:
            http.post(f"/specimens/{specimen}/sign", json=wish).raise_for_status()
    return ids


OPERATIONS = [
    ("POST", "/classify"),
    ("POST", "/classify/batch"),
    ("POST", "/specimens"),
    ("GET", "/specimens"),
    ("GET", "/specimens/{specimen_id}"),
    ("PATCH", "/specimens/{specimen_id}"),
    ("GET", "/specimens/{specimen_id}/differential"),
    ("POST", "/specimens/{specimen_id}/cells"),
    ("GET", "/specimens/{specimen_id}/cells"),
    ("GET", "/specimens/{specimen_id}/cells/{place}"),
    ("GET", "/specimens/{specimen_id}/cells/{place}/picture"),
    ("POST", "/specimens/{specimen_id}/readings"),
    ("POST", "/specimens/{specimen_id}/preliminary"),
    ("POST", "/specimens/{specimen_id}/sign"),
    ("GET", "/specimens/{specimen_id}/reports/{version}"),
    ("POST", "/specimens/{specimen_id}/amend"),
    ("POST", "/specimens/{specimen_id}/cancel"),
    ("GET", "/specimens/{specimen_id}/audit"),
    ("GET", "/model"),
    ("POST", "/model/reload"),
    ("GET", "/classes"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models/{name}"),
    ("GET", "/v2/models/{name}/ready"),
    ("POST", "/v2/models/{name}/infer"),
    ("GET", "/v2/models/{name}/versions/{version}"),
    ("GET", "/v2/models/{name}/versions/{version}/ready"),
    ("POST", "/v2/models/{name}/versions/{version}/infer"),
]
WISH = "X-Request-Timeout-Ms"
HERE = {"name": "micro", "version": "0.0.1"}
SPECIMENS, SIGNED = 40, 20


@pytest.fixture(scope="module")
def schema(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_operation_is_tried(schema: Any) -> None:
    found = [operation.ok() for operation in schema.get_all_operations()]
    assert sorted((operation.method.upper(), operation.path) for operation in found) == sorted(OPERATIONS)


def aim(case: schemathesis.Case, choose: Callable[[st.SearchStrategy[bool]], bool], draw: Draw) -> None:
    """Most requests to a model that is there, and some with a picture: no schema says which name, or what a picture is.

    What a request asks of its outputs stays as it was drawn.
    """
    if choose(st.booleans()) or choose(st.booleans()):
        case.path_parameters = {name: HERE[name] for name in case.path_parameters}
    if case.method == "POST" and isinstance(case.body, dict) and choose(st.booleans()):
        parameters = {"content_type": "base64"}
        image = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": parameters}
        case.body = {**case.body, "inputs": [{**image, "data": [b64encode(draw(1)).decode()]}]}
        case.headers.pop("Inference-Header-Content-Length", None)


def aim_at_a_specimen(
    case: schemathesis.Case, choose: Callable[[st.SearchStrategy[Any]], Any], url: str, ids: list[str]
) -> None:
    """Most requests to a specimen that is there, as it stands: no schema says which id or revision that is."""
    if choose(st.integers(0, 3)) == 3:  # 0, the simplest, is drawn far more often
        return
    if case.method != "GET":  # the key acts for others, and has to say for whom; the document leaves it open
        case.headers["X-Acting-User"] = "m.muster"
    signed = "reports" in case.path or "amend" in case.path
    open_ones = ids[SIGNED:] if case.method == "PATCH" else ids
    known = {"specimen_id": choose(st.sampled_from(ids[:SIGNED] if signed else open_ones)), "place": 1, "version": 1}
    case.path_parameters = {name: known[name] for name in case.path_parameters}
    if isinstance(case.body, dict) and isinstance(case.body.get("collected_at"), str) and case.method == "PATCH":
        case.body = {**case.body, "collected_at": "2026-05-04T08:30:00+02:00"}  # no schema says between which years
    if isinstance(case.body, dict) and choose(st.booleans()):
        stands = httpx.get(f"{url}/specimens/{known['specimen_id']}", headers=bearer(KEY)).json()
        if "revision" in case.body:
            case.body = {**case.body, "revision": stands["revision"]}
            if "accept_unread" in case.body or "sign" in case.path:
                case.body["accept_unread"] = True
        if "readings" in case.body:
            [cell] = httpx.get(f"{url}/specimens/{known['specimen_id']}/cells", headers=bearer(KEY)).json()["cells"]
            reading = {"place": 1, "version": cell["version"], "code": cell["code"]}
            case.body = {**case.body, "readings": [reading]}


def be_patient(case: schemathesis.Case) -> None:
    """A millisecond is a sound wish, in a header or in the protocol's parameters, and ends in a 504."""
    wish = str((case.headers or {}).get(WISH, ""))
    if wish.isascii() and wish.isdigit() and int(wish):
        case.headers[WISH] = "60000"
    parameters = case.body.get("parameters") if isinstance(case.body, dict) else None
    if isinstance(parameters, dict) and type(parameters.get("timeout")) is int and parameters["timeout"] > 0:
        case.body = {**case.body, "parameters": {**parameters, "timeout": 60_000_000}}  # in microseconds


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [(method, path, GenerationMode.POSITIVE) for method, path in OPERATIONS]
    # Only what takes something can be given something wrong.
    + [(method, path, GenerationMode.NEGATIVE) for method, path in OPERATIONS if method in ("POST", "PATCH")],
)
def test_no_request_breaks_the_service_or_its_document(
    schema: Any, draw: Draw, url: str, specimens: list[str], method: str, path: str, mode: GenerationMode
) -> None:
    statuses = set()

    @hypothesis_settings(
        max_examples=examples(100), derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(schema[path][method].as_strategy(generation_mode=mode), st.data())
    def answers_as_documented(case: schemathesis.Case, data: st.DataObject) -> None:
        if "{name}" in path:
            aim(case, data.draw, draw)
        if "{specimen_id}" in path:
            aim_at_a_specimen(case, data.draw, url, specimens)
        be_patient(case)
        statuses.add(case.call_and_validate(checks=CHECKS, headers=bearer(KEY)).status_code)

    answers_as_documented()
    if mode is GenerationMode.POSITIVE:  # a negative request may lack the key
        assert 200 in statuses or 201 in statuses
        assert statuses.isdisjoint({401, 403})
