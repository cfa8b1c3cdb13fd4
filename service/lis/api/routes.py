"""`/specimens`: from an opened specimen to a signed report, over HTTP. The use cases do the work."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Response, params

from service.api.openapi import problem_responses
from service.api.query_parameters import KnownQuery
from service.api.schemas import CellsProblem, Problem
from service.api.state import AppStateDep
from service.api.uploads.body import JsonRoute
from service.lis.api import examples
from service.lis.api.dependencies import (
    AuditedListRead,
    AuditedRead,
    CurrentActor,
    CurrentLaboratory,
    CurrentPerson,
    SpecimenId,
)
from service.lis.api.paging import LINKED, LinkedPage
from service.lis.domain.report import MAX_INTEGER, Report, SpecimenDifferential
from service.lis.schemas import (
    AuditTrail,
    CellHistory,
    CellPage,
    ChangeSpecimen,
    CommentTemplatesOf,
    ConfirmCells,
    OpenSpecimen,
    Preview,
    ReadAnswer,
    ReadCells,
    ReportSpecimen,
    SignSpecimen,
    Specimen,
    SpecimenPage,
    SpecimenRevision,
    WithReason,
)
from service.lis.storage.states import State

router = APIRouter(tags=["specimens"], route_class=JsonRoute, dependencies=[KnownQuery])
Route = TypeVar("Route", bound=Callable[..., Any])

Place = Annotated[int, Path(ge=1, le=MAX_INTEGER, description="the cell's place in the specimen: 1, 2, …")]
#: PostgreSQL refuses text with a NUL.
NO_NUL = r"^[^\x00]*$"
Limit = Annotated[int, Query(ge=1, le=1000)]


def _read(
    path: str, summary: str, example: examples.Json | None = None, *, pages: bool = False, **more: Any
) -> Callable[[Route], Route]:
    """A GET route below `/specimens`. Reads are audited, absent fields are left out. `pages` of a list are linked."""
    responses = problem_responses(404, 422, 503) | (LINKED if pages else {})
    options: dict[str, Any] = {"dependencies": [AuditedRead], "response_model_exclude_none": True} | more
    shown = examples.answering(example) if example else {}
    return router.get(f"/specimens{path}", summary=summary, responses=shown | responses, **options)


def _change(
    path: str,
    summary: str,
    body: examples.Json,
    answer: examples.Json,
    status: int = 200,
    method: str = "POST",
    conflict: type[Problem] = Problem,
    reads: Sequence[params.Depends] = (),
) -> Callable[[Route], Route]:
    """A route below `/specimens` that takes JSON. Absent fields are left out of the answer. `reads` audits a read."""
    return router.api_route(
        f"/specimens{path}",
        methods=[method],
        summary=summary,
        status_code=status,
        dependencies=reads,
        response_model_exclude_none=True,
        responses=examples.answering(answer, status=status)
        | problem_responses(409, form=conflict)
        | problem_responses(400, 404, 408, 413, 415, 422, 429, 503),
        openapi_extra=examples.taking(body),
    )


@_change("", "Open a specimen", examples.OPEN, examples.SPECIMEN, status=201)
async def open_specimen(
    body: OpenSpecimen, actor: CurrentActor, lab: CurrentLaboratory, state: AppStateDep, response: Response
) -> Specimen:
    """Open a specimen without an order. Specimen numbers are unique: 409 if the number exists.

        curl -H 'X-Acting-User: m.muster' -H 'Content-Type: application/json' http://localhost:8000/specimens \\
             -d '{"number": "BM-2026-0042", "patient": {"identifier": "100234"}}'
    """
    opened: Specimen = await lab.execute("open", lab.use_cases.open, body, actor)
    response.headers["Location"] = f"{state.settings.root_path}/specimens/{opened.id}"
    return opened


@_read("", "List specimens", pages=True, dependencies=[AuditedListRead])
async def list_specimens(
    lab: CurrentLaboratory,
    pages: LinkedPage,
    state: Annotated[State | None, Query(description="only specimens in this state")] = None,
    number: Annotated[
        str | None, Query(max_length=200, pattern=NO_NUL, description="only specimens with this number")
    ] = None,
    merged: Annotated[
        bool,
        Query(description="only signed specimens whose patient was merged with another one since the last report"),
    ] = False,
    patient: Annotated[
        str | None,
        Query(
            max_length=200, pattern=NO_NUL, description="only specimens of the patient with this number, any of them"
        ),
    ] = None,
    before: Annotated[int | None, Query(ge=0, le=2**62, description="`next` of the previous page")] = None,
    limit: Limit = 50,
) -> SpecimenPage:
    """Newest first; use `next` for older ones."""
    page = await lab.query(partial(lab.use_cases.list, merged=merged), state, number, before, limit, patient)
    return pages.link(page, "before")


@_read("/{specimen_id}", "Look at a specimen", examples.SPECIMEN)
async def look_at_specimen(specimen_id: SpecimenId, lab: CurrentLaboratory) -> Specimen:
    """Patient, order, current differential, reports, and the delivery of each report."""
    return await lab.query(lab.use_cases.get, specimen_id)


@_read("/{specimen_id}/revision", "See whether a specimen has changed", dependencies=[])
async def specimen_revision(specimen_id: SpecimenId, lab: CurrentLaboratory) -> SpecimenRevision:
    """For clients that poll. It holds no patient data, so MARROWLENS_LIS_AUDIT_READS writes no row for it."""
    return await lab.query(lab.use_cases.revision, specimen_id)


@_change("/{specimen_id}", "Change a specimen's data", examples.CHANGE, examples.SPECIMEN, method="PATCH")
async def change_specimen(
    specimen_id: SpecimenId, body: ChangeSpecimen, actor: CurrentActor, lab: CurrentLaboratory
) -> Specimen:
    """Patient, order, target, what a person has counted or assessed beside the cells, or the draft of the comment."""
    return await lab.execute("change", lab.use_cases.change, specimen_id, body, actor)


@_read("/{specimen_id}/differential", "Read the running differential", examples.DIFFERENTIAL)
async def running_differential(specimen_id: SpecimenId, lab: CurrentLaboratory) -> SpecimenDifferential:
    """The current differential: a person's reading of each cell, or else the model's suggestion."""
    return await lab.query(lab.use_cases.differential, specimen_id)


@_read("/{specimen_id}/comment-templates", "List the templates for the comment", examples.TEMPLATES)
async def comment_templates(specimen_id: SpecimenId, lab: CurrentLaboratory) -> CommentTemplatesOf:
    """The laboratory's templates, with the specimen's current numbers in place of the placeholders."""
    return await lab.query(lab.use_cases.comment_templates, specimen_id)


@_read("/{specimen_id}/cells", "List the cells of a specimen", pages=True)
async def list_cells(
    specimen_id: SpecimenId,
    lab: CurrentLaboratory,
    pages: LinkedPage,
    code: Annotated[
        str | None, Query(max_length=32, pattern=NO_NUL, description="only cells that are now of this class")
    ] = None,
    only: Annotated[
        Literal["waiting", "unread"] | None,
        Query(description="`waiting`: the review list; `unread`: cells that no person has read"),
    ] = None,
    after: Annotated[int, Query(ge=0, le=MAX_INTEGER, description="`next` of the previous page")] = 0,
    limit: Limit = 100,
) -> CellPage:
    """Cells in the order they were added."""
    return pages.link(await lab.query(lab.use_cases.cells, specimen_id, code, only, after, limit), "after")


@_read("/{specimen_id}/cells/{place}", "Look at a cell")
async def look_at_cell(specimen_id: SpecimenId, place: Place, lab: CurrentLaboratory) -> CellHistory:
    """The model's suggestion, and all readings of the cell."""
    return await lab.query(lab.use_cases.cell, specimen_id, place)


