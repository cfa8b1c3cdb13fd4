"""What the service refuses, as plain exceptions that carry their data.

Knows no HTTP: `service.api.problems` says which status each of these, and each error of the parts below, becomes.

    ServiceError
    ├── BodyTooLarge          the request's body, or all of an archive unpacked
    ├── MalformedRequest      no HTTP, or none that is spoken here
    ├── TooManyConnections    as many are open as may be, and all are in use
    ├── TooManyPictures       more pictures in one request than allowed
    ├── UnsupportedBody       a Content-Type or Content-Encoding that the route does not take
    ├── MalformedBody         of the right type, but not readable as such
    ├── InvalidTensor         a tensor that is not what the model takes, or that contradicts itself
    ├── UnknownModel          another model or version than the one that answers here
    ├── UploadTooSlow         the client stopped sending
    ├── UploadMemoryExhausted requests in flight, of all callers or of this one, fill the memory set aside for uploads
    ├── AnswerTooLarge        the answer in one piece, not the body that asked for it
    ├── NotAcceptable         every form that the answer has is excluded by Accept
    ├── Unauthorised          without a key or a token that holds
    ├── Forbidden             known, but not allowed; or what nobody may do here, as the service is set up
    ├── RateLimited           more requests than this caller may send
    ├── IssuerUnavailable     tokens cannot be checked now
    ├── ChangeUnderWay        the model is being changed already
    ├── ModelRefused          the model that should take over cannot
    ├── NoLaboratory          no database is set, so there are no specimens
    ├── StorageUnavailable    the laboratory's database does not answer
    ├── UnknownSpecimen       no specimen, cell, report or kept picture under that name
    ├── Conflict              somebody else was first, or the specimen is past that
    │   ├── StaleRevision     the specimen or cell was changed since the caller saw it
    │   ├── WrongState        signed, cancelled, or not signed yet
    │   ├── NumberTaken       another specimen has that number
    │   ├── ReportedAlready   a report went out, which this would leave standing at its receiver
    │   ├── CellTaken         the key stands for another picture, or the picture under another key
    │   └── NotReviewed       cells wait for a person, or there is nothing to sign
    ├── InvalidReading        a cell's new class is none, or a reason is missing
    ├── NotReady              the model is not warm yet, or the service is stopping
    └── ClientGone            nobody waits for the answer any more
"""

from collections.abc import Sequence
from typing import Literal


class ServiceError(Exception):
    """Root of the service's own errors; the message is a sentence for the one who sent the request."""


class BodyTooLarge(ServiceError):
    """More bytes than allowed."""

    def __init__(self, limit_bytes: int, what: str = "the body") -> None:
        super().__init__(f"{what} is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class MalformedRequest(ServiceError):
    """What came is not HTTP as it is spoken here, so that nobody knows where the next request begins."""


class TooManyConnections(ServiceError):
    """As many connections are open as may be, and a request is under way on each."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} connections are open, which is the limit, and all are in use; try again later")
        self.limit = limit
        self.retry_after_s = 1.0


class TooManyPictures(ServiceError):
    """More pictures in one request than allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"a request may hold {limit} pictures; send the rest in another one")
        self.limit = limit


class UnsupportedBody(ServiceError):
    """A body of a type that the route does not take."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"{found or 'a body without Content-Type'} is not read here; send {expected}")
        self.found = found
        self.expected = expected


class MalformedBody(ServiceError):
    """A body of the right type that cannot be read as such, or that lacks what the route needs."""


class InvalidTensor(ServiceError):
    """A tensor, or a parameter of it, that is not what the model takes, or whose data contradicts its shape."""


class UnknownModel(ServiceError):
    """A model's name or version was asked for that is not the one here."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"there is no such model here; the one that answers is {name}, version {version}")
        self.name = name
        self.version = version


class UploadTooSlow(ServiceError):
    """The client sent nothing, or too little, for too long."""

    def __init__(self, pause_s: float, least_bytes_per_s: int) -> None:
        super().__init__(
            f"the body came too slowly: send at least {least_bytes_per_s} bytes/s, with pauses below {pause_s:g} s, or "
            "send less at a time"
        )


