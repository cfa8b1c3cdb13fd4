"""What the laboratory's routes depend on: the laboratory itself, and the audit row of a look at it."""

import re
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Header, Path, Request

from service.auth.middleware import TheCaller
from service.errors import NoLaboratory
from service.lis.api.actor import ACTING_USER, acting_user

if TYPE_CHECKING:  # SQLAlchemy and the rest take 40 MB: loaded where a laboratory is set up, and nowhere else
    from service.lis.laboratory import Laboratory


async def laboratory(request: Request) -> "Laboratory":
    """The laboratory of this service.

    Raises:
        NoLaboratory: none is set up.
    """
    found: Laboratory | None = request.app.state.laboratory
    if found is None:
        raise NoLaboratory
    return found


if TYPE_CHECKING:
    TheLaboratory = Annotated[Laboratory, Depends(laboratory)]
else:
    TheLaboratory = Annotated[Any, Depends(laboratory)]


SpecimenId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="of the specimen, as `POST /specimens` gave it")]
Looker = Annotated[
    str | None,
    Header(
        alias=ACTING_USER,
        min_length=1,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Who looks. Where looks are audited (MARROWLENS_LIS_AUDIT_READS) it is asked for as it is of those "
        "who change something; else it is ignored.",
    ),
]


async def _look_at_specimen(
    request: Request, caller: TheCaller, here: TheLaboratory, specimen_id: SpecimenId, sent: Looker = None
) -> None:
    """Write one row before the answer: no look without it.

    Raises:
        RequestValidationError, Forbidden: as for who acts.
        UnknownSpecimen: there is none; no row is written.
    """
    numbers = [value for name, value in request.path_params.items() if name != "specimen_id"]
    if here.audits_reads and all(_NUMBER.fullmatch(each) for each in numbers):  # else the route refuses it
        by = await acting_user(request, caller, sent)
        place = request.scope["route"].path.partition("{specimen_id}")[2].lstrip("/")
        what = place.format(**request.path_params) or "specimen"
        await here.look(here.desk.record_look, specimen_id, what, by)


async def _look_at_list(request: Request, caller: TheCaller, here: TheLaboratory, sent: Looker = None) -> None:
    """The same for the list of specimens."""
    if here.audits_reads:
        await here.look(here.desk.record_look, None, "list", await acting_user(request, caller, sent))


_NUMBER = re.compile("[0-9]{1,10}")
AuditedLook, AuditedList = Depends(_look_at_specimen), Depends(_look_at_list)
