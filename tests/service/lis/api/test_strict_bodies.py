"""Numbers and flags of JSON bodies are not converted: a field that takes a number takes no true, and no text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import client, refused
from starlette.testclient import TestClient

from service.config.lis import LisSettings

PATIENT = {"identifier": "100234", "family": "Muster", "birth_date": "1964-08-12"}
#: JSON type of a field → values that pydantic would convert to it.
CONVERTIBLE: dict[str, tuple[Any, ...]] = {"integer": (True, "1", 1.0), "boolean": (1, 0, "t", "true", "off")}


@pytest.fixture(scope="module")
def http(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    database = f"sqlite:///{tmp_path_factory.mktemp('lab') / 'lab.db'}"
    with client(artefact, lis=LisSettings(database=database)) as started:
        started.headers["X-Acting-User"] = "m.muster"
        yield started


def fields(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Path in the error, JSON type, and a function from a value to a body with it, of each number and flag."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for part in schema.get("anyOf", ()):
        yield from fields(document, part)
    if schema.get("type") in CONVERTIBLE:
        yield "", schema["type"], lambda value: value
    of_members = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {}).values()), None)
    members = {**schema.get("properties", {}), **({"PMO": of_members} if of_members else {})}
    for name, member in members.items():
        for path, kind, body in fields(document, member):
            yield f"{name}.{path}".rstrip("."), kind, lambda value, name=name, body=body: {name: body(value)}
    for path, kind, body in fields(document, schema["items"]) if "items" in schema else ():
        yield f"0.{path}".rstrip("."), kind, lambda value, body=body: [body(value)]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and JSON schema of the body, for each operation that takes a JSON object."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            if "$ref" in str(schema) and "/v2/" not in path:  # the codec of v2 parses its bodies itself
                yield method, path.replace("{specimen_id}", "0" * 32), schema


def test_no_number_and_no_flag_is_converted(http: TestClient) -> None:
    document = http.get("/openapi.json").json()
    tried = set()
    for method, path, schema in operations(document):
        for name, kind, body in fields(document, schema):
            tried.add(name)
            for value in CONVERTIBLE[kind]:
                detail = refused(http.request(method, path, json=body(value)), 422, "invalid-parameter").detail
                assert f"body parameter {name}: Input should be a valid {kind}" in detail, (path, name, value)
    assert tried >= {"revision", "megakaryocytes", "target_cells", "accept_unread", "accept_below_target"}
    assert tried >= {"readings.0.place", "readings.0.version", "place", "counts.PMO", "problems", "corrected"}


def test_dates_and_choices_are_still_read_from_text(http: TestClient) -> None:
    wanted = {"number": "BM-1", "patient": PATIENT, "collected_at": "2026-05-04T08:30:00+02:00", "target_cells": 200}
    opened = http.post("/specimens", json=wanted)
    assert opened.status_code == 201, opened.text
    path = f"/specimens/{opened.json()['id']}"
    refused(http.patch(path, json={"revision": True, "megakaryocytes": True}), 422, "invalid-parameter")
    refused(http.post(f"{path}/sign", json={"revision": 1, "accept_unread": "t"}), 422, "invalid-parameter")
    assert "megakaryocytes" not in http.get(path).json()
    changed = http.patch(path, json={"revision": 1, "megakaryocytes": 3, "cellularity": {"grade": "normal"}})
    assert (changed.status_code, changed.json()["megakaryocytes"]) == (200, 3), changed.text
