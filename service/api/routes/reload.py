"""`POST /model/reload`: another model takes over. For callers with the scope `admin`, and nobody else."""

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from service.api.openapi import problem_responses
from service.api.responses import description
from service.api.schemas import ModelDescription
from service.api.state import RunningService
from service.api.uploads.json_body import JsonRoute
from service.auth.middleware import CurrentCaller
from service.errors import Forbidden
from service.inference.registry import Models

router = APIRouter(tags=["operations"], route_class=JsonRoute)


class Change(BaseModel):
    """Which model takes over."""

    model_config = ConfigDict(extra="forbid")

    artefact: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.onnx$",
        max_length=255,
        description="a file beside the configured artefact; absent: that artefact, read anew",
        examples=["marrowlens-lite.onnx"],
    )


async def operator(caller: CurrentCaller) -> None:
    """Return when somebody known asks: that he holds the scope, the guard has seen.

    Raises:
        Forbidden: nobody is asked who he is here, so that nobody can hold it.
    """
    if caller is None:
        raise Forbidden(
            "nobody is known here who could change the model: set MARROWLENS_KEYS_FILE, or send SIGHUP to the process"
        )


@router.post(
    "/model/reload",
    summary="Serve with another model",
    dependencies=[Depends(operator)],
    responses=problem_responses(400, 401, 403, 408, 409, 413, 415, 422, 429, 503),
)
async def reload(request: Request, service: RunningService, change: Change | None = None) -> ModelDescription:
    """The new model is opened, checked and warmed beside the old one; then new requests go to it, and none fails.

    One that is refused changes nothing: the answer says why, and the old one serves on.

        curl -X POST -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \\
             -d '{"artefact": "other.onnx"}' http://localhost:8000/model/reload
    """
    models: Models = request.app.state.models
    await models.change(None if change is None else change.artefact)
    classifier = service.serving()
    return description(classifier.manifest, classifier.provider)
