"""Which scope and which role each route requires; read by the middleware and by the OpenAPI document.

A path that is not listed requires authentication with any scope, so a new route is closed by default.
"""

import re

from service.auth.identity import SCOPES, Scope
from service.config.auth import Role

#: Without authentication: health checks, the API documentation, and the page for people. A page holds no data; its
#: modules fetch data from the routes of the table below.
_OPEN = frozenset(
    {
        "/",
        "/about",
        "/lab",
        "/docs",
        "/openapi.json",
        "/health/live",
        "/health/ready",
        "/v2/health/live",
        "/v2/health/ready",
    }
)
#: Sign-in itself. These routes check the session, its CSRF token and the origin themselves.
SESSION_PATHS = frozenset({"/session", "/sign-out"})
_SIGN_IN = "/sign-in"
_OPEN_BELOW = ("/docs/static/", "/static/", "/lab/", f"{_SIGN_IN}/")
METRICS = "/metrics"
#: First match wins. A line applies to its path and all paths below; one of its scopes is enough.
_TABLE: tuple[tuple[str, frozenset[Scope]], ...] = (
    ("/classify", frozenset({"classify"})),
    (METRICS, frozenset({"metrics"})),
    ("/model/reload", frozenset({"admin"})),
    ("/worklist", frozenset({"specimens"})),
    ("/specimens", frozenset({"specimens"})),
    ("/readings", frozenset({"specimens"})),
    ("/reference-cells", frozenset({"specimens"})),
    ("/v2", frozenset({"classify"})),
)
_ANY_SCOPE: frozenset[Scope] = frozenset(SCOPES)
#: Roles by method and path, with the start of the path, which is compared first. First match wins, so a new route of a
#: specimen needs `review` if it changes something.
_ROLES: tuple[tuple[str, re.Pattern[str], Role], ...] = (
    ("/readings", re.compile(r"(?s)\w+ /readings(/.*)?"), "operate"),
    ("/model/reload", re.compile(r"\w+ /model/reload"), "operate"),
    ("/worklist", re.compile(r"(?s)(GET|HEAD) /worklist(/.*)?"), "read"),
    ("/reference-cells", re.compile(r"(?s)(GET|HEAD) /reference-cells(/.*)?"), "read"),
    ("/specimens", re.compile(r"(?s)(GET|HEAD) /specimens(/.*)?"), "read"),
    ("/specimens", re.compile(r"\w+ /specimens/[^/]+/presence/[^/]+"), "read"),
    ("/specimens", re.compile(r"\w+ /specimens/[^/]+/(sign|amend)"), "sign"),
    ("/specimens", re.compile(r"\w+ /specimens/[^/]+/second-reading"), "second-reader"),
    ("/specimens", re.compile(r"\w+ /specimens/[^/]+/(erase|messages/[^/]+/\w+)"), "operate"),
    ("/specimens", re.compile(r"(?s)\w+ /specimens(/.*)?"), "review"),
)
_SIGNATURE = re.compile("POST /specimens/[^/]+/sign")


def required_scopes(path: str, *, metrics_open: bool = False) -> frozenset[Scope] | None:
    """The scopes that allow access, one is enough; None if no authentication is required."""
    path = _routed(path)
    is_open = path in _OPEN or path in SESSION_PATHS or path == _SIGN_IN or path.startswith(_OPEN_BELOW)
    if is_open or (metrics_open and path == METRICS):
        return None
    for top, scopes in _TABLE:
        if path.startswith(top) and path[len(top) : len(top) + 1] in ("", "/"):
            return scopes
    return _ANY_SCOPE


def required_role(method: str, path: str) -> Role | None:
    """The role that a request requires; None if any caller with the scope may send it."""
    for top, pattern, role in _ROLES:
        if path.startswith(top) and pattern.fullmatch(f"{method} {_routed(path)}"):
            return role
    return None


def is_signature(method: str, path: str) -> bool:
    """Whether the request signs a report, so that a session must have authenticated recently."""
    return _SIGNATURE.fullmatch(f"{method} {_routed(path)}") is not None


def _routed(path: str) -> str:
    """The path as the router matches it: its patterns end in `$`, which also matches before a last line feed."""
    return path.removesuffix("\n")
