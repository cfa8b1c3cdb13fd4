"""The problem of each error: one table, no details in a 500, a valid Retry-After."""

import inspect

import pytest
from starlette.exceptions import HTTPException

from model import image
from model.formats import errors as picture_errors
from service import errors
from service.api.problems import INTERNAL_ERROR, PROBLEM_TYPES, headers, problem, problem_type_of
from service.errors import BodyTooLarge, ClientGone, NotReady, ServiceError, UploadMemoryExhausted
from service.inference.batching import errors as unanswered
from service.inference.batching.errors import BatcherClosed, DeadlineExpired, QueueFull

#: Never sent: the client has disconnected.
UNANSWERED = {ServiceError, ClientGone}
#: Errors of the model or the service, which are a 500 on purpose.
OURS = {unanswered.RunFailed, unanswered.WrongOutputCount}


def exceptions_of(module: object) -> set[type[Exception]]:
    return {
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, Exception) and found.__module__ == module.__name__
    }


@pytest.mark.parametrize("module", [errors, unanswered, picture_errors], ids=lambda module: module.__name__)
def test_every_error_a_request_can_meet_is_in_the_table(module: object) -> None:
    known = tuple(error_class for error_class, _ in PROBLEM_TYPES)
    unknown = {found for found in exceptions_of(module) if not issubclass(found, known)}
    assert unknown <= UNANSWERED | OURS


def test_a_class_stands_before_its_base() -> None:
    classes = [error_class for error_class, _ in PROBLEM_TYPES]
    hidden = [(a, b) for at, a in enumerate(classes) for b in classes[at + 1 :] if issubclass(b, a)]
    assert hidden == []


def test_types_tell_kinds_apart() -> None:
    kinds = {kind for _, kind in PROBLEM_TYPES}
    assert all(400 <= kind.status <= 599 for kind in kinds)
    assert all(kind.type.startswith("urn:problem-type:marrowlens:") for kind in kinds)
    assert len({(kind.type, kind.status) for kind in kinds}) == len({kind.type for kind in kinds})


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (BodyTooLarge(100), 413, "the body is larger than 100 bytes"),
        (image.UnsupportedPicture("a PDF"), 415, "a PDF"),
        (image.PictureTooLarge("too many pixels"), 413, "too many pixels"),
        (image.UndecodablePicture("cut off"), 422, "cut off"),
        (image.PictureError("odd"), 422, "odd"),
        (NotReady("warming up"), 503, "warming up"),
        (DeadlineExpired(), 504, "the picture was not classified before its timeout; retry later"),
        (HTTPException(404), 404, "Not Found"),
        (HTTPException(405), 405, "Method Not Allowed"),
    ],
)
def test_an_error_becomes_its_problem(error: Exception, status: int, detail: str) -> None:
    found = problem(error, "id-1")
    assert (found.status, found.detail, found.request_id) == (status, detail, "id-1")


def test_an_unexpected_error_tells_nothing_of_itself() -> None:
    found = problem(RuntimeError("/secret/path: patient Smith"), "id-1")
    assert found.status == 500
    assert problem_type_of(RuntimeError()) is INTERNAL_ERROR
    assert "Smith" not in found.json_bytes().decode()


@pytest.mark.parametrize(("retry_after_s", "sent"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (2.1, "3")])
def test_retry_after_is_whole_seconds_and_at_least_one(retry_after_s: float, sent: str) -> None:
    assert headers(QueueFull(queued=8, limit=8, retry_after_s=retry_after_s)) == {"Retry-After": sent}


def test_what_will_be_better_later_says_so() -> None:
    assert all("Retry-After" in headers(error) for error in (UploadMemoryExhausted(1), NotReady("x"), BatcherClosed()))
    assert headers(BodyTooLarge(1)) == {}
    assert headers(HTTPException(405, headers={"Allow": "GET"})) == {"Allow": "GET"}
