"""A running service against its own OpenAPI document, with requests that nobody would think of: no 5xx, no answer
of another shape than documented. Drawn from a fixed seed."""

from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import served, tarred, zipped

Draw = Callable[..., bytes]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def url(artefact: Path, draw: Draw) -> Iterator[str]:
    pictures = st.integers(0, 50).map(draw)
    spoilt = st.one_of(st.binary(max_size=200), pictures.map(lambda data: data[: len(data) // 2]))
    names = st.text(st.characters(categories=["L"]), min_size=1)
    members = st.dictionaries(names, pictures | spoilt, max_size=3).map(lambda found: list(found.items()))
    schemathesis.openapi.media_type("image/png", pictures | spoilt)
    schemathesis.openapi.media_type("application/zip", members.map(zipped) | spoilt)
    schemathesis.openapi.media_type("application/x-tar", members.map(tarred) | spoilt)
    with served(artefact) as started:
        started.wait_listening()
        yield started.url


OPERATIONS = [
    ("POST", "/classify"),
    ("POST", "/classify/batch"),
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


def be_patient(case: schemathesis.Case) -> None:
    """A millisecond is a sound wish, in the header as in a tensor request's parameters, and ends in a 504."""
    wish = str((case.headers or {}).get(WISH, ""))
    if wish.isascii() and wish.isdigit() and int(wish):
        case.headers[WISH] = "60000"
    parameters = case.body.get("parameters") if isinstance(case.body, dict) else None
    if isinstance(parameters, dict) and isinstance(wish_us := parameters.get("timeout"), int) and wish_us > 0:
        case.body = {**case.body, "parameters": {**parameters, "timeout": 60_000_000}}


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [(method, path, GenerationMode.POSITIVE) for method, path in OPERATIONS]
    # Only what takes something can be given something wrong.
    + [(method, path, GenerationMode.NEGATIVE) for method, path in OPERATIONS if method == "POST"],
)
def test_no_request_breaks_the_service_or_its_document(
    schema: Any, draw: Draw, method: str, path: str, mode: GenerationMode
) -> None:
    statuses = set()

    @hypothesis_settings(max_examples=100, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(schema[path][method].as_strategy(generation_mode=mode), st.data())
    def answers_as_documented(case: schemathesis.Case, data: st.DataObject) -> None:
        if "{name}" in path:
            aim(case, data.draw, draw)
        be_patient(case)
        statuses.add(case.call_and_validate(checks=CHECKS).status_code)

    answers_as_documented()
    without_the_token = path == "/model/reload"
    assert (200 in statuses) or mode is GenerationMode.NEGATIVE or without_the_token
