"""Errors of the service, as exceptions that carry their data. `service.api.problems` maps each to an HTTP problem.

ServiceError
├── BodyTooLarge          a body, or an unpacked archive, over its limit
├── MalformedRequest      not valid HTTP, or HTTP that is not supported
├── TooManyConnections    the limit of open connections is reached
├── TooManyPictures       more pictures in one request than allowed
├── UnsupportedBody       a Content-Type or Content-Encoding that the route does not support
├── MalformedBody         a supported type, but not parseable
├── NoAttentionMaps       attention maps of a model that has none
├── NoTrustReference      corrected shares of a model without a trust reference
├── InvalidTensor         a tensor that does not fit the model, or contradicts itself
├── UnknownModel          a model name or version other than the served one
├── UploadTooSlow         the client sent too little for too long
├── UploadMemoryExhausted the memory for requests in flight is used up
├── AnswerTooLarge        the buffered answer would be over its limit
├── NotAcceptable         the Accept header excludes every response format
├── Unauthorised          no valid key or token
│   ├── SessionExpired    the browser session has ended
│   └── AuthenticationTooOld  a signature needs a recent authentication
├── Forbidden             authenticated without the permission, or forbidden by the configuration
│   ├── CsrfRejected      a request by cookie without the session's CSRF token, or from another origin
│   └── RoleMissing       the person does not have the role
├── SignInFailed          the issuer's answer to a sign-in cannot be used
├── RateLimited           over the rate limit of this caller
├── IssuerUnavailable     tokens cannot be verified now
├── ReloadInProgress      another reload of the model has not finished
├── ReloadRejected        the new model cannot be used
├── NoLaboratory          no laboratory database is configured
├── StorageUnavailable    the laboratory's database does not respond
├── UnknownSpecimen       no such specimen, cell, report or stored picture
├── Conflict              the change does not fit the current specimen
│   ├── StaleRevision     the specimen or cell has changed since the client read it
│   │   └── CellsChanged  the cells that a reading names; carries their current state
│   ├── WrongState        not allowed in the specimen's state
│   ├── NumberTaken       another specimen has that number
│   ├── ReportedAlready   a sent report would become wrong
│   ├── CellTaken         the key has another picture, or the picture has another key
│   └── NotReviewed       unreviewed cells, or nothing to sign
├── InvalidReading        an unknown class, or a missing reason
├── NotReady              the model is not warm, the service is shutting down, or sessions cannot be read
└── ClientGone            the client disconnected
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple


class ServiceError(Exception):
    """Base of the service's errors. The message is sent to the client."""


