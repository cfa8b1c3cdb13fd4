"""`POST /classify`: one picture in, one answer out."""

import time

from fastapi import APIRouter, Request, Response

from service.api.disconnect import while_connected
from service.api.openapi import ONE_PICTURE, problem_responses
from service.api.responses import Wanted, identity, reading_aside
from service.api.routes.query import WantedMaps
from service.api.schemas import ClassifyAnswer
from service.api.state import RequestId, Running, RunningService, TimeoutWish
from service.api.uploads.body import one_picture

router = APIRouter(tags=["cells"])


@router.post(
    "/classify",
    summary="Classify one cell",
    response_model=ClassifyAnswer,
    response_model_exclude_none=True,
    responses=problem_responses(408, 413, 415, 422, 429, 503, 504),
    openapi_extra=ONE_PICTURE,
)
async def classify(
    request: Request,
    wanted: WantedMaps,
    service: RunningService,
    request_id: RequestId,
    timeout_ms: TimeoutWish = None,
) -> Response:
    """Send one picture of one bone-marrow cell: as the form field `image`, or as the body itself.

    The answer names the model that gave it. It is a suggestion: a qualified person reads the cell and signs.

        curl -F image=@cell.jpg 'http://localhost:8000/classify?maps=attention,evidence'
        curl -H 'Content-Type: image/jpeg' --data-binary @cell.jpg http://localhost:8000/classify
    """
    return await answered(request, wanted, service, request_id, timeout_ms)


async def answered(
    request: Request, wanted: Wanted, service: Running, request_id: str, timeout_ms: int | None = None
) -> Response:
    """What the route answers, once its parameters are known.

    Raises:
        What stands in `service.api.problems.TABLE`.
    """
    with service.serving().held() as classifier, service.lease(request) as lease:
        classifier.check_room(time.monotonic() + service.timeout_s(timeout_ms))
        picture = await one_picture(request, lease, service.limits)
        deadline = time.monotonic() + service.timeout_s(timeout_ms)
        answer = await while_connected(request, classifier.classify(picture, deadline=deadline))
    found = await reading_aside(answer, classifier.manifest, wanted)
    document = ClassifyAnswer(request_id=request_id, model=identity(classifier.manifest), **dict(found))
    return Response(document.json_bytes(), media_type="application/json", headers={"Cache-Control": "no-store"})
