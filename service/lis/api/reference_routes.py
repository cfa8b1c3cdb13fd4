"""`GET /reference-cells/{code}`: pictures of a class to compare a cell with."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from model.fields import Code, Sha256
from service.api.openapi import problem_responses
from service.api.query_parameters import KnownQuery
from service.auth.middleware import CurrentCaller
from service.lis.api.dependencies import CurrentLaboratory, ReaderHeader, current_actor
from service.lis.api.picture_response import picture_response
from service.lis.schemas import ReferenceCellList

router = APIRouter(tags=["specimens"], dependencies=[KnownQuery])
ClassCode = Annotated[Code, Path(description="class code")]


@router.get(
    "/reference-cells/{code}",
    summary="List the reference cells of a class",
    responses=problem_responses(404, 422, 503),
)
async def list_reference_cells(code: ClassCode, lab: CurrentLaboratory) -> ReferenceCellList:
    """Of the laboratory's folder (MARROWLENS_LIS_REFERENCE_CELLS), then of its signed specimens, if
    MARROWLENS_LIS_REFERENCE_SIGNED allows that; drawings if there is neither. At most 12; none for a class without."""
    return ReferenceCellList(code=code, cells=await lab.query(lab.reference_cells.list, code))


@router.get(
    "/reference-cells/{code}/{picture}",
    summary="See a reference cell",
    response_class=Response,
    responses=problem_responses(404, 422, 503),
)
async def see_reference_cell(
    request: Request,
    code: ClassCode,
    picture: Annotated[Sha256, Path(description="`id` of the list")],
    caller: CurrentCaller,
    lab: CurrentLaboratory,
    sent: ReaderHeader = None,
) -> Response:
    """The picture. With MARROWLENS_LIS_AUDIT_READS, one of a signed specimen is a read of that specimen."""
    data = await lab.load_reference_cell(code, picture)
    if data is None and (specimen_id := await lab.query(lab.reference_cells.specimen_of, code, picture)) is not None:
        if lab.audits_reads:
            actor = await current_actor(request, caller, sent)
            await lab.query(lab.use_cases.record_read, specimen_id, "reference cell", actor)
        data = await lab.load_picture(picture, "picture")
    return picture_response(data, "reference cell")
