"""`POST /classify`: one picture in, one answer out."""

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.api.disconnect import NO_STORE, while_connected
from service.api.openapi import ONE_PICTURE, problem_responses
from service.api.query_parameters import KnownQuery
from service.api.responses import ResponseOptions, identity_fields, reading_in_thread
from service.api.schemas import ClassifyAnswer, json_of
from service.api.state import AppStateDep, RequestId, RequestTimeoutMs
from service.api.uploads.body import one_picture

router = APIRouter(tags=["cells"], dependencies=[KnownQuery])


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
    options: Annotated[ResponseOptions, Query()],
    state: AppStateDep,
    request_id: RequestId,
    timeout_ms: RequestTimeoutMs = None,
) -> Response:
    """Send one picture of one bone-marrow cell: as the form field `image`, or as the body itself.

    The answer names the model that gave it. It is a suggestion: a qualified person reads the cell and signs.

        curl -F image=@cell.jpg 'http://localhost:8000/classify?maps=attention,evidence'
        curl -H 'Content-Type: image/jpeg' --data-binary @cell.jpg http://localhost:8000/classify
    """
    with state.current_classifier().in_use() as classifier, state.reserve_memory(request) as memory:
        options = options.for_model(classifier.manifest)
        classifier.check_capacity(time.monotonic() + state.timeout_s(timeout_ms))
        picture = await one_picture(request, memory, state.limits)
        deadline = time.monotonic() + state.timeout_s(timeout_ms)
        answer = await while_connected(request, classifier.classify(picture, deadline=deadline))
    found = await reading_in_thread(answer, classifier.manifest, options)
    document = {"request_id": request_id, "model": identity_fields(classifier.manifest), **found}
    return Response(json_of(document), media_type="application/json", headers=NO_STORE)
