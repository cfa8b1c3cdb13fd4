"""The problem (RFC 9457) of each error: status, type, title, detail and headers.

The message of an error that is not in the table is never sent: the client gets a 500 without details.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from itertools import islice
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from model.image import ArchiveForPicture, PictureError, PictureTooLarge, UndecodablePicture, UnsupportedPicture
from service.api.schemas import CellsProblem, ChangedCell, InferenceProblem, Problem
from service.concurrency.thread_pools import ThreadPoolFull
from service.errors import (
    AnswerTooLarge,
    AuthenticationTooOld,
    BodyTooLarge,
    CellsChanged,
    CellTaken,
    Conflict,
    CsrfRejected,
    Forbidden,
    InvalidReading,
    InvalidTensor,
    IssuerUnavailable,
    MalformedBody,
    MalformedRequest,
    NoAttentionMaps,
    NoLaboratory,
    NotAcceptable,
    NotReady,
    NotReviewed,
    NoTrustReference,
    NumberTaken,
    RateLimited,
    ReloadInProgress,
    ReloadRejected,
    ReportedAlready,
    RoleMissing,
    SessionExpired,
    SignInFailed,
    StaleRevision,
    StorageUnavailable,
    TooManyConnections,
    TooManyPictures,
    Unauthorised,
    UnknownModel,
    UnknownSpecimen,
    UnsupportedBody,
    UploadMemoryExhausted,
    UploadTooSlow,
    WrongState,
)
from service.inference.batching.errors import BatcherClosed, DeadlineExpired, QueueFull

MEDIA_TYPE = "application/problem+json"
#: Path prefix of the Open Inference Protocol. Its clients read the message of an error from `error`.
PROTOCOL_PATH = "/v2"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One type of problem: programs compare `type`, people read `title`."""

    status: int
    name: str
    title: str

    @property
    def type(self) -> str:
        return f"urn:problem-type:marrowlens:{self.name}"


#: Validation errors shown of one document, so that an answer stays small.
MAX_SHOWN_ERRORS = 10
#: Member names, and parts of some messages, are the client's.
_NAME_LENGTH, _MESSAGE_LENGTH = 80, 300
INTERNAL_ERROR = ProblemType(500, "internal-error", "Internal server error")

