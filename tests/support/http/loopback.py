"""A server on loopback that tests control byte for byte, for behaviour that no real peer has."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def loopback(serve: Serve) -> AsyncIterator[tuple[str, int]]:
    """Host and port of a started server. Leaving the block waits for the end of every connection."""
    under_way: list[asyncio.Task[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        under_way.append(task)
        await serve(reader, writer)
        writer.close()
        with suppress(ConnectionError):  # the peer may have gone in the middle
            await writer.wait_closed()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield host, port
    await asyncio.gather(*under_way)
