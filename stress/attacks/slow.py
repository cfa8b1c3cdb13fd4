"""Slow and aborted clients: endless bodies, one byte at a time, disconnects.

The service decides how long it waits; this module only limits the test.
"""

import asyncio
from collections.abc import Iterator
from random import Random

from stress.attacks.case import Case, ending
from stress.clients.pictures import form, form_type, picture, zipped
from stress.clients.wire import Address, Connection, connect, head, post

#: Between two bytes of a slow client.
PAUSE_S = 0.3
CHUNK = b"10000\r\n" + bytes(65536) + b"\r\n"


def endless(family: str, chance: Random) -> Case:
    """An endless body, or an impossible length."""
    target = chance.choice(("/classify", "/classify", "/classify/batch"))
    kind = (
        "image/png" if target == "/classify" else chance.choice(("application/zip", "application/x-tar", form_type()))
    )
    chunked = chance.random() < 0.7
    length = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(10**12))
    start = head("POST", target, [("Content-Type", kind), length])
    piece = CHUNK if chunked else bytes(65536)

    async def send(connection: Connection) -> None:
        await connection.send(start)
        while True:
            await connection.send(piece)

    async def act(address: Address) -> str:
        return await ending(address, send)

    return Case(family, f"{length[0]} to {target} as {kind}", act, may_close=not chunked)


def _dripping(data: bytes, at: int) -> Iterator[bytes]:
    yield data[:at]
    for place in range(at, len(data)):
        yield data[place : place + 1]


def slow(family: str, chance: Random) -> Case:
    """Send single bytes slowly, of head or body, or none."""
    request = post("/classify", "image/jpeg", picture(1, "JPEG", 300, 300))
    body_at = request.index(b"\r\n\r\n") + 4
    what, at = chance.choice((("nothing", 0), ("a head", 20), ("a head", body_at - 2), ("a body", body_at + 1)))

    async def send(connection: Connection) -> None:
        for piece in _dripping(request, at):
            if piece:
                await connection.send(piece)
            await asyncio.sleep(10**6 if what == "nothing" else PAUSE_S)

    async def act(address: Address) -> str:
        return await ending(address, send)

    return Case(family, f"{what}, a byte every {PAUSE_S:g} s", act, may_close=what != "a body", slow=True)


def leaving(family: str, chance: Random) -> Case:
    """Disconnect after some bytes, after all, or during the answer; by FIN or RST."""
    pictures = [(f"{at}.jpg", picture(at)) for at in range(12)]
    name, request = chance.choice(
        (
            ("a picture", post("/classify?maps=evidence", "image/jpeg", picture(1))),
            ("a form", post("/classify", form_type(), form("image", pictures[:1]))),
            ("a batch", post("/classify/batch", form_type(), form("images", pictures))),
            (
                "lines",
                post("/classify/batch", "application/zip", zipped(pictures), [("Accept", "application/x-ndjson")]),
            ),
        )
    )
    when = chance.choice(("within", "within", "at once", "later", "in the answer"))
    at = chance.randrange(len(request)) if when == "within" else len(request)
    politely, pause_s = chance.random() < 0.5, chance.random() * 0.05

    async def act(address: Address) -> str:
        connection = await connect(address)
        try:
            await connection.send(request[:at])
            if when == "later":
                await asyncio.sleep(pause_s)
            elif when == "in the answer":
                await connection.some()
        except ConnectionError:
            pass  # it closed before we did
        finally:
            connection.close() if politely else connection.reset()
        return "left"

    return Case(family, f"{name}, gone {when}", act)
