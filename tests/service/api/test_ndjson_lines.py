"""NDJSON bodies line by line: any split into pieces, bounded memory, memory shared with other requests."""

import asyncio
import json
from base64 import b64encode
from codecs import BOM_UTF8
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from examples import examples
from model.image import PictureTooLarge
from service.api.uploads.archives import Upload
from service.api.uploads.memory_budget import MemoryBudget, MemoryReservation, TransferTimeouts
from service.api.uploads.ndjson import LINE_OVERHEAD_BYTES, MIN_RESERVED_BYTES, NdjsonPictures
from service.errors import ClientGone, MalformedBody, UploadMemoryExhausted, UploadTooSlow

LIMIT = 3000


def line(data: bytes, name: str | None = None) -> bytes:
    sent = {"image": b64encode(data).decode()} | ({} if name is None else {"name": name})
    return json.dumps(sent).encode() + b"\n"


def streamed(
    pieces: list[bytes], memory: MemoryBudget | None = None, end: str = "whole", limit: int = LIMIT
) -> NdjsonPictures:
    async def messages() -> AsyncIterator[dict[str, Any]]:
        for at, piece in enumerate(pieces):
            yield {"type": "http.request", "body": piece, "more_body": end != "whole" or at < len(pieces) - 1}
        if end == "silence":
            await asyncio.Event().wait()
        yield {"type": "http.disconnect"}

    source = messages()
    request = Request({"type": "http"}, lambda: anext(source))
    return NdjsonPictures(
        request, MemoryReservation(memory or MemoryBudget(10 * LIMIT)), limit, TransferTimeouts(0.01, 600)
    )


async def read(pictures: NdjsonPictures) -> list[Upload]:
    found = []
    async for upload in pictures.uploads():
        found.append(upload)
        pictures.mark_answered()
    return found


@given(
    sizes=st.lists(st.integers(0, LIMIT + 10), max_size=8),
    cuts=st.lists(st.integers(0, 20_000), max_size=12),
    last_ends=st.booleans(),
)
@settings(max_examples=examples(80), deadline=None)
def test_however_the_body_is_cut_into_pieces(sizes: list[int], cuts: list[int], last_ends: bool) -> None:
    sent = [bytes([at]) * size for at, size in enumerate(sizes)]
    body = b"".join(line(data, str(at)) for at, data in enumerate(sent))
    body = body if last_ends else body[:-1]
    ends = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    pieces = [body[begin:end] for begin, end in zip(ends, ends[1:], strict=False)]
    found = asyncio.run(read(streamed(pieces)))
    assert [upload.name for upload in found] == [str(at) for at in range(len(sent))]
    for upload, data in zip(found, sent, strict=True):
        if len(data) <= LIMIT:
            assert upload.content == data
        else:
            assert isinstance(upload.content, PictureTooLarge)


