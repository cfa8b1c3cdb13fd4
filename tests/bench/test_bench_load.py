"""The bench's load generator against servers of a few lines: framing, closed loop, open loop, and what it sends."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np

from bench.traffic.load import closed_loop, open_loop, poisson
from bench.traffic.wire import Address, connect, form, infer, post

#: A JPEG's worth of bytes that no multipart boundary is in.
BYTES = bytes(range(256)) * 8


@asynccontextmanager
async def answering(answer: Callable[[bytes, bytes], Awaitable[bytes]]) -> AsyncIterator[Address]:
    """A server that reads requests one after the other and writes what `answer(head, body)` returns."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                writer.write(await answer(head, await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])


async def ok(_: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def test_a_reply_is_read_however_it_is_framed() -> None:
    async def chunked(_: bytes, body: bytes) -> bytes:
        return (
            b"HTTP/1.1 429 No\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body)
            + body
            + b"\r\n0\r\n\r\n"
        )

    async with answering(chunked) as address:
        connection = await connect(address)
        for _ in range(2):  # the connection is kept
            reply = await connection.send(post("/", BYTES))
            assert (reply.status, reply.body, reply.retry_after) == (429, BYTES, "7")
        connection.close()


async def test_a_closed_loop_keeps_as_many_requests_open_as_it_has_clients() -> None:
    inside, most = 0, 0

    async def counted(head: bytes, body: bytes) -> bytes:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(10):
            await asyncio.sleep(0)
        inside -= 1
        return await ok(head, body)

    async with answering(counted) as address:
        seen = await closed_loop(address, [post("/", b"a"), post("/", b"b")], 3, 0.01, 0.05, 5)
    assert most == 3
    assert {exchange.client for exchange in seen.exchanges} == {0, 1, 2}
    for exchange in seen.exchanges:
        assert exchange.reply is not None and exchange.reply.body == b"ab"[exchange.index : exchange.index + 1]
        assert exchange.due >= seen.begin


async def test_an_open_loop_counts_from_when_a_request_was_due() -> None:
    """One connection and a server that answers the first request only when the last is due: all wait for it."""
    gate = asyncio.Event()

    async def held(head: bytes, body: bytes) -> bytes:
        await gate.wait()
        return await ok(head, body)

    due_s = np.array([0.0, 0.01, 0.02, 0.05])
    async with answering(held) as address:
        asyncio.get_running_loop().call_later(0.15, gate.set)
        seen = await open_loop(address, [post("/", b"a")], due_s, 1, (0.0, 0.1), 5)
    latencies = [exchange.latency_s for exchange in seen.exchanges]
    assert latencies == sorted(latencies, reverse=True)  # the earlier due, the longer it waited
    assert min(latencies) >= 0.04
    sent = [exchange.sent - exchange.due for exchange in seen.exchanges if exchange.sent is not None]
    assert sent[-1] >= 0.04  # and a latency from the moment of sending would have hidden it


async def test_an_open_loop_that_is_cut_leaves_what_was_not_answered() -> None:
    async def silent(_: bytes, __: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with answering(silent) as address:
        seen = await open_loop(address, [post("/", b"a")], np.array([0.0, 0.001]), 8, (0.0, 0.01), 0)
    assert [exchange.reply for exchange in seen.exchanges] == [None, None]


async def test_a_broken_connection_is_an_answer_without_a_status() -> None:
    async def broken(_: bytes, __: bytes) -> bytes:
        raise ConnectionError

    async with answering(broken) as address:
        seen = await open_loop(address, [post("/", b"a")], np.array([0.0]), 8, (0.0, 0.01), 5)
    (exchange,) = seen.exchanges
    assert exchange.reply is None and exchange.ended is not None


def test_arrivals_are_as_many_as_asked_for_and_the_same_for_a_seed() -> None:
    due_s = poisson(1000, 10, seed=3)
    assert abs(len(due_s) - 10_000) < 500
    assert (np.diff(due_s) > 0).all() and due_s[-1] < 10
    assert (poisson(1000, 10, seed=3) == due_s).all()
    assert len(poisson(1000, 10, seed=4)) != len(due_s)


def test_a_form_holds_every_picture() -> None:
    request = form("/classify/batch", "images", [BYTES, BYTES])
    head, _, body = request.partition(b"\r\n\r\n")
    assert int(head.split(b"Content-Length: ")[1]) == len(body)
    assert body.count(BYTES) == 2 and body.count(b'name="images"') == 2


def test_tritons_request_says_where_its_json_ends() -> None:
    head, _, body = infer("/v2/models/cells/infer", "image", [b"abc", b"de"]).partition(b"\r\n\r\n")
    length = int(head.split(b"Inference-Header-Content-Length: ")[1].split(b"\r\n")[0])
    told = json.loads(body[:length])
    assert told["inputs"][0]["shape"] == [2, 1]
    assert body[length:] == b"\x03\x00\x00\x00abc\x02\x00\x00\x00de"
