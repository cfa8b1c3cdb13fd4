"""`PUT` and `DELETE /specimens/{id}/presence/{page}`: a page says that a person has a specimen open."""

from typing import Annotated

from fastapi import APIRouter, Path

from service.api.openapi import problem_responses
from service.api.query_parameters import KnownQuery
from service.api.uploads.body import JsonRoute
from service.lis.api import examples
from service.lis.api.dependencies import CurrentActor, CurrentLaboratory, SpecimenId
from service.lis.schemas import Look

router = APIRouter(tags=["specimens"], route_class=JsonRoute, dependencies=[KnownQuery])
Page = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="a random id that a client makes for each open page")]
_PATH = "/specimens/{specimen_id}/presence/{page}"


@router.put(
    _PATH,
    summary="Say that a specimen is open",
    status_code=204,
    responses=problem_responses(400, 404, 408, 413, 415, 422, 429, 503),
    openapi_extra=examples.taking(examples.LOOK),
)
async def announce_presence(
    specimen_id: SpecimenId, page: Page, body: Look, actor: CurrentActor, lab: CurrentLaboratory
) -> None:
    """Repeat it every 10 s: a page that is silent for 30 s is taken for closed. `GET /specimens/{id}/revision` lists
    who is present. It changes nothing of the specimen, so the audit trail has no row of it."""
    await lab.query(lab.presence.announce, specimen_id, page, body, actor)


@router.delete(
    _PATH,
    summary="Say that a specimen is closed",
    status_code=204,
    responses=problem_responses(404, 422, 503),
)
async def end_presence(specimen_id: SpecimenId, page: Page, actor: CurrentActor, lab: CurrentLaboratory) -> None:  # noqa: ARG001
    """Forget a page of this person. There may be none."""
    await lab.query(lab.presence.leave, page, actor)
