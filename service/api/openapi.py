"""The OpenAPI document. It adds bodies, problems, headers and scopes, which FastAPI cannot derive from the routes."""

import json
from hashlib import sha256
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from model.contract import RESEARCH_USE
from service.api import examples
from service.api.problems import MEDIA_TYPE, PROBLEM_TYPES, PROTOCOL_PATH
from service.api.schemas import BatchSummary, CellsProblem, InferenceProblem, Problem, SentPicture
from service.auth import policy
from service.auth.identity import SCOPES

NDJSON = "application/x-ndjson"
PICTURE_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/tiff", "image/webp")
Responses = dict[int | str, dict[str, Any]]

DESCRIPTION = f"""Post a picture of one bone-marrow cell; get the probability of every class, attention and evidence
maps, and the identity of the model. Post many pictures; get the differential count.

**{RESEARCH_USE}**

Every answer has an `X-Request-ID` header: the one you sent, if it has at most 64 letters, digits and `. _ : -`, or a
new one. Errors are RFC 9457 problems; `type` identifies them."""

TAGS = [
    {"name": "cells", "description": "Classify pictures."},
    {
        "name": "specimens",
        "description": "From cells to the signed differential count of a specimen, if a laboratory is configured. "
        "Changes name their user and the revision they are based on. An outdated revision gets 409.",
    },
    {"name": "model", "description": "The served model and its classes."},
    {
        "name": "open inference protocol",
        "description": "The same model for clients of KServe and Triton: tensors in, tensors out. Errors are problems "
        "with the detail in `error` too.",
    },
    {
        "name": "sign-in",
        "description": "Browser sessions. People sign in at `/sign-in`; requests then carry a cookie, and those that "
        "change something the header `X-CSRF-Token`.",
    },
    {"name": "operations", "description": "Health, metrics and reload, for operators."},
]

BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, or a token of the OpenID Connect issuer. Each operation names the scope that it "
    "needs. Authentication is off if neither is configured; by default the service then accepts localhost only.",
}
#: Problems of authentication, on every route that needs a scope.
AUTH_STATUSES = (401, 403, 429, 503)

_BINARY = {"type": "string", "format": "binary"}

ONE_PICTURE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {**_BINARY, "description": "JPEG, PNG, BMP, TIFF or WebP"}},
                }
            },
            **{media_type: {"schema": _BINARY} for media_type in PICTURE_TYPES},
        },
    }
}

_SENT = "".join(
    json.dumps({"name": f"{n}.jpg", "image": "/9j/4AAQSkZJRgABAQ…"}, ensure_ascii=False) + "\n" for n in (1, 2)
)
_MANY_FORM: dict[str, Any] = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["images"],
            "properties": {"images": {"type": "array", "minItems": 1, "items": _BINARY}},
        }
    }
}
MANY_PICTURES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            **_MANY_FORM,
            "application/zip": {"schema": _BINARY},
            "application/x-tar": {"schema": _BINARY},
            NDJSON: {"schema": {"type": "string", "description": "one SentPicture a line"}, "example": _SENT},
        },
    }
}

MANY_OR_ONE_PICTURE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            name: form
            for name, form in (
                MANY_PICTURES["requestBody"]["content"] | ONE_PICTURE["requestBody"]["content"] | _MANY_FORM
            ).items()
            if name != NDJSON
        },
    }
}

METRICS_TEXT: Responses = {
    200: {"description": "Prometheus text format", "content": {"text/plain": {"schema": {"type": "string"}}}}
}

_REQUEST_ID_HEADER = {
    "description": "id of this request in the service's log",
    "schema": {"type": "string"},
}
_RETRY_AFTER_HEADER = {"description": "seconds to wait before a retry", "schema": {"type": "string"}}
_ANSWERS = {"/classify": examples.CLASSIFY_ANSWER, "/classify/batch": examples.BATCH_ANSWER}


def problem_responses(*statuses: int, form: type[Problem] = Problem) -> Responses:
    """The problems of a route, and the 500 that every route can answer."""
    return {status: _problem_response(status, form) for status in (*statuses, 500)}


