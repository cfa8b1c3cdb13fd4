"""The request that is being answered: its ids, as logs name them, and its refusal by the connection."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, frozen=True)
class RequestIds:
    """Ids of one request; empty where there is none. The request's own is looked up: it is given later than a trace."""

    state: Mapping[str, Any]
    trace_id: str = ""  # 32 hexadecimal digits
    span_id: str = ""  # 16 hexadecimal digits

    def ids(self) -> dict[str, str]:
        """Those that there are, by name."""
        found = {"request_id": self.state.get("request_id", ""), "trace_id": self.trace_id, "span_id": self.span_id}
        return {name: identifier for name, identifier in found.items() if identifier}


#: In the state of a request: the error that it is answered with, in place of a route, because its connection says so.
CONNECTION_ERROR = "connection_error"
#: Of the task or thread that asks.
current_request: ContextVar[RequestIds | None] = ContextVar("request_ids", default=None)
