"""Work is cancelled when the client that asked for it is gone. Knows one request; does not know what the work is."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from service.errors import ClientGone

Result = TypeVar("Result")


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled as soon as the client closes the connection.

    Call it only after the body was read: from then on the connection has nothing else to say.

    Raises:
        ClientGone: the client closed the connection first.
    """
    here = asyncio.current_task()
    assert here is not None, "a request is answered in a task"
    watching = asyncio.create_task(_cancel_when_gone(request, here))
    try:
        return await work
    except asyncio.CancelledError:
        if watching.done() and not watching.exception() and here.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watching.cancel()


async def _cancel_when_gone(request: Request, working: "asyncio.Task[Any]") -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    working.cancel()
