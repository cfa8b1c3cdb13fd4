"""`/specimens`: from an opened specimen to a signed report, over HTTP. Words and shapes; the desk does the work."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response

from service.api.openapi import problem_responses
from service.api.uploads.body import JsonRoute
from service.lis.api import examples
from service.lis.api.dependencies import AuditedList, AuditedLook, SpecimenId, TheActor, TheLaboratory, ThePerson
from service.lis.domain.report import Report, SpecimenDifferential
from service.lis.schemas import (
    MOST,
    AuditTrail,
    CellHistory,
    CellPage,
    ChangeSpecimen,
    OpenSpecimen,
    ReadAnswer,
    ReadCells,
    ReportSpecimen,
    SignSpecimen,
    Specimen,
    SpecimenPage,
    WithReason,
)
from service.lis.storage.states import State

_REFUSALS = (400, 404, 408, 409, 413, 415, 422, 429, 503)
router = APIRouter(tags=["specimens"], route_class=JsonRoute)


Place = Annotated[int, Path(ge=1, le=MOST, description="of the cell: 1, 2, …")]
#: PostgreSQL is asked for no text with a NUL in it: it would fail.
NO_NUL = r"^[^\x00]*$"
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post(
    "/specimens",
    summary="Open a specimen",
    status_code=201,
    response_model_exclude_none=True,
    responses=examples.answering(examples.SPECIMEN, status=201) | problem_responses(*_REFUSALS),
    openapi_extra=examples.taking(examples.OPEN),
)
async def open_specimen(wish: OpenSpecimen, by: TheActor, here: TheLaboratory) -> Specimen:
    """A specimen that no order opened. There is one specimen of a number: 409 if it is here already.

        curl -H 'X-Acting-User: m.muster' -H 'Content-Type: application/json' http://localhost:8000/specimens \\
             -d '{"number": "BM-2026-0042", "patient": {"identifier": "100234"}}'
    """
    return await here.do("open", here.desk.open, wish, by)


@router.get(
    "/specimens",
    dependencies=[AuditedList],
    summary="List specimens",
    response_model_exclude_none=True,
    responses=problem_responses(404, 422, 503),
)
async def list_specimens(
    here: TheLaboratory,
    state: Annotated[State | None, Query(description="only those that are there")] = None,
    number: Annotated[str | None, Query(max_length=200, pattern=NO_NUL, description="the one with this number")] = None,
    before: Annotated[int | None, Query(ge=0, le=2**62, description="`next` of the page before")] = None,
    limit: Limit = 50,
) -> SpecimenPage:
    """The newest first; follow `next` for older ones."""
    return await here.look(here.desk.list, state, number, before, limit)


@router.get(
    "/specimens/{specimen_id}",
    dependencies=[AuditedLook],
    summary="Look at a specimen",
    response_model_exclude_none=True,
    responses=examples.answering(examples.SPECIMEN) | problem_responses(404, 422, 503),
)
async def look_at_specimen(specimen_id: SpecimenId, here: TheLaboratory) -> Specimen:
    """Whose it is, how its differential stands, what was reported and whether it arrived."""
    return await here.look(here.desk.look, specimen_id)


@router.patch(
    "/specimens/{specimen_id}",
    summary="Change what is known of a specimen",
    response_model_exclude_none=True,
    responses=examples.answering(examples.SPECIMEN) | problem_responses(*_REFUSALS),
    openapi_extra=examples.taking(examples.CHANGE),
)
async def change_specimen(specimen_id: SpecimenId, wish: ChangeSpecimen, by: TheActor, here: TheLaboratory) -> Specimen:
    """Patient, order, target, or the megakaryocytes that a person counted aside."""
    return await here.do("change", here.desk.change, specimen_id, wish, by)


@router.get(
    "/specimens/{specimen_id}/differential",
    dependencies=[AuditedLook],
    summary="Read the running differential",
    response_model_exclude_none=True,
    responses=examples.answering(examples.DIFFERENTIAL) | problem_responses(404, 422, 503),
)
async def running_differential(specimen_id: SpecimenId, here: TheLaboratory) -> SpecimenDifferential:
    """As it stands: what the model suggested, with what people have read in its place."""
    return await here.look(here.desk.differential, specimen_id)


@router.get(
    "/specimens/{specimen_id}/cells",
    dependencies=[AuditedLook],
    summary="List the cells of a specimen",
    response_model_exclude_none=True,
    responses=problem_responses(404, 422, 503),
)
async def list_cells(
    specimen_id: SpecimenId,
    here: TheLaboratory,
    code: Annotated[
        str | None, Query(max_length=32, pattern=NO_NUL, description="only those that stand under this class")
    ] = None,
    only: Annotated[
        Literal["waiting", "unread"] | None, Query(description="`waiting`: the review list; `unread`: read by nobody")
    ] = None,
    after: Annotated[int, Query(ge=0, le=MOST, description="`next` of the page before")] = 0,
    limit: Limit = 100,
) -> CellPage:
    """In the order in which they came."""
    return await here.look(here.desk.cells, specimen_id, code, only, after, limit)


@router.get(
    "/specimens/{specimen_id}/cells/{place}",
    dependencies=[AuditedLook],
    summary="Look at a cell",
    response_model_exclude_none=True,
    responses=problem_responses(404, 422, 503),
)
async def look_at_cell(specimen_id: SpecimenId, place: Place, here: TheLaboratory) -> CellHistory:
    """What the model suggested, and everything that people said of it."""
    return await here.look(here.desk.cell, specimen_id, place)


@router.post(
    "/specimens/{specimen_id}/readings",
    summary="Confirm or reclassify cells",
    response_model_exclude_none=True,
    responses=examples.answering(examples.READ_ANSWER) | problem_responses(*_REFUSALS),
    openapi_extra=examples.taking(examples.READ),
)
async def read_cells(specimen_id: SpecimenId, wish: ReadCells, by: ThePerson, here: TheLaboratory) -> ReadAnswer:
    """Written down all together or not at all. If somebody read one of the cells since you saw it: 409.

    A cell's own class confirms it; another one needs a reason.
    """
    return await here.do("read", here.desk.read, specimen_id, wish, by)


@router.post(
    "/specimens/{specimen_id}/preliminary",
    summary="Send a preliminary report",
    response_model_exclude_none=True,
    responses=examples.answering(examples.REPORT) | problem_responses(*_REFUSALS),
    openapi_extra=examples.taking(examples.SEEN),
)
async def report_preliminarily(
    specimen_id: SpecimenId, wish: ReportSpecimen, by: TheActor, here: TheLaboratory
) -> Report:
    """As the specimen stands, signed by nobody; before the first signature only."""
    return await here.do("preliminary", here.desk.preliminary, specimen_id, wish, by)


@router.post(
    "/specimens/{specimen_id}/sign",
    summary="Sign a specimen",
    response_model_exclude_none=True,
    responses=examples.answering(examples.REPORT) | problem_responses(*_REFUSALS),
    openapi_extra=examples.taking(examples.SIGN),
)
async def sign_specimen(specimen_id: SpecimenId, wish: SignSpecimen, by: ThePerson, here: TheLaboratory) -> Report:
    """The report becomes final, or corrected after an amendment, and goes on its way. Only a person signs."""
    return await here.do("sign", here.desk.sign, specimen_id, wish, by)


@router.post(
    "/specimens/{specimen_id}/amend",
    summary="Amend a signed specimen",
    response_model_exclude_none=True,
    responses=examples.answering(examples.SPECIMEN) | problem_responses(*_REFUSALS),
    openapi_extra=examples.taking(examples.REASON),
)
async def amend_specimen(specimen_id: SpecimenId, wish: WithReason, by: ThePerson, here: TheLaboratory) -> Specimen:
    """It is open again until it is signed anew; what was signed stands until then."""
    return await here.do("amend", here.desk.amend, specimen_id, wish, by)


@router.post(
    "/specimens/{specimen_id}/cancel",
    summary="Cancel an open specimen",
    response_model_exclude_none=True,
    responses=examples.answering(examples.SPECIMEN) | problem_responses(*_REFUSALS),
    openapi_extra=examples.taking(examples.REASON),
)
async def cancel_specimen(specimen_id: SpecimenId, wish: WithReason, by: TheActor, here: TheLaboratory) -> Specimen:
    """It is never signed. What was signed is amended instead."""
    return await here.do("cancel", here.desk.cancel, specimen_id, wish, by)


@router.get(
    "/specimens/{specimen_id}/reports/{version}",
    dependencies=[AuditedLook],
    summary="Read a report",
    response_model=Report,
    response_model_exclude_none=True,
    responses=examples.answering(examples.REPORT) | problem_responses(404, 422, 503),
)
async def read_report(
    specimen_id: SpecimenId, version: Annotated[int, Path(ge=1, le=MOST)], here: TheLaboratory
) -> Response:
    """One version, letter for letter as it was signed."""
    return Response(await here.look(here.desk.report, specimen_id, version), media_type="application/json")


@router.get(
    "/specimens/{specimen_id}/audit",
    dependencies=[AuditedLook],
    summary="Read the audit trail",
    responses=problem_responses(404, 422, 503),
)
async def audit_trail(specimen_id: SpecimenId, here: TheLaboratory) -> AuditTrail:
    """Who did what to this specimen, and when."""
    return await here.look(here.desk.trail, specimen_id)
