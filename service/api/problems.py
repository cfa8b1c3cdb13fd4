"""Which HTTP problem each error becomes: the ONE table, and the RFC 9457 document made from it.

Knows statuses, types and titles. Does not know where the errors come from, and never repeats the text of an
error that is not in the table: an unexpected one is a 500 that says only that.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from model.image import ArchiveForPicture, PictureError, PictureTooLarge, UndecodablePicture, UnsupportedPicture
from service.api.schemas import InferenceProblem, Problem
from service.concurrency.thread_pools import ThreadPoolFull
from service.errors import (
    AnswerTooLarge,
    BodyTooLarge,
    CellTaken,
    ChangeUnderWay,
    Conflict,
    Forbidden,
    InvalidReading,
    InvalidTensor,
    IssuerUnavailable,
    MalformedBody,
    MalformedRequest,
    ModelRefused,
    NoLaboratory,
    NotAcceptable,
    NotReady,
    NotReviewed,
    NumberTaken,
    RateLimited,
    ReportedAlready,
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
#: Under which the Open Inference Protocol is spoken, whose clients read an error's sentence from `error`.
PROTOCOL_PATH = "/v2"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem: `type` is what a program compares, `title` what a person reads."""

    status: int
    name: str
    title: str

    @property
    def type(self) -> str:
        return f"urn:problem-type:marrowlens:{self.name}"


#: Of a body with a hundred thousand faults the first are enough, and an answer stays small.
FAULTS_TOLD = 10
#: Names of members come from the client, and so do parts of some messages.
_NAME_LENGTH, _MESSAGE_LENGTH = 80, 300
UNEXPECTED = Kind(500, "internal-error", "The service failed")

#: First match wins, so a class stands before its base.
TABLE: tuple[tuple[type[BaseException], Kind], ...] = (
    (Unauthorised, Kind(401, "unauthorised", "Not without a key or a token")),
    (Forbidden, Kind(403, "forbidden", "Not with this key, or not here")),
    (UnknownModel, Kind(404, "unknown-model", "There is no such model here")),
    (NoLaboratory, Kind(404, "no-laboratory", "No laboratory is set up here")),
    (UnknownSpecimen, Kind(404, "unknown-specimen", "There is no such thing in this laboratory")),
    (MalformedRequest, Kind(400, "bad-request", "Bad Request")),
    (NotAcceptable, Kind(406, "not-acceptable", "No form of the answer is acceptable")),
    (UploadTooSlow, Kind(408, "upload-too-slow", "The body did not arrive in time")),
    (BodyTooLarge, Kind(413, "body-too-large", "The body is too large")),
    (TooManyPictures, Kind(413, "too-many-pictures", "Too many pictures in one request")),
    (PictureTooLarge, Kind(413, "picture-too-large", "The picture is too large")),
    (ChangeUnderWay, Kind(409, "change-under-way", "The model is being changed already")),
    (StaleRevision, Kind(409, "stale-revision", "It was changed meanwhile")),
    (WrongState, Kind(409, "wrong-state", "The specimen is past that, or not there yet")),
    (NumberTaken, Kind(409, "number-taken", "Another specimen has that number")),
    (ReportedAlready, Kind(409, "reported-already", "A report went out that would stay as it is")),
    (CellTaken, Kind(409, "cell-taken", "Another cell has that key or that picture")),
    (NotReviewed, Kind(409, "not-reviewed", "The specimen cannot be signed yet")),
    (Conflict, Kind(409, "conflict", "The specimen does not stand as you believe")),
    (UnsupportedBody, Kind(415, "unsupported-body", "The body is of a type that is not read here")),
    (UnsupportedPicture, Kind(415, "unsupported-picture", "Not a picture type that is read here")),
    (UndecodablePicture, Kind(422, "undecodable-picture", "The picture cannot be decoded")),
    (PictureError, Kind(422, "undecodable-picture", "The picture cannot be decoded")),
    (MalformedBody, Kind(422, "malformed-body", "The body cannot be read")),
    (AnswerTooLarge, Kind(422, "answer-too-large", "The answer would be too large")),
    (ModelRefused, Kind(422, "model-refused", "The model cannot take over")),
    (InvalidTensor, Kind(422, "invalid-tensor", "The tensor is not what the model takes")),
    (InvalidReading, Kind(422, "invalid-reading", "The reading cannot be")),
    (RequestValidationError, Kind(422, "invalid-parameter", "A parameter is off")),
    (RateLimited, Kind(429, "rate-limited", "Too many requests of one caller")),
    (QueueFull, Kind(429, "overloaded", "Too many pictures are waiting")),
    (ThreadPoolFull, Kind(429, "overloaded", "Too many requests are waiting")),
    (UploadMemoryExhausted, Kind(429, "overloaded", "Too many uploads at once")),
    (NotReady, Kind(503, "not-ready", "The service is not ready")),
    (TooManyConnections, Kind(503, "too-many-connections", "Too many connections")),
    (StorageUnavailable, Kind(503, "storage-unavailable", "The laboratory's database does not answer")),
    (IssuerUnavailable, Kind(503, "issuer-unavailable", "Tokens cannot be checked now")),
    (BatcherClosed, Kind(503, "not-ready", "The service takes no pictures")),
    (DeadlineExpired, Kind(504, "deadline-expired", "The answer would have come too late")),
)

