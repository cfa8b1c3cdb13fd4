"""`POST /classify/batch`: many pictures in; one result or one problem for each, and the differential count, out."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, aclosing

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api.accept import preferred
from service.api.batch_response import Bulk
from service.api.collected_answer import CollectedAnswer
from service.api.disconnect import while_connected
from service.api.openapi import MANY_PICTURES, NDJSON, problem_responses, stream_response
from service.api.routes.query import WantedMaps
from service.api.schemas import BatchAnswer
from service.api.state import RequestId, RunningService, TimeoutWish
from service.api.uploads.archives import Upload
from service.api.uploads.body import content_type, many_pictures
from service.api.uploads.memory_budget import Lease
from service.api.uploads.ndjson import StreamedPictures
from service.errors import AnswerTooLarge, MalformedRequest, UploadTooSlow

router = APIRouter(tags=["cells"])
_JSON = "application/json"
_NOT_STORED = {"Cache-Control": "no-store"}


class Lines(StreamingResponse):
    """NDJSON whose source is closed, and what is `held` for it let go, the moment the client leaves."""

    media_type = NDJSON

    def __init__(self, lines: AsyncGenerator[bytes, None], held: ExitStack) -> None:
        super().__init__(lines, headers=_NOT_STORED)
        self._lines = lines
        self._held = held

    async def stream_response(self, send: Send) -> None:
        with self._held:
            async with aclosing(self._lines):
                await super().stream_response(send)


class BothWays(Lines):
    """Answers while the body is still read. Nothing else may listen for what comes from the client meanwhile."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (signature is ASGI's)
        await self.stream_response(send)


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
    wanted: WantedMaps,
    service: RunningService,
    request_id: RequestId,
    timeout_ms: TimeoutWish = None,
) -> Response:
    """Send pictures as repeated form fields `images`, or as a ZIP or an uncompressed tar.

    Or as NDJSON, `{"name": "1.jpg", "image": "base64 of the file"}` a line: the answer is NDJSON too, and comes while
    lines are still being sent, however many they are. Read while you send.

    Every picture gets one item, in the order sent: a result, or a problem that touches no other picture. With
    `Accept: application/x-ndjson` items are sent as they come, one a line; the last line is the summary.

        curl -F images=@1.jpg -F images=@2.jpg http://localhost:8000/classify/batch
        curl -H 'Content-Type: application/zip' -H 'Accept: application/x-ndjson' \\
             --data-binary @cells.zip 'http://localhost:8000/classify/batch?maps=none'
    """
    settings, accept = service.settings, ", ".join(request.headers.getlist("accept"))
    with ExitStack() as stack:
        classifier = stack.enter_context(service.serving().held())
        bulk = Bulk(classifier, wanted, request_id, settings.count_other, service.timeout_s(timeout_ms))
        lease = stack.enter_context(service.lease(request))
        if content_type(request) == NDJSON:
            preferred(accept, [NDJSON])
            pictures = StreamedPictures(request, lease, settings.max_image_bytes, service.limits.patience)
            return BothWays(_streamed(bulk, pictures), stack.pop_all())
        form = preferred(accept, [_JSON, NDJSON])
        uploads = await many_pictures(request, lease, service.limits)
        if form == NDJSON:
            return Lines(_lines(bulk, uploads), stack.pop_all())
        chunks = await while_connected(request, _document(bulk, uploads, lease, settings.max_body_bytes))
        return CollectedAnswer(
            chunks, stack.pop_all(), media_type=_JSON, patience=service.limits.patience, headers=_NOT_STORED
        )


async def _lines(bulk: Bulk, uploads: AsyncIterator[Upload]) -> AsyncGenerator[bytes, None]:
    async with aclosing(bulk.items(uploads)) as items:
        async for item in items:
            yield item + b"\n"
    yield bulk.summary().json_bytes() + b"\n"


async def _streamed(bulk: Bulk, pictures: StreamedPictures) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(bulk.items(pictures.uploads())) as items:
            async for item in items:
                pictures.answered()
                yield item + b"\n"
    except (MalformedRequest, UploadTooSlow) as error:
        yield bulk.ended(error) + b"\n"
    yield bulk.summary().json_bytes() + b"\n"


async def _document(bulk: Bulk, uploads: AsyncIterator[Upload], lease: Lease, limit_bytes: int) -> list[bytes]:
    items, size_bytes = [], 0
    async with aclosing(bulk.items(uploads)) as source:
        async for item in source:
            size_bytes += len(item)
            if size_bytes > limit_bytes:
                raise AnswerTooLarge(limit_bytes, f"ask for fewer maps, or for lines: Accept: {NDJSON}")
            lease.take(len(item))
            items.append(item)
    return bulk.document(items)
