"""People as reports name them: a name, and the id by which a credential verified it. Pure: no I/O, no clock."""

from pydantic import ConfigDict, Field

from service.api.schemas import Document
from service.auth.identity import MAX_NAME, MAX_SUBJECT, Actor


class Person(Document):
    """The author of a result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=MAX_NAME)
    identifier: str | None = Field(
        None,
        max_length=MAX_SUBJECT,
        description="`sub` of a token, the first digits of an API key's hash, or the user's name where another system "
        "vouches for it; absent while authentication is off",
    )
    authority: str | None = Field(
        None, description="the token's issuer, or the key of the other system; absent for an API key"
    )


def person_of(actor: Actor) -> Person:
    """The person behind an actor, with the id that the credential proves."""
    identity = actor.identity
    if identity.kind == "token":
        return Person(name=actor.name, identifier=identity.subject, authority=identity.issuer)
    if identity.kind == "key":
        return Person(name=actor.name, identifier=identity.key_id)
    if identity.kind == "named":
        return Person(name=actor.name, identifier=actor.name, authority=identity.key)
    return Person(name=actor.name)