@_change("/{specimen_id}/cells/{place}", "Remove a cell", examples.REMOVE, examples.SPECIMEN, method="DELETE")
async def remove_cell(
    specimen_id: SpecimenId, place: Place, body: WithReason, actor: CurrentPerson, lab: CurrentLaboratory
) -> Specimen:
    """Take a cell out of an open or amended specimen, such as another patient's picture.

    It is no longer counted or listed. The audit trail has the reason. The same picture cannot be added again.
    """
    return await lab.execute("remove", lab.use_cases.remove, specimen_id, place, body, actor)


@_change(
    "/{specimen_id}/readings", "Confirm or reclassify cells", examples.READ, examples.READ_ANSWER, conflict=CellsProblem
)
async def read_cells(
    specimen_id: SpecimenId, body: ReadCells, actor: CurrentPerson, lab: CurrentLaboratory
) -> ReadAnswer:
    """All readings are stored, or none. 409 if a cell was read by someone else since you saw it; `cells` of the problem
    has the current state of each such cell.

    The cell's current class confirms it; another class needs a reason. To undo a reading, read the cell again.
    """
    return await lab.execute("read", lab.use_cases.read, specimen_id, body, actor)


@_change("/{specimen_id}/preliminary", "Send a preliminary report", examples.SEEN, examples.REPORT)
async def report_preliminarily(
    specimen_id: SpecimenId, body: ReportSpecimen, actor: CurrentActor, lab: CurrentLaboratory
) -> Report:
    """Report the current state of the specimen, unsigned. Possible only before the first signature."""
    return await lab.execute("preliminary", lab.use_cases.preliminary, specimen_id, body, actor)


