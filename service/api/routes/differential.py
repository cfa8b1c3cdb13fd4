"""`POST /classify/differential`: the differential count of classes that a client already has."""

from typing import Annotated

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from model.fields import Code
from service.api.openapi import problem_responses
from service.api.responses import differential_count
from service.api.schemas import DifferentialCount
from service.api.state import AppStateDep
from service.api.uploads.body import JsonRoute
from service.concurrency.thread_pools import BODIES
from service.errors import NoTrustReference

router = APIRouter(tags=["cells"], route_class=JsonRoute)
_MOST_CELLS = 10_000_000
Count = Annotated[StrictInt, Field(ge=0, le=_MOST_CELLS)]


class ClassCounts(BaseModel):
    """Predicted classes with their numbers of cells."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    counts: dict[Code, Count] = Field(
        description="number of cells by class code", max_length=1000, examples=[{"PMO": 2, "NGS": 31}]
    )
    problems: Count = Field(0, description="pictures without a result")
    corrected: StrictBool = Field(
        False, description="add shares corrected by the confusion matrix; 422 for a model without a trust reference"
    )


@router.post(
    "/classify/differential",
    summary="Count classified cells",
    response_model_exclude_none=True,
    responses=problem_responses(400, 408, 413, 415, 422, 429, 503),
)
async def count_cells(body: ClassCounts, state: AppStateDep) -> DifferentialCount:
    """The differential of several batches, or of a part of one: the same count as in the answer of a batch.

        curl -H 'Content-Type: application/json' http://localhost:8000/classify/differential \\
             -d '{"counts": {"PMO": 2, "NGS": 31}}'
    """
    manifest = state.current_classifier().manifest
    if unknown := sorted(body.counts.keys() - set(manifest.codes)):
        raise _unknown_class(unknown[0])
    if body.corrected and manifest.trust is None:
        raise NoTrustReference()
    return await BODIES.run(
        lambda: differential_count(
            body.counts,
            manifest,
            problems=body.problems,
            count_other=state.settings.count_other,
            corrected=body.corrected,
        )
    )


def _unknown_class(code: str) -> RequestValidationError:
    message = "not a class of the model; GET /classes lists them"
    return RequestValidationError([{"loc": ("body", "counts", code), "type": "value_error", "msg": message}])
