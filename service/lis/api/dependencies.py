"""Dependencies of the laboratory's routes: the laboratory, the actor, and the audit row of a read."""

import re
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Header, Path, Request
from fastapi.exceptions import RequestValidationError

from service.auth.identity import ACTING_USER, Actor, Identity, InvalidName, decoded_name
from service.auth.middleware import CurrentCaller
from service.errors import Forbidden, NoLaboratory

if TYPE_CHECKING:  # SQLAlchemy and the rest take 40 MB: imported only where a laboratory is set up
    from service.lis.laboratory import Laboratory

_NO_CONTROLS = r"^[^\x00-\x1f\x7f]+$"


async def laboratory(request: Request) -> "Laboratory":
    """The laboratory of this service.

    Raises:
        NoLaboratory: MARROWLENS_LIS_DATABASE is not set.
    """
    found: Laboratory | None = request.app.state.laboratory
    if found is None:
        raise NoLaboratory
    return found


if TYPE_CHECKING:
    CurrentLaboratory = Annotated[Laboratory, Depends(laboratory)]
else:
    CurrentLaboratory = Annotated[Any, Depends(laboratory)]


async def current_actor(
    request: Request,
    caller: CurrentCaller,
    sent: Annotated[
        str | None,
        Header(
            alias=ACTING_USER,
            min_length=1,
            pattern=_NO_CONTROLS,
            description="The person or system that acts: UTF-8, at most 200 characters. The name is written to the "
            "audit trail, and to the report when it is signed. Required from a key that acts for others, and from "
            "every client while authentication is off. Other callers act under the name of their key or token; any "
            "other name is refused. See docs/access.md.",
            examples=["m.muster"],
        ),
    ] = None,
) -> Actor:
    """The actor: the caller, or the person that a key acting for others names.

    Raises:
        RequestValidationError: the header is missing, sent twice, or not a valid name.
        Forbidden: the header names another actor, and the caller may not act for others.
    """
    if len(request.headers.getlist(ACTING_USER)) > 1:
        raise _invalid("value_error", "sent more than once; send one")
    if caller is None:
        return Actor(_decode_name(sent), Identity(kind="claimed"))
    if caller.acts_for_others:
        key = caller.identity
        return Actor(_decode_name(sent), Identity(kind="named", key=key.key, key_id=key.key_id))
    if sent is not None and _decode_name(sent) != caller.name:
        raise Forbidden(f"{ACTING_USER} names another user; this key or token acts only under its own name")
    return Actor(caller.name, caller.identity)


async def current_person(caller: CurrentCaller, actor: "CurrentActor") -> Actor:
    """The actor of a step that needs a person: reading cells, signing, amending.

    Raises:
        Forbidden: the key or token belongs to a machine.
    """
    if caller is not None and not caller.person:
        raise Forbidden("only a person may do this: use a person's token, or a key that acts for others")
    return actor


CurrentActor = Annotated[Actor, Depends(current_actor)]
CurrentPerson = Annotated[Actor, Depends(current_person)]


def _decode_name(sent: str | None) -> str:
    if sent is None:
        raise _invalid("missing", "Field required")
    try:
        return decoded_name(sent)
    except InvalidName as error:
        raise _invalid("value_error", str(error)) from None


def _invalid(kind: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"loc": ("header", ACTING_USER), "type": kind, "msg": message}])


SpecimenId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="the specimen's id, from `POST /specimens`")]
ReaderHeader = Annotated[
    str | None,
    Header(
        alias=ACTING_USER,
        min_length=1,
        pattern=_NO_CONTROLS,
        description="The person or system that reads. Used only with MARROWLENS_LIS_AUDIT_READS: then the rules for "
        "changes apply. Ignored otherwise.",
    ),
]
_NUMBER = re.compile("[0-9]{1,10}")


async def audit_read(
    request: Request, caller: CurrentCaller, lab: CurrentLaboratory, specimen_id: SpecimenId, sent: ReaderHeader = None
) -> None:
    """Write an audit row before the answer is sent.

    Raises:
        RequestValidationError, Forbidden: as for `current_actor`.
        UnknownSpecimen: there is no such specimen; no row is written.
    """
    numbers = [value for name, value in request.path_params.items() if name != "specimen_id"]
    if lab.audits_reads and all(_NUMBER.fullmatch(each) for each in numbers):  # the route answers 422 otherwise
        actor = await current_actor(request, caller, sent)
        path = request.scope["route"].path.partition("{specimen_id}")[2].lstrip("/")
        what = path.format(**request.path_params) or "specimen"
        await lab.query(lab.use_cases.record_read, specimen_id, what, actor)


async def _audit_list(
    request: Request, caller: CurrentCaller, lab: CurrentLaboratory, sent: ReaderHeader = None
) -> None:
    """As `audit_read`, for the list of specimens."""
    if lab.audits_reads:
        await lab.query(lab.use_cases.record_read, None, "list", await current_actor(request, caller, sent))


AuditedRead, AuditedListRead = Depends(audit_read), Depends(_audit_list)