@_change("/{specimen_id}/second-reading", "Confirm the cells as a second reader", examples.SEEN, examples.CONFIRMED)
async def confirm_cells(
    specimen_id: SpecimenId, body: ConfirmCells, actor: CurrentPerson, lab: CurrentLaboratory
) -> Specimen:
    """Confirm all cells as they are now; the specimen's revision does not change. A new cell or reading ends the
    confirmation. With MARROWLENS_LIS_SECOND_READER a specimen can be signed only by another person than its second
    reader."""
    return await lab.execute("second_reading", lab.use_cases.confirm, specimen_id, body, actor)


@_change("/{specimen_id}/sign", "Sign a specimen", examples.SIGN, examples.REPORT)
async def sign_specimen(
    specimen_id: SpecimenId, body: SignSpecimen, actor: CurrentPerson, lab: CurrentLaboratory
) -> Report:
    """The report becomes final, or corrected after an amendment, and is sent. Only a person may sign."""
    return await lab.execute("sign", lab.use_cases.sign, specimen_id, body, actor)


@_change(
    "/{specimen_id}/preview", "See what a signature would send", examples.SIGN, examples.PREVIEW, reads=(AuditedRead,)
)
async def preview_report(
    specimen_id: SpecimenId, body: SignSpecimen, actor: CurrentPerson, lab: CurrentLaboratory
) -> Preview:
    """The report and its messages as `sign` would write them now. Nothing is stored or sent; refused as `sign` is.

    With MARROWLENS_LIS_AUDIT_READS a row of the audit trail says who looked."""
    return await lab.query(lab.use_cases.preview, specimen_id, body, actor)


@_change("/{specimen_id}/erase", "Erase a patient's data", examples.ERASE, examples.ERASED)
async def erase_patient(
    specimen_id: SpecimenId, body: WithReason, actor: CurrentPerson, lab: CurrentLaboratory
) -> Specimen:
    """Erase patient, order, reports, messages and pictures of a signed or cancelled specimen; this is final.

    Counts, classes and the audit trail stay. Undelivered messages are dropped. The specimen keeps its id; its number
    becomes `erased-` and the id. The reason is written to the audit trail, so it must name no patient.
    """
    erased, pictures = await lab.execute("erase", lab.use_cases.erase, specimen_id, body, actor)
    await lab.delete_pictures(pictures)
    return erased


@_change("/{specimen_id}/amend", "Amend a signed specimen", examples.REASON, examples.SPECIMEN)
async def amend_specimen(
    specimen_id: SpecimenId, body: WithReason, actor: CurrentPerson, lab: CurrentLaboratory
) -> Specimen:
    """Reopen a signed specimen. The signed report stays valid until the next signature."""
    return await lab.execute("amend", lab.use_cases.amend, specimen_id, body, actor)


@_change("/{specimen_id}/cancel", "Cancel an open specimen", examples.REASON, examples.SPECIMEN)
async def cancel_specimen(
    specimen_id: SpecimenId, body: WithReason, actor: CurrentActor, lab: CurrentLaboratory
) -> Specimen:
    """A cancelled specimen cannot be signed. A signed specimen can only be amended."""
    return await lab.execute("cancel", lab.use_cases.cancel, specimen_id, body, actor)


@_read("/{specimen_id}/reports/{version}", "Read a report", examples.REPORT, response_model=Report)
async def read_report(
    specimen_id: SpecimenId, version: Annotated[int, Path(ge=1, le=MAX_INTEGER)], lab: CurrentLaboratory
) -> Response:
    """One version of the report, byte for byte as it was written."""
    return Response(await lab.query(lab.use_cases.report, specimen_id, version), media_type="application/json")


@_read("/{specimen_id}/audit", "Read the audit trail", pages=True, response_model_exclude_none=False)
async def audit_trail(
    specimen_id: SpecimenId,
    lab: CurrentLaboratory,
    pages: LinkedPage,
    after: Annotated[int, Query(ge=0, le=2**62, description="`next` of the previous page")] = 0,
    limit: Limit = 1000,
) -> AuditTrail:
    """All changes of the specimen and deliveries of its reports, with time and actor; use `next` for later ones."""
    return pages.link(await lab.query(lab.use_cases.audit_trail, specimen_id, after, limit), "after")