#: The first match counts, so a class precedes its base.
PROBLEM_TYPES: tuple[tuple[type[BaseException], ProblemType], ...] = (
    (SessionExpired, ProblemType(401, "session-expired", "The session has ended")),
    (AuthenticationTooOld, ProblemType(401, "authentication-too-old", "Authenticate again to sign")),
    (Unauthorised, ProblemType(401, "unauthorised", "Authentication required")),
    (CsrfRejected, ProblemType(403, "csrf-rejected", "The request does not come from this service's page")),
    (RoleMissing, ProblemType(403, "role-missing", "A role is missing")),
    (Forbidden, ProblemType(403, "forbidden", "Permission denied")),
    (UnknownModel, ProblemType(404, "unknown-model", "Model not found")),
    (NoLaboratory, ProblemType(404, "no-laboratory", "No laboratory is configured")),
    (UnknownSpecimen, ProblemType(404, "unknown-specimen", "Not found in this laboratory")),
    (SignInFailed, ProblemType(400, "sign-in-failed", "Sign-in failed")),
    (MalformedRequest, ProblemType(400, "bad-request", "Bad Request")),
    (NotAcceptable, ProblemType(406, "not-acceptable", "No acceptable response format")),
    (UploadTooSlow, ProblemType(408, "upload-too-slow", "The body did not arrive in time")),
    (BodyTooLarge, ProblemType(413, "body-too-large", "The body is too large")),
    (TooManyPictures, ProblemType(413, "too-many-pictures", "Too many pictures in one request")),
    (PictureTooLarge, ProblemType(413, "picture-too-large", "The picture is too large")),
    (ReloadInProgress, ProblemType(409, "change-under-way", "A model reload is already in progress")),
    (StaleRevision, ProblemType(409, "stale-revision", "The revision is out of date")),
    (WrongState, ProblemType(409, "wrong-state", "Not allowed in this state of the specimen")),
    (NumberTaken, ProblemType(409, "number-taken", "The specimen number is already in use")),
    (ReportedAlready, ProblemType(409, "reported-already", "A report was already sent")),
    (CellTaken, ProblemType(409, "cell-taken", "The key or the picture already belongs to another cell")),
    (NotReviewed, ProblemType(409, "not-reviewed", "The specimen cannot be signed yet")),
    (Conflict, ProblemType(409, "conflict", "The specimen has changed")),
    (UnsupportedBody, ProblemType(415, "unsupported-body", "Unsupported body type")),
    (UnsupportedPicture, ProblemType(415, "unsupported-picture", "Unsupported picture type")),
    (UndecodablePicture, ProblemType(422, "undecodable-picture", "The picture cannot be decoded")),
    (PictureError, ProblemType(422, "undecodable-picture", "The picture cannot be decoded")),
    (MalformedBody, ProblemType(422, "malformed-body", "The body cannot be parsed")),
    (AnswerTooLarge, ProblemType(422, "answer-too-large", "The answer would be too large")),
    (ReloadRejected, ProblemType(422, "model-refused", "The model was rejected")),
    (InvalidTensor, ProblemType(422, "invalid-tensor", "Invalid tensor")),
    (InvalidReading, ProblemType(422, "invalid-reading", "Invalid reading")),
    (RequestValidationError, ProblemType(422, "invalid-parameter", "Invalid parameter")),
    (NoTrustReference, ProblemType(422, "invalid-parameter", "Invalid parameter")),
    (NoAttentionMaps, ProblemType(422, "invalid-parameter", "Invalid parameter")),
    (RateLimited, ProblemType(429, "rate-limited", "Rate limit exceeded")),
    (QueueFull, ProblemType(429, "overloaded", "The service is overloaded")),
    (ThreadPoolFull, ProblemType(429, "overloaded", "The service is overloaded")),
    (UploadMemoryExhausted, ProblemType(429, "overloaded", "The service is overloaded")),
    (NotReady, ProblemType(503, "not-ready", "The service is not ready")),
    (TooManyConnections, ProblemType(503, "too-many-connections", "Too many connections")),
    (StorageUnavailable, ProblemType(503, "storage-unavailable", "The laboratory's database is unavailable")),
    (IssuerUnavailable, ProblemType(503, "issuer-unavailable", "The token issuer is unavailable")),
    (BatcherClosed, ProblemType(503, "not-ready", "The service is not ready")),
    (DeadlineExpired, ProblemType(504, "deadline-expired", "Deadline exceeded")),
)

#: Messages for clients, in place of those that are written for programmers.
_DETAILS: dict[type[BaseException], str] = {
    ArchiveForPicture: "a ZIP archive in place of one picture; send it to /classify/batch as the body, with "
    "Content-Type: application/zip",
    BatcherClosed: "the service is shutting down or its model does not respond; send the picture to another instance",
    ThreadPoolFull: "too many requests are in progress; retry later",
    DeadlineExpired: "the picture was not classified before its timeout; retry later",
}


def problem_type_of(error: BaseException) -> ProblemType:
    """The problem type of an error; `INTERNAL_ERROR` for any error without one."""
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        return ProblemType(error.status_code, phrase.lower().replace(" ", "-"), phrase)
    return _problem_type(type(error))  # type: ignore[arg-type]  # mypy: classes have no __hash__


@lru_cache(maxsize=1024)
def _problem_type(kind: type[BaseException]) -> ProblemType:
    return next((found for error_class, found in PROBLEM_TYPES if issubclass(kind, error_class)), INTERNAL_ERROR)


