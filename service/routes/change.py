"""`POST /model/reload`: another model takes over. For whoever holds the operator's token, and nobody else."""

import logging
import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from service.answers import description
from service.errors import Forbidden, Unauthorised
from service.models import Models
from service.openapi import problem_responses
from service.running import RequestId, RunningService
from service.schemas import ModelDescription

log = logging.getLogger(__name__)

router = APIRouter(tags=["operations"])
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


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


async def operator(service: RunningService, bearer: Bearer, request_id: RequestId) -> None:
    """Return when the caller holds the operator's token. That somebody asked without it is told in the log.

    Raises:
        Forbidden: no token is set, so that nobody can hold it.
        Unauthorised: another token, or none.
    """
    token = service.settings.admin_token
    if token is None:
        log.warning("request %s asked for another model, and no token is set for operators", request_id)
        raise Forbidden("no token is set for operators: set MARROWLENS_ADMIN_TOKEN, or send SIGHUP to the process")
    if bearer is None or not secrets.compare_digest(bearer.credentials.encode(), token.get_secret_value().encode()):
        log.warning("request %s asked for another model without the operator's token", request_id)
        raise Unauthorised


@router.post(
    "/model/reload",
    summary="Serve with another model",
    dependencies=[Depends(operator)],
    responses=problem_responses(400, 401, 403, 409, 422, 503),
)
async def reload(request: Request, service: RunningService, change: Change | None = None) -> ModelDescription:
    """The new model is opened, checked and warmed beside the old one; then new requests go to it, and none fails.

    One that is refused changes nothing: the answer says why, and the old one serves on.

        curl -X POST -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
             -d '{"artefact": "other.onnx"}' http://localhost:8000/model/reload
    """
    models: Models = request.app.state.models
    await models.change(None if change is None else change.artefact)
    classifier = service.serving()
    return description(classifier.manifest, classifier.provider)
