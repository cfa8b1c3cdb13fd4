"""`POST /classify/batch`: many pictures in; a result or a problem for each, and the differential count, out."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, aclosing
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.api.batch_response import BatchResponse
from service.api.disconnect import NO_STORE, BufferedResponse, DuplexNdjsonResponse, NdjsonResponse, while_connected
from service.api.openapi import MANY_PICTURES, NDJSON, problem_responses, stream_response
from service.api.query_parameters import KnownQuery
from service.api.responses import BatchOptions
from service.api.schemas import BatchAnswer
from service.api.state import AppStateDep, RequestId, RequestTimeoutMs
from service.api.uploads.archives import Upload
from service.api.uploads.body import content_type, many_pictures
from service.api.uploads.memory_budget import MemoryReservation
from service.api.uploads.ndjson import NdjsonPictures
from service.errors import AnswerTooLarge, MalformedRequest, NotAcceptable, UploadTooSlow

router = APIRouter(tags=["cells"], dependencies=[KnownQuery])
_JSON = "application/json"
_WEIGHT = re.compile(r"[0-9](\.[0-9]*)?", re.ASCII)
_EXACT = 2


@router.post(
    "/classify/batch",
    summary="Classify many cells",
    response_model=BatchAnswer,
    response_model_exclude_none=True,
    responses=stream_response() | problem_responses(406, 408, 413, 415, 422, 429, 503),
    openapi_extra=MANY_PICTURES,
)
async def classify_batch(
    request: Request,
    options: Annotated[BatchOptions, Query()],
    state: AppStateDep,
    request_id: RequestId,
    timeout_ms: RequestTimeoutMs = None,
) -> Response:
    """Send pictures as repeated form fields `images`, or as a ZIP or an uncompressed tar.

    Or send NDJSON, one `{"name": "1.jpg", "image": "base64 of the file"}` a line, any number of lines. The answer is
    then NDJSON too and arrives while you send, so read while you send.

    Every picture gets one item, in the order sent: a result, or a problem that affects no other picture. With
    `Accept: application/x-ndjson` items are sent as they are ready, one a line; the last line is the summary.

        curl -F images=@1.jpg -F images=@2.jpg http://localhost:8000/classify/batch
        curl -H 'Content-Type: application/zip' -H 'Accept: application/x-ndjson' \\
             --data-binary @cells.zip 'http://localhost:8000/classify/batch?maps=none'
    """
    settings, accept = state.settings, ", ".join(request.headers.getlist("accept"))
    with ExitStack() as stack:
        classifier = stack.enter_context(state.current_classifier().in_use())
        options = options.for_model(classifier.manifest)
        timeout_s = state.timeout_s(timeout_ms)
        batch = BatchResponse(classifier, options, request_id, settings.count_other, timeout_s)
        memory = stack.enter_context(state.reserve_memory(request))
        if content_type(request) == NDJSON:
            negotiate(accept, [NDJSON])
            pictures = NdjsonPictures(request, memory, settings.max_image_bytes, state.limits.timeouts)
            return DuplexNdjsonResponse(_duplex_lines(batch, pictures), stack.pop_all())
        media_type = negotiate(accept, [_JSON, NDJSON])
        uploads = await many_pictures(request, memory, state.limits)
        if media_type == NDJSON:
            return NdjsonResponse(_lines(batch, uploads), stack.pop_all())
        chunks = await while_connected(request, _document(batch, uploads, memory, settings.max_body_bytes))
        return BufferedResponse(
            chunks, stack.pop_all(), media_type=_JSON, timeouts=state.limits.timeouts, headers=NO_STORE
        )


async def _lines(batch: BatchResponse, uploads: AsyncIterator[Upload]) -> AsyncGenerator[bytes, None]:
    async with aclosing(batch.items(uploads)) as items:
        async for item in items:
            yield item + b"\n"
    yield (await batch.summary()).json_bytes() + b"\n"


async def _duplex_lines(batch: BatchResponse, pictures: NdjsonPictures) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(batch.items(pictures.uploads())) as items:
            async for item in items:
                pictures.mark_answered()
                yield item + b"\n"
    except (MalformedRequest, UploadTooSlow) as error:
        yield batch.last_item(error) + b"\n"
    yield (await batch.summary()).json_bytes() + b"\n"


async def _document(
    batch: BatchResponse, uploads: AsyncIterator[Upload], memory: MemoryReservation, limit_bytes: int
) -> list[bytes]:
    items, size_bytes = [], 0
    async with aclosing(batch.items(uploads)) as source:
        async for item in source:
            size_bytes += len(item)
            if size_bytes > limit_bytes:
                raise AnswerTooLarge(limit_bytes, f"request fewer maps, or a stream of lines (Accept: {NDJSON})")
            memory.add(len(item))
            items.append(item)
    return await batch.document(items)


def negotiate(accept: str | None, offered: Sequence[str]) -> str:
    """The offered media type with the highest weight in `Accept` (RFC 9110, 12.5.1).

    Among types of equal weight, a type that is named exactly wins; of several named exactly, the last offered; else the
    first offered. So offer first what suits every client, and last what a client has to ask for. If the header names
    none of them, the first offered type is used instead of a 406.

    Raises:
        NotAcceptable: the header excludes every offered type (weight 0).
    """
    ranges = [_parse_range(each) for each in (accept or "").split(",") if each.strip()]
    found = [_weight(media_type, ranges) for media_type in offered]
    best = max(found)
    if best[0] > 0:
        equal = [media_type for media_type, each in zip(offered, found, strict=True) if each == best]
        return equal[-1 if best[1] == _EXACT else 0]
    unnamed = [media_type for media_type, (_, exactness) in zip(offered, found, strict=True) if exactness < 0]
    if not unnamed:
        raise NotAcceptable(offered)
    return unnamed[0]


def _parse_range(text: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = 1.0
    for name, _, value in (each.partition("=") for each in parameters):
        if name.strip() == "q" and _WEIGHT.fullmatch(value.strip()):
            weight = min(float(value), 1.0)
    return media_range, weight


def _weight(media_type: str, ranges: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """The weight of a media type and how exactly its best range names it (0 to 2); (0, -1) if none does."""
    names = ("*/*", f"{media_type.partition('/')[0]}/*", media_type)  # the last is `_EXACT`
    named = [(names.index(media_range), weight) for media_range, weight in ranges if media_range in names]
    if not named:
        return 0.0, -1
    exactness = max(exactness for exactness, _ in named)
    return max(weight for found, weight in named if found == exactness), exactness
