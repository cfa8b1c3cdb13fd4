"""Which scopes each path requires; read by the middleware and by the OpenAPI document.

A path that is not listed requires authentication with any scope, so a new route is closed by default.
"""

from service.auth.identity import SCOPES, Scope

#: Without authentication: health checks, the API documentation, and the page for people. A page holds no data; its
#: modules fetch data from the routes of the table below.
_OPEN = frozenset(
    {"/", "/lab", "/docs", "/openapi.json", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"}
)
_OPEN_BELOW = ("/docs/static/", "/static/", "/lab/")
METRICS = "/metrics"
#: First match wins. A line applies to its path and all paths below; one of its scopes is enough.
_TABLE: tuple[tuple[str, frozenset[Scope]], ...] = (
    (METRICS, frozenset({"metrics"})),
    ("/model/reload", frozenset({"admin"})),
    ("/worklist", frozenset({"specimens"})),
    ("/specimens", frozenset({"specimens"})),
    ("/classify", frozenset({"classify"})),
    ("/v2", frozenset({"classify"})),
)
_ANY_SCOPE: frozenset[Scope] = frozenset(SCOPES)


def required_scopes(path: str, *, metrics_open: bool = False) -> frozenset[Scope] | None:
    """The scopes that allow access, one is enough; None if no authentication is required."""
    if path in _OPEN or path.startswith(_OPEN_BELOW) or (metrics_open and path == METRICS):
        return None
    return next((scopes for top, scopes in _TABLE if path == top or path.startswith(f"{top}/")), _ANY_SCOPE)
