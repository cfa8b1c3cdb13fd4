"""Who does something to a specimen: the caller by his key or token, or the one whom a trusted caller names.

Knows callers and names. Does not know what is done.
"""

from typing import Annotated

from fastapi import Depends, Header
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from service.access.guard import TheCaller
from service.errors import Forbidden
from service.lis.report import Line

ACTING_USER = "X-Acting-User"
_LINE = TypeAdapter(Line)


async def acting_user(
    caller: TheCaller,
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
) -> str:
    """The name of the one who acts: the caller's own, or the one for whom he is trusted to act.

    Raises:
        RequestValidationError: nobody is named, or the name is blank or too long.
        Forbidden: the caller names somebody else and is not trusted to.
    """
    if caller is None or caller.acts_for_others:
        return _written(sent)
    if sent is not None and _written(sent) != caller.name:
        raise Forbidden(f"this key or token acts for its own name alone, and {ACTING_USER} names somebody else")
    return caller.name


async def acting_person(caller: TheCaller, by: "Actor") -> str:
    """The name of the one who acts, who is a person: what only a person may do is reading, signing and amending.

    Raises:
        Forbidden: a machine's key or token.
    """
    if caller is not None and not caller.person:
        raise Forbidden("this takes a person: his own token, or a key that acts for others")
    return by


def _written(sent: str | None) -> str:
    """A name as its owner writes it: HTTP hands headers over as if they were Latin-1."""
    if sent is None:
        fault = {"loc": ("header", ACTING_USER), "type": "missing", "msg": "Field required"}
        raise RequestValidationError([fault])
    try:
        name = sent.encode("latin-1").decode("utf-8")
    except UnicodeError:
        name = sent
    try:
        return _LINE.validate_python(name)
    except ValidationError as error:
        faults = [{"loc": ("header", ACTING_USER), "type": each["type"], "msg": each["msg"]} for each in error.errors()]
        raise RequestValidationError(faults) from None


Actor = Annotated[str, Depends(acting_user)]
Person = Annotated[str, Depends(acting_person)]
