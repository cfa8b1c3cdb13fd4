"""`GET /worklist`: the specimens of a laboratory with what a person needs to choose the next one."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.api.openapi import problem_responses
from service.api.query_parameters import KnownQuery
from service.api.uploads.body import JsonRoute
from service.lis.api.dependencies import AuditedListRead, CurrentLaboratory
from service.lis.api.paging import LINKED, LinkedPage
from service.lis.api.routes import NO_NUL
from service.lis.schemas import Worklist
from service.lis.storage.states import State

router = APIRouter(tags=["specimens"], route_class=JsonRoute, dependencies=[KnownQuery])


@router.get(
    "/worklist",
    summary="Specimens with patient, progress and delivery",
    dependencies=[AuditedListRead],
    response_model_exclude_none=True,
    responses=problem_responses(404, 422, 503) | LINKED,
)
async def worklist(
    lab: CurrentLaboratory,
    pages: LinkedPage,
    state: Annotated[
        list[State] | None, Query(max_length=4, description="only specimens in one of these states")
    ] = None,
    number: Annotated[
        str | None, Query(max_length=200, pattern=NO_NUL, description="only the specimen with this number")
    ] = None,
    before: Annotated[int | None, Query(ge=0, le=2**62, description="`next` of the previous page")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Worklist:
    """Newest first; use `next` for older ones."""
    return pages.link(await lab.query(lab.use_cases.worklist, state or [], number, before, limit), "before")
