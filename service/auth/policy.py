"""Which scopes open which path: the one table, for the guard and for the OpenAPI document.

Whatever stands in no line takes a caller that is known, so that a new route is shut until somebody opens it.
"""

from service.auth.callers import SCOPES, Scope

#: For everybody: what supervisors ask, and the page that shows the interface, which holds nothing of anybody.
_OPEN = frozenset(
    {"/", "/docs", "/openapi.json", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"}
)
_OPEN_BELOW = "/docs/static/"
METRICS = "/metrics"
#: First match wins; a line holds for its path and all below. Any one of its scopes is enough.
_TABLE: tuple[tuple[str, frozenset[Scope]], ...] = (
    (METRICS, frozenset({"metrics"})),
    ("/model/reload", frozenset({"admin"})),
    ("/specimens", frozenset({"specimens"})),
    ("/classify", frozenset({"classify"})),
    ("/v2", frozenset({"classify"})),
)
_ANY_SCOPE: frozenset[Scope] = frozenset(SCOPES)


def wanted(path: str, *, metrics_open: bool = False) -> frozenset[Scope] | None:
    """The scopes of which a caller needs one; None where nobody is asked."""
    if path in _OPEN or path.startswith(_OPEN_BELOW) or (metrics_open and path == METRICS):
        return None
    return next((scopes for top, scopes in _TABLE if path == top or path.startswith(f"{top}/")), _ANY_SCOPE)