def stream_response() -> Responses:
    """The NDJSON form of a batch answer."""
    lines = [json.dumps(document) for document in (*examples.BATCH_ITEMS, examples.BATCH_SUMMARY)]
    schema = {"type": "string", "description": "one BatchItem a line; the last line is a BatchSummary"}
    return {200: {"content": {NDJSON: {"schema": schema, "example": "\n".join(lines) + "\n"}}}}


def operation_id(route: APIRoute) -> str:
    """The route function's name. Generated clients name their methods by it."""
    return route.name


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the app, built once."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
            license_info=app.license_info,
            servers=app.servers or None,
        )
        app.openapi_schema = _completed(found)
    return app.openapi_schema


def encoded(app: FastAPI) -> tuple[bytes, str]:
    """The document as `/openapi.json` sends it, and its ETag. Serialised once per app: it takes 5 ms (270 kB)."""
    cached: tuple[bytes, str] | None = getattr(app.state, "openapi_json", None)
    if cached is None:
        body = json.dumps(document(app), ensure_ascii=False, separators=(",", ":")).encode()
        cached = app.state.openapi_json = body, f'"{sha256(body).hexdigest()[:32]}"'
    return cached


def as_file(app: FastAPI) -> str:
    """The document as in the repository's `openapi.json`."""
    return json.dumps(document(app), indent=2, ensure_ascii=False) + "\n"


def _completed(found: dict[str, Any]) -> dict[str, Any]:
    found["components"]["securitySchemes"] = {"bearer": BEARER}
    for model in (Problem, CellsProblem, InferenceProblem, BatchSummary, SentPicture):
        schema = model.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
        found["components"]["schemas"] |= schema.pop("$defs", {}) | {model.__name__: schema}
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            _complete_operation(method.upper(), path, operation)
        if path in _ANSWERS:
            operations["post"]["responses"]["200"]["content"]["application/json"]["example"] = _ANSWERS[path]
    for unused in ("HTTPValidationError", "ValidationError"):
        found["components"]["schemas"].pop(unused, None)
    return found


def _complete_operation(method: str, path: str, operation: dict[str, Any]) -> None:
    """Add scopes, the role, the problems of authentication, and headers; remove FastAPI's own error document."""
    answers = operation["responses"]
    if scopes := policy.required_scopes(path):
        operation["security"] = [{"bearer": [scope]} for scope in sorted(scopes)]  # any of them
        accepted = "any scope" if scopes == frozenset(SCOPES) else f"the scope `{'` or `'.join(sorted(scopes))}`"
        role = policy.required_role(method, path)
        also = f", and the role `{role}`" if role else ""
        text = f"{operation.get('description', '')}\n\nNeeds a key or token with {accepted}{also}."
        operation["description"] = text.strip()
        form = InferenceProblem if path.startswith(PROTOCOL_PATH) else Problem
        authentication = problem_responses(*AUTH_STATUSES, form=form)
        operation["responses"] = answers = {str(status): each for status, each in authentication.items()} | answers
    if "422" in answers and MEDIA_TYPE not in answers["422"]["content"]:
        del answers["422"]
    for status, response in answers.items():
        response["headers"] = response.get("headers", {}) | {"X-Request-ID": _REQUEST_ID_HEADER}
        if status in ("429", "503"):
            response["headers"] |= {"Retry-After": _RETRY_AFTER_HEADER}


def _problem_response(status: int, form: type[Problem]) -> dict[str, Any]:
    found = {each.name: each for _, each in PROBLEM_TYPES if each.status == status}
    titles = [each.title for each in found.values()] or [HTTPStatus(status).phrase]
    example = examples.PROBLEM | {"status": status, "title": titles[0], "detail": "what was wrong, and what to do"}
    example["type"] = next(iter(found.values())).type if found else "urn:problem-type:marrowlens:internal-error"
    if form is InferenceProblem:
        example["error"] = example["detail"]
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{form.__name__}"}, "example": example}}
    return {"description": "; or: ".join(titles), "content": content}