def problem(error: BaseException, request_id: str, path: str = "") -> Problem:
    """The RFC 9457 document of an error. Under `/v2` it is the protocol's error object too."""
    found = problem_type_of(error)
    document = Problem(
        type=found.type, title=found.title, status=found.status, detail=_detail(error, found), request_id=request_id
    )
    if isinstance(error, CellsChanged):
        return CellsProblem(**dict(document), cells=[ChangedCell.model_validate(cell) for cell in error.cells])
    if path == PROTOCOL_PATH or path.startswith(f"{PROTOCOL_PATH}/"):
        return InferenceProblem(**dict(document), error=document.detail)
    return document


def headers(error: BaseException) -> dict[str, str]:
    """Headers of a problem: `Retry-After` in whole seconds (RFC 9110, 10.2.3), `Allow` with 405,
    `WWW-Authenticate` with 401 and for a missing scope (RFC 6750, 3)."""
    if isinstance(error, HTTPException):
        return dict(error.headers or {})
    if isinstance(error, QueueFull | UploadMemoryExhausted | RateLimited | IssuerUnavailable | TooManyConnections):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    if isinstance(error, Unauthorised):
        return {"WWW-Authenticate": 'Bearer error="invalid_token"' if error.invalid_token else "Bearer"}
    if isinstance(error, Forbidden) and error.scopes:
        return {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{" ".join(error.scopes)}"'}
    if isinstance(error, NotReady | BatcherClosed | StorageUnavailable | ThreadPoolFull):
        return {"Retry-After": "1"}
    return {}


def unknown_path(path: str, routes: Iterable[BaseRoute]) -> str:
    """The detail of a 404. It names the route that differs only in slashes or capital letters, if there is one."""
    plain = "/" + "/".join(filter(None, path.split("/")))
    known = list(routes)
    similar = next((each for each in (plain, plain.lower()) if each != path and _is_known(each, known)), None)
    if similar is None:
        return "unknown path; GET /docs lists all paths"
    fault = "unknown path: it ends in a slash" if path == f"{similar}/" else "unknown path"
    return f"{fault}; did you mean {similar}?"


def _is_known(path: str, routes: Iterable[BaseRoute]) -> bool:
    scope = {"type": "http", "path": path, "method": "GET", "headers": []}
    return any(route.matches(scope)[0] is not Match.NONE for route in routes)


def _detail(error: BaseException, found: ProblemType) -> str:
    if found is INTERNAL_ERROR:
        return "unexpected error; look for this request_id in the service's log"
    if isinstance(error, HTTPException):
        return str(error.detail)
    if isinstance(error, RequestValidationError):
        return _first(_parameter_error(fault["loc"], fault["type"], fault["msg"]) for fault in error.errors())
    message = error.reason if isinstance(error, PictureError) else str(error)
    return next((text for error_class, text in _DETAILS.items() if isinstance(error, error_class)), message)


def validation_message(errors: Sequence[Mapping[str, Any]]) -> str:
    """pydantic's errors of one document in one line: the first of them, and the number of the others."""
    return _first(": ".join(filter(None, (_path(error["loc"]), error["msg"]))) for error in errors)


def _first(messages: Iterable[str]) -> str:
    each = iter(messages)
    first = list(islice(each, MAX_SHOWN_ERRORS))
    more = sum(1 for _ in each)
    return "; ".join(first) + (f"; and {more} more" if more else "")


def _path(location: Sequence[str | int]) -> str:
    return ".".join(str(part)[:_NAME_LENGTH] for part in location)


def _parameter_error(location: tuple[str | int, ...], kind: str, message: str) -> str:
    place, *path = location
    name = _path(path)
    if kind == "json_invalid":
        return f"the {place} is not valid JSON: {message[:_MESSAGE_LENGTH]} (character {name})"
    if kind == "missing" and not path:
        return f"the {place} is missing"
    if kind == "model_attributes_type" and not path:
        return f"the {place} must be a JSON object, sent with Content-Type: application/json"
    if kind == "extra_forbidden":
        return f"{name}: unknown {place} parameter"
    return f"{place} parameter {name}: {message[:_MESSAGE_LENGTH]}"
