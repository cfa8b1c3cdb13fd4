"""A server of a test's own on loopback, byte for byte: whatever a peer must be made to do that no real one does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def loopback(serve: Serve) -> AsyncIterator[tuple[str, int]]:
    """Where it listens; left only once every connection is served to its end."""
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
