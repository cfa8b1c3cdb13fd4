"""Authenticated callers, the actors of the audit trail, and the rules for their names.

Two names that look the same would be one person in the audit trail. So a name has no invisible or reordering
characters and is in Unicode normalization form C (UAX #15).
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from service.config.auth import Role

MAX_NAME = 200
#: OpenID Connect Core 1.0, section 2.
MAX_SUBJECT = 255
#: Refused general categories: controls, formats, surrogates, private use, unassigned, line separators.
_REFUSED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: Letters and marks without a glyph (Default_Ignorable_Code_Point), and the blank braille pattern.
_INVISIBLE = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10)}
) | frozenset(range(0xE0100, 0xE01F0))
#: Compatibility characters that occur in names: Mª Ángeles, and the vowel am of Thai and Lao.
_ALLOWED_COMPATIBILITY = str.maketrans("", "", "ªº\u0e33\u0eb3")
#: The vowel am in two characters, which looks the same.
_DECOMPOSED_AM = re.compile("\u0e4d[\u0e48-\u0e4b]?\u0e32|\u0ecd[\u0ec8-\u0ecb]?\u0eb2")

#: Header in which a key that acts for others names the person.
ACTING_USER = "X-Acting-User"
IdentityKind = Literal["key", "token", "named", "claimed", "message", "command", "service"]
Scope = Literal["classify", "specimens", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


class InvalidName(ValueError):
    """A text that is not a valid name. The message gives the reason and does not quote the text."""


class Identity(BaseModel):
    """The credential that a name was verified by. Two callers may have one name, but never one identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: IdentityKind = Field(
        description="key: an API key. token: a token of the issuer. named: X-Acting-User, from a key that acts for "
        "others, or the name that its holder gave at sign-in. claimed: X-Acting-User or a name given at sign-in while "
        "authentication is off. message: an HL7 message. command: the command line. service: the service itself, such "
        "as a delivery"
    )
    key: str | None = Field(None, description="name of the key")
    key_id: str | None = Field(None, description="first digits of the key's hash, as in `marrowlens keys list`")
    issuer: str | None = Field(None, description="`iss` of the token")
    subject: str | None = Field(None, description="`sub` of the token")
    certificate: str | None = Field(None, description="subject of the client certificate of the connection")
    address: str | None = Field(None, description="address of the sender")
    sender: str | None = Field(None, description="MSH-3 and MSH-4 of the message; not verified")

    @property
    def account(self) -> str:
        """One text per caller, for rate limits and quotas."""
        return f"token:{self.issuer} {self.subject}" if self.kind == "token" else f"{self.kind}:{self.key}"

    def details(self) -> dict[str, Any]:
        """The fields that are set, as the audit trail stores them."""
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True, slots=True)
class Actor:
    """The author of a change: a name for display, and the identity behind it."""

    name: str
    identity: Identity


@dataclass(frozen=True, slots=True)
class Caller:
    """A client that authenticated with an API key or a token.

    Attributes:
        name: of the key, or the token's person or subject; written to the audit trail.
        roles: what the caller may do in the laboratory.
        person: whether the caller may sign. False for a machine's key.
        acts_for_others: whether `X-Acting-User` is accepted from this caller.
        ends_at_s: expiry of the key or token, Unix time; None: no expiry.
        rate_per_s, burst: the token bucket, in requests; a rate of 0 is no limit.
    """

    name: str
    identity: Identity
    scopes: frozenset[Scope]
    roles: frozenset[Role] = frozenset()
    person: bool = False
    acts_for_others: bool = False
    ends_at_s: float | None = None
    rate_per_s: float = 0.0
    burst: int = 1


def checked_name(text: str, what: str, limit: int = MAX_NAME) -> str:
    """Return the text if it is a valid name.

    Args:
        what: the subject of the error message.
        limit: maximum number of characters.

    Raises:
        InvalidName: empty or too long, or with an invisible, control or compatibility character.
    """
    if fault := _fault(text, limit):
        raise InvalidName(f"{what} {fault}")
    return text


def decoded_name(sent: str) -> str:
    """The name in a header, as UTF-8: Starlette decodes headers as Latin-1, with spaces around them (RFC 9110, 5.5).

    Raises:
        InvalidName: not a valid name.
    """
    try:
        name = sent.encode("latin-1").decode("utf-8")
    except UnicodeError:
        name = sent
    return checked_name(name.strip(" \t"), "the name")


def _fault(text: str, limit: int) -> str | None:
    if not text or text != text.strip() or "  " in text:
        return "is empty, begins or ends with a space, or has two spaces in a row"
    if len(text) > limit:
        return f"has {len(text)} characters; {limit} are allowed"
    for each in text:
        if unicodedata.category(each) in _REFUSED or ord(each) in _INVISIBLE:
            return f"holds U+{ord(each):04X}, an invisible or control character; remove it"
        if unicodedata.category(each) == "Zs" and each != " ":
            return f"holds U+{ord(each):04X}, a space other than U+0020; use U+0020"
    if unicodedata.category(text[0]).startswith("M"):
        return f"begins with U+{ord(text[0]):04X}, a combining mark; begin with a base character"
    if _DECOMPOSED_AM.search(text):
        return "writes the vowel am of Thai or Lao in two characters; write U+0E33 or U+0EB3"
    if unicodedata.normalize("NFC", text) != text:
        return "is not in Unicode normalization form C; normalize it"
    if odd := next(
        (each for each in text.translate(_ALLOWED_COMPATIBILITY) if unicodedata.normalize("NFKC", each) != each), None
    ):
        return f"holds U+{ord(odd):04X}, a compatibility character; use its plain form"
    return None
