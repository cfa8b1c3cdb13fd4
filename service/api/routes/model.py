"""`GET /model`, `GET /classes` and `POST /model/reload`: the served model, its classes, and its replacement."""

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from service.api.openapi import problem_responses
from service.api.responses import class_table, drift_description, model_description
from service.api.schemas import ClassTable, DriftDescription, ModelDescription
from service.api.state import AppStateDep
from service.api.uploads.body import JsonRoute
from service.auth.middleware import CurrentCaller
from service.concurrency.thread_pools import TELEMETRY
from service.errors import Forbidden
from service.inference.registry import ModelRegistry

router = APIRouter(route_class=JsonRoute)


@router.get("/model", tags=["model"], summary="The model's manifest", responses=problem_responses(503))
async def model(state: AppStateDep) -> ModelDescription:
    """The manifest: training data, split, metrics with their intervals, limits, hash."""
    classifier = state.current_classifier()
    return model_description(classifier.manifest, classifier.provider, classifier.precision)


@router.get("/classes", tags=["model"], summary="The classes, in logit order", responses=problem_responses(503))
async def classes(state: AppStateDep) -> ClassTable:
    """The class table: the number of training images of each class, and whether the class is supported."""
    return class_table(state.current_classifier().manifest)


@router.get("/model/drift", tags=["model"], summary="Drift of the recent pictures", responses=problem_responses(503))
async def drift(request: Request, state: AppStateDep) -> DriftDescription:
    """Whether the recent pictures, and the classes predicted for them, are like those of the drift reference, and how
    many answers were rejected. No data of a single picture. docs/drift.md says what to do."""
    models: ModelRegistry = request.app.state.models
    found = await models.drift_state()
    return drift_description(found, await TELEMETRY.run(state.metrics.decisions))


class Change(BaseModel):
    """The model to load."""

    model_config = ConfigDict(extra="forbid")

    artefact: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.onnx$",
        max_length=255,
        description="a file beside the configured artefact; default: the configured artefact, loaded again",
        examples=["marrowlens-lite.onnx"],
    )


async def require_authentication(caller: CurrentCaller) -> None:
    """Check that callers are authenticated. The middleware has checked the scope of this one.

    Raises:
        Forbidden: authentication is off, so no caller can have the scope.
    """
    if caller is None or caller.identity.kind == "claimed":
        raise Forbidden(
            "reloading over HTTP needs authentication, which is off; set MARROWLENS_KEYS_FILE, or send SIGHUP to the "
            "process"
        )


@router.post(
    "/model/reload",
    tags=["operations"],
    summary="Load another model",
    dependencies=[Depends(require_authentication)],
    responses=problem_responses(400, 401, 403, 408, 409, 413, 415, 422, 429, 503),
)
async def reload(request: Request, state: AppStateDep, change: Change | None = None) -> ModelDescription:
    """Load, check and warm up the new model beside the current one, then switch. No request fails meanwhile.

    A model that is rejected changes nothing: the answer says why, and the current model keeps serving.

        curl -X POST -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \\
             -d '{"artefact": "other.onnx"}' http://localhost:8000/model/reload
    """
    models: ModelRegistry = request.app.state.models
    await models.reload(None if change is None else change.artefact)
    classifier = state.current_classifier()
    return model_description(classifier.manifest, classifier.provider, classifier.precision)
