"""`/readings`: what people have read in all specimens, as a training list, and its agreement with the model."""

from collections.abc import AsyncIterator, Iterator

from fastapi import APIRouter
from starlette.responses import StreamingResponse

from service.api.openapi import Responses, problem_responses
from service.api.query_parameters import KnownQuery
from service.concurrency.thread_pools import PICTURES
from service.errors import Conflict
from service.lis.api.dependencies import CurrentActor, CurrentLaboratory
from service.lis.schemas import Agreement
from service.lis.training_list import exported, zipped

router = APIRouter(tags=["specimens"], dependencies=[KnownQuery])
_ZIP: Responses = {200: {"description": "the list and its pictures", "content": {"application/zip": {}}}}
_HEADERS = {"Content-Disposition": 'attachment; filename="readings.zip"', "Cache-Control": "no-store"}


@router.get(
    "/readings",
    summary="Export the readings as a training list",
    response_class=StreamingResponse,
    responses=_ZIP | problem_responses(404, 409, 422, 503),
)
async def export_readings(actor: CurrentActor, lab: CurrentLaboratory) -> StreamingResponse:
    """A ZIP with `readings.csv` and the stored pictures: file, label, pseudonym of the patient, reader, suggestion.
    `marrowlens-train` and `marrowlens verify --labels` read the list. The audit trail records the export. Cells without
    a stored picture are left out."""
    store = lab.picture_store
    if store is None:
        raise Conflict("pictures are not stored, so a list would be empty; set MARROWLENS_LIS_PICTURES")
    cells = await lab.query(lab.use_cases.export_readings, actor)
    parts = zipped(exported(cells, lambda sha256: store.get(sha256, "picture")))
    return StreamingResponse(_in_threads(parts), headers=_HEADERS, media_type="application/zip")


@router.get(
    "/readings/agreement",
    summary="Agreement of the model with the readers",
    response_model_exclude_none=True,
    responses=problem_responses(404, 422, 503),
)
async def reading_agreement(lab: CurrentLaboratory) -> Agreement:
    """Shares of read cells for which the suggestion was the reader's class, over all specimens, by class and by reader,
    with 95 % Wilson intervals; and Cohen's kappa. The readers saw the suggestion and doubtful cells are read first, so
    this is no verification."""
    return await lab.query(lab.use_cases.agreement)


async def _in_threads(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The parts, each made in a thread: the disk may block."""
    while (part := await PICTURES.run(next, parts, None)) is not None:
        yield part
