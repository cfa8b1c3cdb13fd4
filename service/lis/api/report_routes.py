"""Reports for people: as PDF, and compared with the previous report."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response

from service.api.openapi import problem_responses
from service.api.query_parameters import KnownQuery
from service.api.uploads.body import JsonRoute
from service.auth.middleware import CurrentCaller
from service.lis.api import examples
from service.lis.api.dependencies import (
    AuditedRead,
    CurrentLaboratory,
    CurrentPerson,
    ReaderHeader,
    SpecimenId,
    audit_read,
)
from service.lis.domain.comparison import Comparison
from service.lis.domain.report import MAX_INTEGER, Report
from service.lis.schemas import SignSpecimen

router = APIRouter(tags=["specimens"], route_class=JsonRoute, dependencies=[KnownQuery])
Language = Annotated[Literal["en", "de"], Query(description="language of the texts; results are the same")]
_PDF: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/pdf": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.get(
    "/specimens/{specimen_id}/reports/{version}/pdf",
    summary="Print a report",
    dependencies=[AuditedRead],
    response_class=Response,
    responses=_PDF | problem_responses(404, 422, 503),
)
async def print_stored_report(
    specimen_id: SpecimenId,
    version: Annotated[int, Path(ge=1, le=MAX_INTEGER)],
    lab: CurrentLaboratory,
    language: Language = "en",
) -> Response:
    """One version of the report on A4; of a corrected one, with what it changes. A preliminary report has a watermark.
    Reference ranges are those of the settings now.

        curl -o report.pdf "http://localhost:8000/specimens/$ID/reports/1/pdf?language=de"
    """
    report, replaced = await lab.query(lab.use_cases.report_and_replaced, specimen_id, version)
    return _pdf(await lab.print_report(report, replaced, language), report)


@router.post(
    "/specimens/{specimen_id}/preview/pdf",
    summary="Print what a signature would write",
    dependencies=[AuditedRead],
    response_class=Response,
    responses=_PDF | problem_responses(400, 404, 408, 409, 413, 415, 422, 429, 503),
    openapi_extra=examples.taking(examples.SIGN),
)
async def print_preview(
    specimen_id: SpecimenId, body: SignSpecimen, actor: CurrentPerson, lab: CurrentLaboratory, language: Language = "en"
) -> Response:
    """The report of `preview` as a PDF, with a watermark because it is not signed. Refused as `sign` is."""
    report, replaced = await lab.query(lab.use_cases.preview_and_replaced, specimen_id, body, actor)
    return _pdf(await lab.print_report(report, replaced, language, is_signed=False), report)


def _pdf(content: bytes, report: Report) -> Response:
    # Browsers keep the file's name in a list: it names no patient.
    name = f"report-{report.specimen_id[:8]}-{report.version}.pdf"
    return Response(
        content, media_type="application/pdf", headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


@router.get(
    "/specimens/{specimen_id}/comparison",
    summary="Compare with the previous report",
    dependencies=[AuditedRead],
    response_model_exclude_none=True,
    responses=examples.answering(examples.COMPARISON) | problem_responses(404, 422, 503),
)
async def compare_with_previous(
    request: Request, specimen_id: SpecimenId, caller: CurrentCaller, lab: CurrentLaboratory, sent: ReaderHeader = None
) -> Comparison:
    """The specimen's result and its previous signed report, or else the last one of another specimen of the patient.
    With MARROWLENS_LIS_AUDIT_READS both specimens get a row in the audit trail."""
    found: Comparison = await lab.query(lab.use_cases.comparison, specimen_id)
    if found.previous is not None and not found.same_specimen:
        await audit_read(request, caller, lab, found.previous.specimen_id, sent)
    return found
