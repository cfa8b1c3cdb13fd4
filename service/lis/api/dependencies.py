"""Dependencies of the laboratory's routes: the laboratory, the actor, and the audit row of a read."""

import re
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Header, Path, Request
from fastapi.exceptions import RequestValidationError

from service.auth.identity import Actor, Identity, InvalidName, checked_name
from service.auth.middleware import CurrentCaller
from service.errors import Forbidden, NoLaboratory

ACTING_USER = "X-Acting-User"


async def acting_user(
    request: Request,
    caller: CurrentCaller,
    sent: Annotated[
        str | None,
        Header(
            alias=ACTING_USER,
            min_length=1,
            pattern=r"^[^\x00-\x1f\x7f]+$",
            description="Who does this, as the laboratory knows him, in UTF-8 and at most 200 characters: it stands in "
            "the audit trail, and in the report of the one who signs. A key that acts for others has to say it, and so "
            "has everybody where nobody is asked who he is; of all others the service knows it from their key or token "
            "and takes no other name. See docs/access.md.",
            examples=["m.muster"],
        ),
    ] = None,
) -> Actor:
    """Who acts: the caller, or the person whom a trusted caller names.

    Raises:
        RequestValidationError: nobody is named, or two are, or the name cannot stand in the audit trail.
        Forbidden: the caller names somebody else and is not trusted to.
    """
    if len(request.headers.getlist(ACTING_USER)) > 1:
        raise _refused("value_error", "sent more than once; send one")
    if caller is None:
        return Actor(_written(sent), Identity(kind="claimed"))
    if caller.acts_for_others:
        by = caller.identity
        return Actor(_written(sent), Identity(kind="named", key=by.key, key_id=by.key_id))
    if sent is not None and _written(sent) != caller.name:
        raise Forbidden(f"this key or token acts for its own name alone, and {ACTING_USER} names somebody else")
    return Actor(caller.name, caller.identity)


async def acting_person(caller: CurrentCaller, by: "TheActor") -> Actor:
    """Who acts, where only a person may: reading, signing and amending.

    Raises:
        Forbidden: a machine's key or token.
    """
    if caller is not None and not caller.person:
        raise Forbidden("this takes a person: his own token, or a key that acts for others")
    return by


def _written(sent: str | None) -> str:
    """A name in UTF-8; HTTP hands headers over as if they were Latin-1, and with spaces around them (RFC 9110, 5.5)."""
    if sent is None:
        raise _refused("missing", "Field required")
    try:
        name = sent.encode("latin-1").decode("utf-8")
    except UnicodeError:
        name = sent
    try:
        return checked_name(name.strip(" \t"), "the name")
    except InvalidName as error:
        raise _refused("value_error", str(error)) from None


def _refused(kind: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"loc": ("header", ACTING_USER), "type": kind, "msg": message}])


TheActor = Annotated[Actor, Depends(acting_user)]
ThePerson = Annotated[Actor, Depends(acting_person)]


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
    request: Request, caller: CurrentCaller, here: TheLaboratory, specimen_id: SpecimenId, sent: Looker = None
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


async def _look_at_list(request: Request, caller: CurrentCaller, here: TheLaboratory, sent: Looker = None) -> None:
    """The same for the list of specimens."""
    if here.audits_reads:
        await here.look(here.desk.record_look, None, "list", await acting_user(request, caller, sent))


_NUMBER = re.compile("[0-9]{1,10}")
AuditedLook, AuditedList = Depends(_look_at_specimen), Depends(_look_at_list)