async def test_no_more_is_held_than_was_taken() -> None:
    """A thousand pictures without answers: the body is read until its memory is used up, then reading waits."""
    memory = MemoryBudget(10 * LIMIT)
    pictures = streamed([line(bytes(LIMIT // 2))] * 1000, memory)
    taken: list[Upload] = []

    async def take() -> None:
        async for upload in pictures.uploads():
            taken.append(upload)

    taking = asyncio.create_task(take())
    for _ in range(50):
        await asyncio.sleep(0)
    stuck = len(taken)
    assert 1 <= stuck <= 2 * (LIMIT * 4 // 3 + LINE_OVERHEAD_BYTES) // (LIMIT // 2)
    for answered in range(1000):
        pictures.mark_answered()
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(taken) == min(1000, answered + 1 + stuck)
        held = len(taken) - answered - 1
        assert held * (LIMIT // 2) <= pictures.max_line_bytes
        assert held * (LIMIT // 2) <= memory.in_use_bytes <= 2 * pictures.max_line_bytes
    await taking
    assert len(taken) == 1000


LARGE = 4 * MIN_RESERVED_BYTES


def large(pieces: list[bytes], memory: MemoryBudget) -> NdjsonPictures:
    """A stream whose largest picture is far larger than its minimum reservation."""
    return streamed(pieces, memory, limit=LARGE)


def cut(data: bytes, size: int = 65536) -> list[bytes]:
    """The data in pieces, as a connection delivers it."""
    return [data[at : at + size] for at in range(0, len(data), size)]


async def test_the_lease_grows_and_shrinks_with_what_is_held() -> None:
    memory = MemoryBudget(100 * MIN_RESERVED_BYTES)
    sent, end = line(bytes(LARGE)), line(b"end")
    pictures = large([*cut(sent), end], memory)
    assert memory.in_use_bytes == MIN_RESERVED_BYTES
    source = pictures.uploads()
    assert (await anext(source)).content == bytes(LARGE)
    assert len(sent) + LARGE - 65536 <= memory.in_use_bytes <= 2 * pictures.max_line_bytes
    assert (await anext(source)).content == b"end"  # the line that the first picture came in is gone
    assert LARGE <= memory.in_use_bytes <= LARGE + 1000
    pictures.mark_answered()
    assert memory.in_use_bytes == MIN_RESERVED_BYTES


async def test_a_line_for_which_there_is_no_memory_is_refused_in_its_place() -> None:
    memory = MemoryBudget(4 * MIN_RESERVED_BYTES)
    pictures = large(
        [line(b"1"), *cut(line(bytes(LARGE))), line(b"3"), *cut(line(bytes(MIN_RESERVED_BYTES // 2)))], memory
    )
    with memory.reserve() as another:
        another.add(2 * MIN_RESERVED_BYTES)
        found = [upload.content for upload in await read(pictures)]
    assert found[0] == b"1" and isinstance(found[1], UploadMemoryExhausted)
    assert found[2:] == [b"3", bytes(MIN_RESERVED_BYTES // 2)]
    assert memory.in_use_bytes == MIN_RESERVED_BYTES


async def test_before_that_its_own_pictures_are_waited_for() -> None:
    memory = MemoryBudget(3 * MIN_RESERVED_BYTES)
    sent = bytes(MIN_RESERVED_BYTES)
    pictures = large(cut(line(sent)) + cut(line(sent)), memory)
    source = pictures.uploads()
    assert (await anext(source)).content == sent
    second = asyncio.ensure_future(anext(source))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not second.done()
    pictures.mark_answered()
    assert (await second).content == sent


async def test_who_leaves_and_who_stops() -> None:
    with pytest.raises(ClientGone):
        await read(streamed([line(b"1"), b'{"im'], end="gone"))
    with pytest.raises(UploadTooSlow):
        await read(streamed([line(b"1"), b'{"im'], end="silence"))


async def test_what_stands_around_a_line() -> None:
    """Blank lines, Windows line ends, a byte order mark, and blanks within the JSON."""
    sent = [BOM_UTF8 + b"\r\n", b" \t\r\n", BOM_UTF8 + line(b"1")[:-1] + b"\r\n", b' { "image" : "Mg==" } \n', b"\n"]
    assert [upload.content for upload in await read(streamed(sent))] == [b"1", b"2"]


async def test_a_key_that_is_not_known_is_refused_in_its_place() -> None:
    found = await read(streamed([b'{"image": "MQ==", "label": "BLA"}\n', line(b"2")]))
    assert [str(found[0].content), found[1].content] == [
        "invalid line: label: Extra inputs are not permitted",
        b"2",
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
async def test_lines_in_any_of_unicode_s_encodings(encoding: str, size: int) -> None:
    body = json.dumps({"name": "ä🧬", "image": "MQ=="}, ensure_ascii=False) + "\r\n\r\n" + line(b"2").decode()
    found = await read(streamed(cut(body.encode(encoding), size)))
    assert [(each.name, each.content) for each in found] == [("ä🧬", b"1"), (None, b"2")]


async def test_files_of_utf_16_that_were_joined() -> None:
    """Several files joined, each with its own byte order mark."""
    body = line(b"1").decode().encode("utf-16") + line(b"2").decode().encode("utf-16")
    assert [upload.content for upload in await read(streamed([body]))] == [b"1", b"2"]


async def test_an_answer_does_not_wait_for_more_bytes_than_the_first_line_has() -> None:
    source = streamed([b"{}\n"], end="silence").uploads()
    assert isinstance((await anext(source)).content, MalformedBody)
    await source.aclose()


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (b'{"image": "MQ"}', "not base64: its length is not a multiple of four"),
        (b'{"image": "M Q=="}', "a space within a line"),
        (b'{"image": "MQ==", "image": "Mg=="}', "a member name twice"),
        (b'{"image": "MQ==", "na": 1, "nb": 1}', "na: Extra inputs are not permitted; nb: Extra"),
        (b'{"image": ["MQ=="]}', "image: Input should be a valid string"),
        (b'[{"image": "MQ=="}]', "each line is one whole object, {…}, without a line break inside"),
        (b'{"image": "MQ==\nMg=="}', "without a line break inside"),
        (b"{", "each line is one whole object"),
        (b'{"image": }', "the JSON cannot be read"),
        (b'{"image": NaN}', "the JSON cannot be read"),
        (b'{"image": ' + b"[" * 2000 + b"}", "the JSON cannot be read"),
        (b'{"image": ' + b"9" * 3000 + b"}", "the JSON cannot be read"),
        (b'{"image": "\xff"}', "the JSON cannot be read"),
        (b"{" + b",".join(b'"%d": 0' % at for at in range(600)) + b"}", "600 members; at most 64"),
    ],
)
async def test_what_is_wrong_with_a_line_is_told(sent: bytes, sentence: str) -> None:
    found = await read(streamed([sent + b"\n" + line(b"2")]))
    assert found[-1].content == b"2"
    assert isinstance(found[0].content, MalformedBody) and sentence in str(found[0].content)
    assert str(found[0].content).startswith("invalid line: ")


@pytest.mark.parametrize(
    "image", ["MTIz\\r\\nNDU2\\r\\n", "MTIz\\n  NDU2", "data:image/png;base64,MTIzNDU2", " MTIzNDU2 ", "MTIzNDU2\\n"]
)
async def test_base64_that_can_mean_one_thing_alone_is_read(image: str) -> None:
    (upload,) = await read(streamed([f'{{"image": "{image}"}}'.encode()]))
    assert upload.content == b"123456"


async def test_what_is_wrong_is_said_without_what_was_sent() -> None:
    (upload,) = await read(streamed([b'{"image": 7, "patient": "Smith"}\n']))
    assert isinstance(upload.content, MalformedBody)
    assert "Smith" not in str(upload.content)


def test_without_memory_it_does_not_begin() -> None:
    with pytest.raises(UploadMemoryExhausted):
        streamed([], MemoryBudget(LIMIT))
