"""`POST /specimens/{id}/messages/{control_id}/retry` and `/drop`: what a person does with an undelivered report."""

from typing import Annotated

from fastapi import APIRouter, Path

from service.api.openapi import problem_responses
from service.api.query_parameters import KnownQuery
from service.api.uploads.body import JsonRoute
from service.lis.api import examples
from service.lis.api.dependencies import CurrentActor, CurrentLaboratory, SpecimenId
from service.lis.schemas import Reason, Specimen

router = APIRouter(tags=["specimens"], route_class=JsonRoute, dependencies=[KnownQuery])
ControlId = Annotated[
    str, Path(pattern=r"^[\x21-\x7e]{1,64}$", description="the message's control id, as in the specimen's `versions`")
]
_ANSWERS = examples.answering(examples.SPECIMEN) | problem_responses(400, 404, 408, 409, 413, 415, 422, 429, 503)


@router.post(
    "/specimens/{specimen_id}/messages/{control_id}/retry",
    summary="Send a dead letter again",
    response_model_exclude_none=True,
    responses=_ANSWERS,
)
async def retry_message(
    specimen_id: SpecimenId, control_id: ControlId, actor: CurrentActor, lab: CurrentLaboratory
) -> Specimen:
    """The same bytes with the same control id. 409 if the receiver may have a later report of the specimen."""
    return await lab.execute("retry", lab.use_cases.retry_message, specimen_id, control_id, actor)


@router.post(
    "/specimens/{specimen_id}/messages/{control_id}/drop",
    summary="Give up on a message",
    response_model_exclude_none=True,
    responses=_ANSWERS,
    openapi_extra=examples.taking(examples.GIVEN_UP),
)
async def drop_message(
    specimen_id: SpecimenId, control_id: ControlId, body: Reason, actor: CurrentActor, lab: CurrentLaboratory
) -> Specimen:
    """The report stays; the receiver will not get it. The reason is written to the audit trail."""
    return await lab.execute("drop", lab.use_cases.drop_message, specimen_id, control_id, body, actor)