#: Sentences for errors whose own text speaks to a programmer rather than to the one who sent the request.
_DETAILS: dict[type[BaseException], str] = {
    ArchiveForPicture: "a ZIP archive, where one picture belongs; send it to /classify/batch as the body itself, with "
    "Content-Type: application/zip",
    BatcherClosed: "the service is stopping or its model hangs; send the picture again to another instance",
    ThreadPoolFull: "too many requests wait to be read; send this one again a little later",
    DeadlineExpired: "the picture waited longer than a request may take; send it again later",
}


def kind_of(error: BaseException) -> Kind:
    """The kind of problem that an error is; `UNEXPECTED` when the table does not know it."""
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        return Kind(error.status_code, phrase.lower().replace(" ", "-"), phrase)
    return next((kind for error_class, kind in TABLE if isinstance(error, error_class)), UNEXPECTED)


def problem(error: BaseException, request_id: str, path: str = "") -> Problem:
    """The RFC 9457 document for an error; below `/v2` it is the protocol's error object as well."""
    kind = kind_of(error)
    found = Problem(
        type=kind.type, title=kind.title, status=kind.status, detail=_detail(error, kind), request_id=request_id
    )
    if path == PROTOCOL_PATH or path.startswith(f"{PROTOCOL_PATH}/"):
        return InferenceProblem(**dict(found), error=found.detail)
    return found


def headers(error: BaseException) -> dict[str, str]:
    """Headers that go with a problem: `Retry-After` in whole seconds (RFC 9110, 10.2.3), `Allow` with a 405,
    `WWW-Authenticate` with a 401 and where a scope is missing (RFC 6750, 3)."""
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


def _detail(error: BaseException, kind: Kind) -> str:
    if kind is UNEXPECTED:
        return "an unexpected error; the service's log names it under this request_id"
    if isinstance(error, HTTPException):
        return str(error.detail)
    if isinstance(error, RequestValidationError):
        return _first(_fault(fault["loc"], fault["type"], fault["msg"]) for fault in error.errors())
    said = error.reason if isinstance(error, PictureError) else str(error)
    return next((text for error_class, text in _DETAILS.items() if isinstance(error, error_class)), said)


def faults_told(faults: Sequence[Mapping[str, Any]]) -> str:
    """pydantic's errors of one document as a sentence: the first of them, and how many more there are."""
    return _first(": ".join(filter(None, (_name(fault["loc"]), fault["msg"]))) for fault in faults)


def _first(told: Iterable[str]) -> str:
    each = iter(told)
    first = list(islice(each, FAULTS_TOLD))
    more = sum(1 for _ in each)
    return "; ".join(first) + (f"; and {more} more" if more else "")


def _name(path: Sequence[str | int]) -> str:
    return ".".join(str(part)[:_NAME_LENGTH] for part in path)


def _fault(location: tuple[str | int, ...], kind: str, message: str) -> str:
    place, *path = location
    name = _name(path)
    if kind == "json_invalid":
        return f"the {place} is no JSON: {message[:_MESSAGE_LENGTH]} (character {name})"
    if kind == "missing" and not path:
        return f"the {place} is missing"
    if kind == "model_attributes_type" and not path:
        return f"the {place} is no JSON object, sent with Content-Type: application/json"
    if kind == "extra_forbidden":
        return f"{name} is not a {place} parameter here"
    return f"{place} parameter {name}: {message[:_MESSAGE_LENGTH]}"
