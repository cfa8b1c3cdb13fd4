"""One hostile case: bytes to send over a socket, and the allowed outcomes."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httptools

from stress.clients.wire import Address, Connection, Cut, connect

#: Seconds to wait for an answer: far above the service's own limits.
PATIENCE_S = 120.0
#: Put wherever a client can put text: it must reach no log.
CANARY = "Smith-John-1961"

Act = Callable[[Address], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Case:
    """`act` returns a status or one of the words of `ENDINGS`."""

    family: str
    what: str
    act: Act
    may_close: bool = False  # without an answer: what was sent is no HTTP
    slow: bool = False  # waits more than it works, so many of them are open at a time

    def fault(self, ending: str) -> str:
        """Why the outcome is not allowed; empty if it is."""
        if ending in ("cut", "silent", "garbage", "refused") or (ending == "closed" and not self.may_close):
            return f"{self.family}, {self.what}: {ENDINGS[ending]}"
        if ending.isdecimal() and int(ending) >= 500 and ending != "504":
            return f"{self.family}, {self.what}: status {ending}"
        return ""


ENDINGS = {
    "left": "the client went away",
    "closed": "closed without an answer",
    "cut": "cut off in the middle of an answer",
    "silent": f"nothing came for {PATIENCE_S:g} s",
    "garbage": "what came is not HTTP",
    "refused": "the connection was refused",
}


def sends(family: str, what: str, request: bytes, *, may_close: bool = False, slow: bool = False) -> Case:
    """A case that sends all bytes at once and waits for the answer."""

    async def act(address: Address) -> str:
        bodiless = request.startswith(b"HEAD ")
        return await ending(address, lambda connection: connection.send(request), bodiless=bodiless)

    return Case(family, what, act, may_close, slow)


async def ending(address: Address, send: Callable[[Connection], Awaitable[None]], *, bodiless: bool = False) -> str:
    """The outcome after `send` and the answer; an answer may arrive before `send` has finished."""
    try:
        async with asyncio.timeout(PATIENCE_S), await connect(address) as connection:
            sending = asyncio.ensure_future(send(connection))
            try:
                return str((await connection.answer(bodiless=bodiless)).status)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
    except Cut as cut:
        return "cut" if cut.begun else "closed"
    except TimeoutError:
        return "silent"
    except httptools.HttpParserError:
        return "garbage"
    except OSError:
        return "refused"
