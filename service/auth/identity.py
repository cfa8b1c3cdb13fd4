"""Names that may stand in the audit trail and in messages, and what a name was verified by.

Two names that a person cannot tell apart would be two people in one line of the trail. So a name has no character that
is invisible or changes the order of others, and it is written in one form only (Unicode normalization, UAX #15).
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_NAME = 200
#: OpenID Connect Core 1.0, section 2.
MAX_SUBJECT = 255
#: General categories that no name has: controls, formats, surrogates, private use, unassigned, line separators.
_NOT_IN_NAMES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: Letters and marks that are drawn as nothing (Default_Ignorable_Code_Point), and one symbol that is blank.
_INVISIBLE = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10)}
) | frozenset(range(0xE0100, 0xE01F0))
#: Compatibility characters that people's names have: Mª Ángeles, and the am of Thai and Lao, which keyboards write.
_IN_NAMES = str.maketrans("", "", "ªº\u0e33\u0eb3")
#: What looks like that am.
_AM_IN_PARTS = re.compile("\u0e4d[\u0e48-\u0e4b]?\u0e32|\u0ecd[\u0ec8-\u0ecb]?\u0eb2")

Kind = Literal["key", "token", "named", "claimed", "message", "command"]


class NameRefused(ValueError):
    """A text that cannot stand as a name: what is wrong, without the text itself."""


class Identity(BaseModel):
    """What a name was verified by. A key's name and a person's may be alike; their identities never are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field(
        description="key: an API key. token: a token of the issuer. named: X-Acting-User, from a key that acts for "
        "others. claimed: X-Acting-User while authentication is off. message: an HL7 message. command: the command line"
    )
    key: str | None = Field(None, description="name of the key")
    key_id: str | None = Field(None, description="first characters of the key's hash, as `marrowlens keys list` shows")
    issuer: str | None = Field(None, description="`iss` of the token")
    subject: str | None = Field(None, description="`sub` of the token")
    certificate: str | None = Field(None, description="subject of the certificate over which the message came")
    address: str | None = Field(None, description="address from which the message came")
    sender: str | None = Field(None, description="MSH-3 and MSH-4 of the message: a claim, which nothing verifies")

    @property
    def account(self) -> str:
        """One text for one caller: what rate limits and quotas are counted under."""
        return f"token:{self.issuer} {self.subject}" if self.kind == "token" else f"{self.kind}:{self.key}"

    def details(self) -> dict[str, Any]:
        """As the audit trail keeps it."""
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something: the name that people read, and what it was verified by."""

    name: str
    identity: Identity


def checked_name(text: str, what: str, limit: int = MAX_NAME) -> str:
    """The text, which may stand as a name.

    Args:
        what: what the text is, for the message.
        limit: the most characters.

    Raises:
        NameRefused: it is empty or too long, or a character of it is invisible, a control, or has a plainer form.
    """
    if fault := _fault(text, limit):
        raise NameRefused(f"{what} {fault}")
    return text


def _fault(text: str, limit: int) -> str | None:
    if not text or text != text.strip() or "  " in text:
        return "is empty, begins or ends with a space, or has two in a row"
    if len(text) > limit:
        return f"has {len(text)} characters; {limit} are allowed"
    for each in text:
        if unicodedata.category(each) in _NOT_IN_NAMES or ord(each) in _INVISIBLE:
            return f"holds U+{ord(each):04X}, an invisible or control character; remove it"
        if unicodedata.category(each) == "Zs" and each != " ":
            return f"holds U+{ord(each):04X}, another space than U+0020; use that one"
    if unicodedata.category(text[0]).startswith("M"):
        return f"begins with U+{ord(text[0]):04X}, which combines with what stands before it"
    if _AM_IN_PARTS.search(text):
        return "writes the vowel am of Thai or Lao in two characters; write U+0E33 or U+0EB3"
    if unicodedata.normalize("NFC", text) != text:
        return "is not in Unicode normalization form C; normalize it"
    if odd := next((each for each in text.translate(_IN_NAMES) if unicodedata.normalize("NFKC", each) != each), None):
        return f"holds U+{ord(odd):04X}, a compatibility form of a plainer character; use the plain one"
    return None
