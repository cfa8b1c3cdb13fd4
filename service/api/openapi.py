"""The OpenAPI document: what FastAPI cannot know of bodies, problems and headers, and the whole of it as one file.

Knows the documentation's form. Does not know how anything is answered.
"""

import json
from hashlib import sha256
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from model.contract import RESEARCH_USE
from service.api import examples
from service.api.problems import MEDIA_TYPE, PROTOCOL_PATH, TABLE
from service.api.schemas import BatchSummary, InferenceProblem, Problem, SentPicture
from service.auth import policy
from service.auth.identity import SCOPES

NDJSON = "application/x-ndjson"
PICTURE_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/tiff", "image/webp")
Responses = dict[int | str, dict[str, Any]]

DESCRIPTION = f"""Post a picture of one bone-marrow cell; get the probability of every class, maps of what the network
looked at, and which model said so. Post many; get the differential count.

**{RESEARCH_USE}**

Every answer carries `X-Request-ID`: the one sent, if it is made of at most 64 letters, digits and `. _ : -`, or a new
one. Errors are problems of RFC 9457; `type` tells them apart."""

TAGS = [
    {"name": "cells", "description": "From pictures to answers."},
    {
        "name": "specimens",
        "description": "From cells to the signed differential of a specimen, where a laboratory is set up. Whoever "
        "changes something says who he is, and which revision he has seen: of two at once, one gets 409.",
    },
    {"name": "model", "description": "Which model answers."},
    {
        "name": "open inference protocol",
        "description": "The same model for clients of KServe, Triton and their like: tensors in, tensors out. An error "
        "is a problem whose sentence stands in `error` too.",
    },
    {"name": "operations", "description": "For those who run the service."},
]

BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, or a token of the OpenID Connect issuer; each operation says which "
    "scope it takes. Where the service listens on loopback alone and neither is set up, nobody is asked.",
}
#: What whoever is not let in hears, on every route where callers are asked who they are.
GUARDED = (401, 403, 429, 503)

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
            NDJSON: {"schema": {"type": "string", "description": "lines of SentPicture"}, "example": _SENT},
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
    "description": "under which the service's log speaks of this request",
    "schema": {"type": "string"},
}
_RETRY_AFTER_HEADER = {"description": "seconds", "schema": {"type": "string"}}
_ANSWERS = {"/classify": examples.CLASSIFY_ANSWER, "/classify/batch": examples.BATCH_ANSWER}


def problem_responses(*statuses: int, form: type[Problem] = Problem) -> Responses:
    """The problems that a route can answer with, and the one that none is safe from."""
    return {status: _problem_response(status, form) for status in (*statuses, 500)}


def stream_response() -> Responses:
    """The streamed form of a batch answer."""
    lines = [json.dumps(document) for document in (*examples.BATCH_ITEMS, examples.BATCH_SUMMARY)]
    schema = {"type": "string", "description": "lines of BatchItem; the last line is a BatchSummary"}
    return {200: {"content": {NDJSON: {"schema": schema, "example": "\n".join(lines) + "\n"}}}}


def operation_id(route: APIRoute) -> str:
    """The route function's name: what a generated client calls its method."""
    return route.name


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the app, made once."""
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
    """The document as it is kept in the repository."""
    return json.dumps(document(app), indent=2, ensure_ascii=False) + "\n"


def _completed(found: dict[str, Any]) -> dict[str, Any]:
    found["components"]["securitySchemes"] = {"bearer": BEARER}
    for model in (Problem, InferenceProblem, BatchSummary, SentPicture):
        schema = model.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
        found["components"]["schemas"] |= schema.pop("$defs", {}) | {model.__name__: schema}
    for path, operations in found["paths"].items():
        for operation in operations.values():
            answers = operation["responses"]
            if scopes := policy.required_scopes(path):
                operation["security"] = [{"bearer": [scope]} for scope in sorted(scopes)]  # any of them
                taken = "any scope" if scopes == frozenset(SCOPES) else f"the scope `{'` or `'.join(sorted(scopes))}`"
                said = f"{operation.get('description', '')}\n\nTakes a key or token with {taken}."
                operation["description"] = said.strip()
                form = InferenceProblem if path.startswith(PROTOCOL_PATH) else Problem
                asked = {str(status): answer for status, answer in problem_responses(*GUARDED, form=form).items()}
                operation["responses"] = answers = asked | answers
            if "422" in answers and MEDIA_TYPE not in answers["422"]["content"]:
                del answers["422"]  # FastAPI's own form, which nothing here answers with
            for status, response in answers.items():
                response["headers"] = response.get("headers", {}) | {"X-Request-ID": _REQUEST_ID_HEADER}
                if status in ("429", "503"):
                    response["headers"] |= {"Retry-After": _RETRY_AFTER_HEADER}
        if path in _ANSWERS:
            operations["post"]["responses"]["200"]["content"]["application/json"]["example"] = _ANSWERS[path]
    for unused in ("HTTPValidationError", "ValidationError"):
        found["components"]["schemas"].pop(unused, None)
    return found


def _problem_response(status: int, form: type[Problem]) -> dict[str, Any]:
    kinds = {kind.name: kind for _, kind in TABLE if kind.status == status}
    titles = [kind.title for kind in kinds.values()] or [HTTPStatus(status).phrase]
    example = examples.PROBLEM | {"status": status, "title": titles[0], "detail": "what was wrong this time"}
    example["type"] = next(iter(kinds.values())).type if kinds else "urn:problem-type:marrowlens:internal-error"
    if form is InferenceProblem:
        example["error"] = example["detail"]
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{form.__name__}"}, "example": example}}
    return {"description": "; or: ".join(titles), "content": content}
