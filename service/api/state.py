"""The state of one running service, and the dependencies by which routes get it. There are no globals."""

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Annotated

from fastapi import Depends, Header, Request

from service.api.uploads.memory_budget import MemoryBudget, MemoryReservation, TransferTimeouts, UploadLimits
from service.inference.registry import ServingState


@dataclass(slots=True, kw_only=True)
class AppState(ServingState):
    """What the routes of one service share.

    Attributes:
        upload_memory: for the bodies and buffered answers of all requests in flight.
        limits: sizes and timeouts of bodies, from the settings.
        large_json: held while a large JSON body is parsed: it needs much memory, and Python parses one at a time.
    """

    upload_memory: MemoryBudget
    limits: UploadLimits = field(init=False)
    large_json: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        found = self.settings
        timeouts = TransferTimeouts(found.request_timeout_s, found.upload_timeout_s)
        self.limits = UploadLimits(found.max_body_bytes, found.max_image_bytes, found.max_batch_images, timeouts)

    def reserve_memory(self, request: Request) -> AbstractContextManager[MemoryReservation]:
        """The request's reservation of upload memory, counted for its caller."""
        return self.upload_memory.reserve(memory_owner(request))

    def timeout_s(self, requested_ms: int | None) -> float:
        """The timeout of one picture: the requested one, but at most that of the settings."""
        longest_s = self.settings.request_timeout_s
        return longest_s if requested_ms is None else min(longest_s, requested_ms / 1000)


#: The prefix that one IPv6 client usually gets; it can use any number of addresses in it.
_IPV6_PREFIX = 64


def memory_owner(request: Request) -> str:
    """The owner of the upload memory that a request uses: its account, else its IPv4 address or IPv6 network."""
    caller = request.scope.get("state", {}).get("caller")
    if caller is not None:
        return f"account {caller.identity.account}"
    host = request.client.host if request.client else ""
    if ":" not in host:
        return f"address {host}"
    try:
        return f"network {ip_network((host.partition('%')[0], _IPV6_PREFIX), strict=False)}"
    except ValueError:
        return f"address {host}"


# Coroutines, although they await nothing: FastAPI runs plain functions in a thread.


async def app_state(request: Request) -> AppState:
    """The state of the service that received the request."""
    state: AppState = request.app.state.app_state
    return state


async def request_id(request: Request) -> str:
    """The id of the request, as in its answer and in the log."""
    identifier: str = request.scope["state"]["request_id"]
    return identifier


TIMEOUT_HEADER = "X-Request-Timeout-Ms"
RequestTimeoutMs = Annotated[
    int | None,
    Header(
        alias=TIMEOUT_HEADER,
        gt=0,
        description="Timeout for one picture in milliseconds, from its admission to the queue. A picture past it is "
        "not computed. The service's own timeout applies too.",
        examples=[2000],
    ),
]
AppStateDep = Annotated[AppState, Depends(app_state)]
RequestId = Annotated[str, Depends(request_id)]
