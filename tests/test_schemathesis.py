"""A running service against its own OpenAPI document, with requests that nobody would think of: no 5xx, no answer
of another shape than documented. Drawn from a fixed seed."""

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
    ("GET", "/classes"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def schema(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_operation_is_tried(schema: Any) -> None:
    found = [operation.ok() for operation in schema.get_all_operations()]
    assert sorted((operation.method.upper(), operation.path) for operation in found) == sorted(OPERATIONS)


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [(method, path, GenerationMode.POSITIVE) for method, path in OPERATIONS]
    # Only what takes something can be given something wrong.
    + [(method, path, GenerationMode.NEGATIVE) for method, path in OPERATIONS if method == "POST"],
)
def test_no_request_breaks_the_service_or_its_document(
    schema: Any, method: str, path: str, mode: GenerationMode
) -> None:
    statuses = set()

    @hypothesis_settings(max_examples=100, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(schema[path][method].as_strategy(generation_mode=mode))
    def answers_as_documented(case: schemathesis.Case) -> None:
        statuses.add(case.call_and_validate(checks=CHECKS).status_code)

    answers_as_documented()
    assert (200 in statuses) or mode is GenerationMode.NEGATIVE
