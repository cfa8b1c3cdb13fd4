"""`POST /specimens/{id}/cells` adds pictures to a specimen; `GET …/picture` returns a stored one."""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from model.plural import plural
from service.api.disconnect import while_connected
from service.api.openapi import MANY_OR_ONE_PICTURE, problem_responses
from service.api.problems import INTERNAL_ERROR, problem, problem_type_of
from service.api.query_parameters import KnownQuery
from service.api.state import AppState, AppStateDep, RequestId, RequestTimeoutMs
from service.api.uploads.archives import Upload
from service.api.uploads.body import content_type, many_pictures, one_picture
from service.api.uploads.memory_budget import MemoryReservation
from service.lis.api import examples
from service.lis.api.dependencies import AuditedRead, CurrentActor, CurrentLaboratory, SpecimenId
from service.lis.api.picture_response import picture_response
from service.lis.api.routes import Place
from service.lis.domain.differential import ClassifiedCell
from service.lis.ingest import MAX_KEY, Ingest
from service.lis.schemas import AddedCells, AddedItem, Cell

if TYPE_CHECKING:  # imports SQLAlchemy
    from service.lis.use_cases import Added

log = logging.getLogger(__name__)
router = APIRouter(tags=["specimens"], dependencies=[KnownQuery])

IDEMPOTENCY_KEY = "Idempotency-Key"
Key = Annotated[
    str | None,
    Header(
        alias=IDEMPOTENCY_KEY,
        min_length=1,
        max_length=MAX_KEY,
        pattern=r"^[\x21-\x7e]+$",
        description="Your name for the one picture that is the body (image/*). The same picture sent again under it is "
        "the same cell. Refused with a form or an archive: send keys=names with them.",
    ),
]


@router.post(
    "/specimens/{specimen_id}/cells",
    summary="Add cells to a specimen",
    response_model_exclude_none=True,
    responses=examples.answering(examples.ADDED) | problem_responses(404, 408, 409, 413, 415, 422, 429, 503),
    openapi_extra=MANY_OR_ONE_PICTURE,
)
async def add_cells(
    request: Request,
    specimen_id: SpecimenId,
    actor: CurrentActor,
    service: AppStateDep,
    lab: CurrentLaboratory,
    request_id: RequestId,
    keys: Annotated[
        Literal["none", "names"],
        Query(description="`names`: the file name of each picture is its key, unique within the specimen"),
    ] = "none",
    key: Key = None,
    timeout_ms: RequestTimeoutMs = None,
) -> AddedCells:
    """Send one picture as the body, or several as form fields `images`, a ZIP or an uncompressed tar.

    Each picture is classified and added once; a picture that the specimen already has is the same cell. A picture
    that cannot be read gets a problem and does not affect the others. A picture that another patient's specimen has
    too is added, with a warning.

        curl -H 'X-Acting-User: scanner-1' -H 'Content-Type: application/zip' \\
             --data-binary @cells.zip http://localhost:8000/specimens/$ID/cells
    """
    with service.current_classifier().in_use() as classifier, service.reserve_memory(request) as memory:
        known = await lab.query(lab.use_cases.picture_hashes, specimen_id)
        uploads = await _uploads(request, key, memory, service)
        by_name = keys == "names" or key is not None
        timeout_s = service.timeout_s(timeout_ms)
        async with lab.staged_pictures() as staged:
            ingest = Ingest(classifier, known, lab.picture_store, staged, lab.draws, by_name, timeout_s)
            outcomes = await while_connected(request, ingest.run(uploads))
            sent = [cell for _, cell in outcomes if isinstance(cell, ClassifiedCell)]
            # Classified cells are stored even if the client has disconnected.
            found = await lab.execute("add", lab.use_cases.add, specimen_id, sent, classifier.manifest, actor)
    items = _items(outcomes, found, request_id)
    if shared := sum(item.warning is not None for item in items):
        log.warning("specimen %s: %s also in another patient's specimen", specimen_id, plural(shared, "picture"))
    return AddedCells(
        request_id=request_id,
        revision=found.revision,
        added=found.added,
        differential=found.differential,
        items=items,
    )


@router.get(
    "/specimens/{specimen_id}/cells/{place}/picture",
    dependencies=[AuditedRead],
    summary="See the picture of a cell",
    response_class=Response,
    responses=problem_responses(404, 422, 503),
)
async def see_cell(
    specimen_id: SpecimenId,
    place: Place,
    lab: CurrentLaboratory,
    kind: Annotated[
        Literal["picture", "overlay"],
        Query(description="`overlay`: the evidence for the suggested class, drawn over the cell"),
    ] = "picture",
) -> Response:
    """The picture as it was sent, if the laboratory stores pictures and it has not expired.

    404 for a cell of an erased specimen, also if another specimen has the same picture.
    """
    sha256 = await lab.query(lab.use_cases.cell_picture, specimen_id, place)
    return picture_response(await lab.load_picture(sha256, kind), "picture")


async def _uploads(
    request: Request, key: str | None, memory: MemoryReservation, service: AppState
) -> AsyncIterator[Upload]:
    """The pictures of the body.

    Raises:
        RequestValidationError: a key, and a body that is not one picture.
        ServiceError: as `one_picture` and `many_pictures`.
    """
    if content_type(request).startswith("image/"):
        return _alone(Upload(key, await one_picture(request, memory, service.limits)))
    if key is not None:
        message = "names one picture; send the picture as the body (image/*), or file names as keys with keys=names"
        raise RequestValidationError([{"loc": ("header", IDEMPOTENCY_KEY), "type": "value_error", "msg": message}])
    return await many_pictures(request, memory, service.limits)


async def _alone(upload: Upload) -> AsyncIterator[Upload]:
    yield upload


def _items(
    outcomes: Sequence[tuple[str | None, ClassifiedCell | Exception]], added: "Added", request_id: str
) -> list[AddedItem]:
    rows = iter(added.outcomes)
    items = []
    for index, (name, outcome) in enumerate(outcomes):
        found = next(rows) if isinstance(outcome, ClassifiedCell) else outcome
        if isinstance(found, Exception):
            if problem_type_of(found) is INTERNAL_ERROR:
                log.error("item %d of request %s failed", index, request_id, exc_info=found)
            items.append(AddedItem(index=index, name=name, problem=problem(found, request_id)))
        else:
            items.append(AddedItem(index=index, name=name, cell=found, warning=_warning(found, added)))
    return items


def _warning(cell: Cell, added: "Added") -> str | None:
    others = added.elsewhere.get(cell.sha256)
    if not others:
        return None
    return (
        f"the same picture is in {'specimen' if len(others) == 1 else 'specimens'} {', '.join(others)} of another "
        "patient; remove the cell where it does not belong"
    )
