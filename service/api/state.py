"""What one running service holds, and how a route asks for it. Made by the app's lifespan; no globals."""

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Annotated

from fastapi import Depends, Header, Request

from service.api.uploads.body import UploadLimits
from service.api.uploads.memory_budget import Lease, UploadMemory
from service.api.uploads.transfer_pace import Patience
from service.inference.serving import Serving


@dataclass(slots=True, kw_only=True)
class Running(Serving):
    """The parts of one service that its routes need.

    `large_json` is held while a large JSON body is parsed: it grows in memory, and Python parses one at a time anyway.
    """

    uploads: UploadMemory
    large_json: asyncio.Lock = field(default_factory=asyncio.Lock)

    def lease(self, request: Request) -> AbstractContextManager[Lease]:
        """The upload memory that one request takes, in its caller's part of it."""
        return self.uploads.lease(memory_holder(request))

    @property
    def limits(self) -> UploadLimits:
        """How much of a body is read, and how long it is waited for."""
        found = self.settings
        patience = Patience(found.request_timeout_s, found.upload_timeout_s)
        return UploadLimits(found.max_body_bytes, found.max_image_bytes, found.max_batch_images, patience)

    def timeout_s(self, wished_ms: int | None) -> float:
        """How long one picture may take: what its client wishes, but no longer than the setting."""
        longest_s = self.settings.request_timeout_s
        return longest_s if wished_ms is None else min(longest_s, wished_ms / 1000)


#: What one client of IPv6 is given, from which it takes as many addresses as it likes.
_IPV6_PREFIX = 64


def memory_holder(request: Request) -> str:
    """Whose part of the memory a request takes: the caller's by key or token, or that of the address."""
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


# Dependencies are coroutines even where they wait for nothing: FastAPI sends plain functions to a thread and back.


async def running(request: Request) -> Running:
    """The service that this request came to."""
    state: Running = request.app.state.running
    return state


async def request_id(request: Request) -> str:
    """The id under which the request is answered and logged."""
    identifier: str = request.scope["state"]["request_id"]
    return identifier


TIMEOUT_WISH = "X-Request-Timeout-Ms"
TimeoutWish = Annotated[
    int | None,
    Header(
        alias=TIMEOUT_WISH,
        gt=0,
        description="How long one picture may take from its admission, in milliseconds. A picture that is too late is "
        "not computed. The service's own limit holds besides.",
        examples=[2000],
    ),
]
RunningService = Annotated[Running, Depends(running)]
RequestId = Annotated[str, Depends(request_id)]
