"""Context of the current request: its ids for logs, and an error found by the connection."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, frozen=True)
class RequestIds:
    """Ids of one request, empty if absent. `state` is the ASGI state, where the request id appears later."""

    state: Mapping[str, Any]
    trace_id: str = ""  # 32 hexadecimal digits
    span_id: str = ""  # 16 hexadecimal digits

    def ids(self) -> dict[str, str]:
        """The ids that are set, by name."""
        found = {"request_id": self.state.get("request_id", ""), "trace_id": self.trace_id, "span_id": self.span_id}
        return {name: identifier for name, identifier in found.items() if identifier}


#: Key in the ASGI state: an error of the connection, which answers the request instead of a route.
CONNECTION_ERROR = "connection_error"
#: The request of the current task or thread.
current_request: ContextVar[RequestIds | None] = ContextVar("request_ids", default=None)