class BodyTooLarge(ServiceError):
    """More bytes than allowed."""

    def __init__(self, limit_bytes: int, what: str = "the body") -> None:
        super().__init__(f"{what} is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class MalformedRequest(ServiceError):
    """Not valid HTTP, or HTTP that is not supported. The start of the next request is unknown."""


class TooManyConnections(ServiceError):
    """The limit of open connections is reached, and each has a request in progress."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"all of the {limit} connections that are allowed are in use; retry later")
        self.limit = limit
        self.retry_after_s = 1.0


class TooManyPictures(ServiceError):
    """More pictures in one request than allowed."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"at most {limit} pictures are allowed in one request; send the rest in another one")
        self.limit = limit


class UnsupportedBody(ServiceError):
    """A body type that the route does not support."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"{found or 'a body without Content-Type'} is not supported; send {expected}")
        self.found = found
        self.expected = expected


class MalformedBody(ServiceError):
    """A body of a supported type that cannot be parsed, or that lacks a required part."""


class NoAttentionMaps(ServiceError):
    """The request asks for attention maps, and the model has none."""

    def __init__(self) -> None:
        super().__init__("query parameter maps: this model has no attention maps; send maps=evidence or maps=none")


class NoTrustReference(ServiceError):
    """The request asks for corrected shares, and the model has no trust reference."""

    def __init__(self) -> None:
        super().__init__("query parameter corrected: this model has no trust reference; send corrected=false")


class InvalidTensor(ServiceError):
    """A tensor or tensor parameter that does not fit the model, or whose data contradicts its shape."""


class UnknownModel(ServiceError):
    """The requested model name or version is not the served one."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"no such model; the served one is {name}, version {version}")
        self.name = name
        self.version = version


class UploadTooSlow(ServiceError):
    """The client sent too little for too long."""

    def __init__(self, pause_s: float, least_bytes_per_s: int) -> None:
        super().__init__(
            f"the body arrived too slowly; send at least {least_bytes_per_s} bytes/s with pauses below {pause_s:g} s, "
            "or send less at a time"
        )


class AnswerTooLarge(ServiceError):
    """The buffered answer would be larger than allowed. Its size follows from the request."""

    def __init__(self, limit_bytes: int, advice: str) -> None:
        super().__init__(f"the answer would be larger than {limit_bytes} bytes; {advice}")
        self.limit_bytes = limit_bytes


class NotAcceptable(ServiceError):
    """The Accept header excludes every response format (RFC 9110, 12.5.1)."""

    def __init__(self, offered: Sequence[str]) -> None:
        super().__init__(f"Accept excludes every format of this response; accept one of {', '.join(offered)}")
        self.offered = offered


class UploadMemoryExhausted(ServiceError):
    """The memory for requests in flight, or one caller's share of it, is used up. It becomes free again."""

    def __init__(self, limit_bytes: int, whose: Literal["all", "your"] = "all") -> None:
        super().__init__(
            f"{whose} requests in progress have reached the memory limit of {limit_bytes} bytes; retry later"
        )
        self.limit_bytes = limit_bytes
        self.retry_after_s = 1.0


class Unauthorised(ServiceError):
    """No valid key or token.

    Attributes:
        invalid_token: True for an invalid key or token, False for none (RFC 6750, 3.1).
    """

    def __init__(self, reason: str, *, invalid_token: bool = False) -> None:
        super().__init__(reason)
        self.invalid_token = invalid_token


class Forbidden(ServiceError):
    """The caller lacks the permission, or the configuration forbids it for all callers.

    Attributes:
        scopes: one of these would be enough, if a scope is missing.
    """

    def __init__(self, reason: str, *, scopes: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.scopes = scopes


class SessionExpired(Unauthorised):
    """The browser session has ended: idle, too old, signed out, or its key was revoked."""

    def __init__(self) -> None:
        super().__init__("your session has ended; sign in again (/sign-in), then repeat the request")


class AuthenticationTooOld(Unauthorised):
    """A signature needs a recent authentication."""

    def __init__(self, max_age_s: float) -> None:
        super().__init__(
            f"a signature needs an authentication of the last {max_age_s:g} seconds; authenticate again "
            "(/sign-in?again=true), then repeat the request"
        )
        self.max_age_s = max_age_s


class CsrfRejected(Forbidden):
    """A request that is authenticated by a cookie did not show that it comes from this service's own page."""


class RoleMissing(Forbidden):
    """The caller lacks the role."""

    def __init__(self, role: str) -> None:
        super().__init__(f"the role {role} is missing; ask the administrator of this service to assign it")
        self.role = role


class SignInFailed(ServiceError):
    """A sign-in cannot be completed. Nothing of the issuer's answer is quoted."""


class RateLimited(ServiceError):
    """The caller is over its rate limit. Other callers are not affected."""

    def __init__(self, retry_after_s: float, what: str = "rate limit of your key or token") -> None:
        super().__init__(f"{what} exceeded; retry later")
        self.retry_after_s = retry_after_s


class IssuerUnavailable(ServiceError):
    """The token issuer does not respond, and its keys are not cached. API keys still work."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("the token issuer does not respond, so tokens cannot be verified; retry later")
        self.retry_after_s = retry_after_s


class ReloadInProgress(ServiceError):
    """Another reload of the model has not finished."""

    def __init__(self) -> None:
        super().__init__("another model reload is in progress; retry when it has finished")


class ReloadRejected(ServiceError):
    """The new model cannot be used. The current model keeps serving."""


class NoLaboratory(ServiceError):
    """No laboratory database is configured, so there are no specimens."""

    def __init__(self) -> None:
        super().__init__("no laboratory is configured; set MARROWLENS_LIS_DATABASE (see docs/lis.md)")


class StorageUnavailable(ServiceError):
    """The laboratory's database does not respond. A write in progress may have succeeded or failed."""

    def __init__(self) -> None:
        super().__init__("the laboratory's database does not respond; check if the change was made before you retry")


class UnknownSpecimen(ServiceError):
    """No such specimen, cell, report or stored picture."""

    def __init__(self, what: str = "specimen") -> None:
        super().__init__(f"no such {what}")


class Conflict(ServiceError):
    """The change does not fit the current specimen. Read it again, then decide."""


class StaleRevision(Conflict):
    """The specimen or cell has changed since the client read it."""

    def __init__(self, what: str, seen: int, now: int) -> None:
        super().__init__(f"{what} has changed: you sent revision {seen}, the current one is {now}; read it again")
        self.seen = seen
        self.now = now


class CellState(NamedTuple):
    """The current state of one cell."""

    place: int
    version: int
    code: str
    read_by: str | None
    read_at: datetime | None


class CellsChanged(StaleRevision):
    """Cells have changed since the client read them. `cells` has their current state, so that a page can merge."""

    def __init__(self, seen: int, cells: Sequence[CellState]) -> None:
        super().__init__(f"cell {cells[0].place}", seen, cells[0].version)
        self.cells = cells


class WrongState(Conflict):
    """The specimen's state does not allow the change."""

    def __init__(self, state: str, allowed: str) -> None:
        super().__init__(f"the specimen is {state}; {allowed}")
        self.state = state


class NumberTaken(Conflict):
    """Another specimen has that number."""

    def __init__(self) -> None:
        super().__init__("a specimen with that number exists already; search for it by its number")


class ReportedAlready(Conflict):
    """A report was sent, and the change would leave it wrong at its receiver."""


class CellTaken(Conflict):
    """One key for two pictures, or one picture under two keys. One of them would be counted wrongly."""


class NotReviewed(Conflict):
    """The specimen cannot be signed: unreviewed cells, or nothing to sign."""


class InvalidReading(ServiceError):
    """An invalid reading: an unknown class, a cell twice, or a change without a reason."""


class NotReady(ServiceError):
    """The model is not warm, does not respond, the service is shutting down, or its file of sessions cannot be used."""


class ClientGone(ServiceError):
    """The client disconnected. Its work was cancelled."""