class AnswerTooLarge(ServiceError):
    """The answer in one piece would be larger than allowed; the request says what is in it."""

    def __init__(self, limit_bytes: int, advice: str) -> None:
        super().__init__(f"the answer in one piece is larger than {limit_bytes} bytes; {advice}")
        self.limit_bytes = limit_bytes


class NotAcceptable(ServiceError):
    """The Accept header excludes every form of the answer (RFC 9110, 12.5.1)."""

    def __init__(self, offered: Sequence[str]) -> None:
        super().__init__(f"Accept excludes every form of this answer: {', '.join(offered)}; ask for one of them")
        self.offered = offered


class UploadMemoryExhausted(ServiceError):
    """The memory for requests in flight, or one caller's part of it, is in use; later there is room again."""

    def __init__(self, limit_bytes: int, whose: Literal["all", "your"] = "all") -> None:
        super().__init__(
            f"{whose} requests in flight already fill the {limit_bytes} bytes that they may hold in memory"
        )
        self.limit_bytes = limit_bytes
        self.retry_after_s = 1.0


class Unauthorised(ServiceError):
    """Nobody knows who sent the request.

    Attributes:
        invalid_token: whether a key or token came that does not hold, instead of none (RFC 6750, 3.1).
    """

    def __init__(self, reason: str, *, invalid_token: bool = False) -> None:
        super().__init__(reason)
        self.invalid_token = invalid_token


class Forbidden(ServiceError):
    """This caller may not do that, or nobody may, as the service is set up.

    Attributes:
        scopes: those of which one would have been enough, where that is what was missing.
    """

    def __init__(self, reason: str, *, scopes: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.scopes = scopes


class RateLimited(ServiceError):
    """This caller has sent more requests than he may; others are not concerned."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("you have sent more requests than your key or token may; send this one again a little later")
        self.retry_after_s = retry_after_s


class IssuerUnavailable(ServiceError):
    """The issuer of tokens does not answer, and its keys are not cached. API keys are taken all the same."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("the issuer of tokens does not answer, so that no token can be checked; try again later")
        self.retry_after_s = retry_after_s


class ChangeUnderWay(ServiceError):
    """One change of the model at a time."""

    def __init__(self) -> None:
        super().__init__("the model is being changed already; ask again when that has ended")


class ModelRefused(ServiceError):
    """The model that should take over cannot; the old one serves on."""


class NoLaboratory(ServiceError):
    """No database is set: this service classifies, and keeps no specimens."""

    def __init__(self) -> None:
        super().__init__("this service keeps no specimens: set MARROWLENS_LIS_DATABASE, as docs/lis.md says")


class StorageUnavailable(ServiceError):
    """The laboratory's database does not answer. What was being written may or may not be there: look before again."""

    def __init__(self) -> None:
        super().__init__("the laboratory's database does not answer; look whether it was done before trying again")


class UnknownSpecimen(ServiceError):
    """There is no such thing in this laboratory."""

    def __init__(self, what: str = "specimen") -> None:
        super().__init__(f"there is no such {what} here")


class Conflict(ServiceError):
    """The specimen does not stand as the caller believes: look at it again, then decide anew."""


class StaleRevision(Conflict):
    """It was changed since the caller saw it."""

    def __init__(self, what: str, seen: int, now: int) -> None:
        super().__init__(f"{what} was changed meanwhile: you saw {seen}, it stands at {now}; look at it again")
        self.seen = seen
        self.now = now


class WrongState(Conflict):
    """What was asked for does not go with the state of the specimen."""

    def __init__(self, state: str, allowed: str) -> None:
        super().__init__(f"the specimen is {state}; {allowed}")
        self.state = state


class NumberTaken(Conflict):
    """Another specimen has that number."""

    def __init__(self) -> None:
        super().__init__("a specimen with that number is here already; look for it by its number")


class ReportedAlready(Conflict):
    """A report went out, and what is asked for would leave it standing where it was sent."""


class CellTaken(Conflict):
    """One key for two pictures, or one picture under two keys: one of them would be counted wrongly."""


class NotReviewed(Conflict):
    """The specimen cannot be signed as it is."""


class InvalidReading(ServiceError):
    """A reading that cannot be: a class that there is not, a cell twice, a change without a reason."""


class NotReady(ServiceError):
    """The model is not warm yet, has stopped answering, or the service is stopping."""


class ClientGone(ServiceError):
    """The client closed the connection: its work was cancelled."""
