"""`POST /specimens/{id}/cells` and `GET …/picture`: pictures into a specimen, and those that are kept out again."""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Header, Query, Request, Response

from service.api.disconnect import while_connected
from service.api.openapi import MANY_OR_ONE_PICTURE, problem_responses
from service.api.problems import INTERNAL_ERROR, problem, problem_type_of
from service.api.state import AppState, AppStateDep, RequestId, RequestTimeoutMs
from service.api.uploads.archives import Upload
from service.api.uploads.body import content_type, many_pictures, one_picture
from service.api.uploads.memory_budget import MemoryReservation
from service.errors import CellTaken, UnknownSpecimen
from service.lis.api import examples
from service.lis.api.dependencies import AuditedLook, SpecimenId, TheActor, TheLaboratory
from service.lis.api.routes import Place
from service.lis.domain.differential import SentCell
from service.lis.ingest import MAX_KEY, Adding
from service.lis.picture_store import media_type
from service.lis.schemas import AddedCells, AddedItem, Cell

if TYPE_CHECKING:  # as in `routes`
    pass

log = logging.getLogger(__name__)
router = APIRouter(tags=["specimens"])

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_KEY,
        pattern=r"^[\x21-\x7e]+$",
        description="Your own name for the one picture that is the body: sent again under it, it is the same cell.",
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
    by: TheActor,
    service: AppStateDep,
    here: TheLaboratory,
    request_id: RequestId,
    keys: Annotated[
        Literal["none", "names"],
        Query(description="`names`: the name that a picture is sent under is your key for it, once in the specimen"),
    ] = "none",
    key: Key = None,
    timeout_ms: RequestTimeoutMs = None,
) -> AddedCells:
    """Send one picture as the body, or many as form fields `images`, a ZIP or an uncompressed tar.

    Each is classified and added once: a picture that is there already is the same cell, however often it is sent. One
    that cannot be read gets a problem and touches no other.

        curl -H 'X-Acting-User: scanner-1' -H 'Content-Type: application/zip' \\
             --data-binary @cells.zip http://localhost:8000/specimens/$ID/cells
    """
    with service.current_classifier().in_use() as classifier, service.reserve_memory(request) as memory:
        known = await here.look(here.desk.pictures, specimen_id)
        uploads = await _uploads(request, key, memory, service)
        by_name = keys == "names" or key is not None
        adding = Adding(classifier, known, here.kept, here.draws, by_name, service.timeout_s(timeout_ms))
        outcomes = await while_connected(request, adding.run(uploads))
        sent = [cell for _, cell in outcomes if isinstance(cell, SentCell)]
        # From here on a client that leaves changes nothing: what was classified is written down.
        revision, added, stand, differential = await here.do(
            "add", here.desk.add, specimen_id, sent, classifier.manifest, by
        )
    items = _items(outcomes, stand, request_id)
    return AddedCells(request_id=request_id, revision=revision, added=added, differential=differential, items=items)


@router.get(
    "/specimens/{specimen_id}/cells/{place}/picture",
    dependencies=[AuditedLook],
    summary="See the picture of a cell",
    response_class=Response,
    responses=problem_responses(404, 422, 503),
)
async def see_cell(
    specimen_id: SpecimenId,
    place: Place,
    here: TheLaboratory,
    kind: Annotated[
        Literal["picture", "overlay"], Query(description="`overlay`: what spoke for the suggested class, over the cell")
    ] = "picture",
) -> Response:
    """As it was sent, where the laboratory keeps pictures and still has it."""
    cell = await here.look(here.desk.cell, specimen_id, place)
    data = await here.kept_picture(cell.sha256, kind)
    if data is None:
        raise UnknownSpecimen("picture")
    return Response(data, media_type=media_type(data), headers=_AS_A_PICTURE)


#: What a client sent is shown as a picture or not at all, never run as a page.
_AS_A_PICTURE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


async def _uploads(
    request: Request, key: str | None, memory: MemoryReservation, service: AppState
) -> AsyncIterator[Upload]:
    if content_type(request).startswith("image/"):
        return _alone(Upload(key, await one_picture(request, memory, service.limits)))
    return await many_pictures(request, memory, service.limits)


async def _alone(upload: Upload) -> AsyncIterator[Upload]:
    yield upload


def _items(
    outcomes: Sequence[tuple[str | None, SentCell | Exception]], stand: Sequence[Cell | CellTaken], request_id: str
) -> list[AddedItem]:
    rows = iter(stand)
    items = []
    for index, (name, outcome) in enumerate(outcomes):
        found = next(rows) if isinstance(outcome, SentCell) else outcome
        if isinstance(found, Exception):
            if problem_type_of(found) is INTERNAL_ERROR:
                log.error("item %d of request %s failed", index, request_id, exc_info=found)
            items.append(AddedItem(index=index, name=name, problem=problem(found, request_id)))
        else:
            items.append(AddedItem(index=index, name=name, cell=found))
    return items
