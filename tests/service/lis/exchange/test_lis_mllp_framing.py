"""MLLP frames from any chunks of bytes, and none from invalid bytes."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.lis.exchange.mllp.framing import BrokenFrame, Frames, FrameTooLarge, framed

#: What a message may hold: anything but the bytes that frame it.
MESSAGES = st.binary(max_size=30).map(lambda data: data.replace(b"\x0b", b"").replace(b"\x1c", b""))
NOISE = st.sampled_from([b"", b"\r", b"\r\n", b"\x00\x1c\r"])


async def read(pieces: Sequence[bytes], max_bytes: int = 100) -> list[bytes]:
    """Every frame of a connection whose bytes come in these pieces, one turn of the loop apart, and then end."""
    reader = asyncio.StreamReader()
    frames = Frames(reader, max_bytes)
    found: list[bytes] = []

    async def collect() -> None:
        while await frames.begun():
            found.append(await frames.rest())

    task = asyncio.create_task(collect())
    for piece in pieces:
        reader.feed_data(piece)
        for _ in range(3):
            await asyncio.sleep(0)
    reader.feed_eof()
    await task
    return found


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]


@given(st.lists(st.tuples(NOISE, MESSAGES), max_size=5), st.lists(st.integers(0, 1000), max_size=20))
def test_frames_come_out_whole_wherever_they_were_cut(sent: list[tuple[bytes, bytes]], places: list[int]) -> None:
    stream = b"".join(noise + framed(message) for noise, message in sent)
    assert asyncio.run(read(cut(stream, places))) == [message for _, message in sent]


@pytest.mark.parametrize("cuts", [[], [7, 30], list(range(60))])
async def test_a_frame_in_an_http_request_is_refused(cuts: list[int]) -> None:
    """As any web page can let a browser send one to this machine."""
    request = b"POST / HTTP/1.1\r\nHost: 127.0.0.1:2575\r\nOrigin: http://elsewhere\r\n\r\n" + framed(b"MSH")
    with pytest.raises(BrokenFrame, match="HTTP"):
        await read(cut(request, cuts))


async def test_an_end_may_be_cut_in_two() -> None:
    assert await read([b"\x0bMSH\x1c", b"\r"]) == [b"MSH"]
    assert await read([b"\x0bMSH\x1c", b"x\x1c", b"\r"]) == [b"MSH\x1cx"]


async def test_a_frame_may_be_as_large_as_allowed_and_no_larger() -> None:
    assert await read([framed(b"x" * 100)]) == [b"x" * 100]
    for pieces in ([framed(b"x" * 101)], [b"\x0b" + b"x" * 60, b"y" * 60]):
        with pytest.raises(FrameTooLarge) as large:
            await read(pieces)
        assert large.value.start == b"".join(pieces)[1:101]


@pytest.mark.parametrize("half", [b"\x0b", b"\x0bMSH", b"\x0bMSH\x1c"])
async def test_half_a_frame_is_none(half: bytes) -> None:
    with pytest.raises(BrokenFrame, match="within a frame"):
        await read([framed(b"MSH"), half])
