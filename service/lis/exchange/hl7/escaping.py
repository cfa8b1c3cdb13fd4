"""Free text inside an HL7 v2 field and out of it again (HL7 v2.5.1, 2.7). Pure, no I/O.

Knows the five delimiters, line breaks and control characters. Knows no segments and no character sets' bytes but those
that a hexadecimal escape holds. python-hl7 has the same, but it logs the whole field when a sequence is not one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

#: What breaks a line somewhere: it is written \.br\, and is "\n" when it is read back.
BREAKS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
_ESCAPED = str.maketrans(
    {chr(code): f"\\X{code:02X}\\" for code in _CONTROLS}
    | {"|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\\": "\\E\\", "\n": "\\.br\\"}
)


@dataclass(frozen=True, slots=True)
class Delimiters:
    """What a message chose for itself in MSH-1 and MSH-2; ours are always these."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    def letters(self) -> Mapping[str, str]:
        """The escape sequences that stand for one character. Highlighting is dropped."""
        return {
            "F": self.field,
            "S": self.component,
            "R": self.repetition,
            "E": self.escape,
            "T": self.subcomponent,
            ".br": "\n",
            ".sp": "\n",
            "H": "",
            "N": "",
        }


STANDARD = Delimiters()


def one_kind_of_break(text: str) -> str:
    """The text as it comes back from `unescape`: every line break is "\\n"."""
    return BREAKS.sub("\n", text)


def escape(text: str) -> str:
    """The text as it stands in a field: no delimiter and no control character is left in it."""
    return one_kind_of_break(text).translate(_ESCAPED)


def unescape(text: str, delimiters: Delimiters = STANDARD, codec: str = "utf-8") -> str:
    """What a field says. A sequence that is none of HL7's, or has no end, is left as it came.

    Args:
        codec: Python's name of the message's character set, for hexadecimal escapes.
    """
    if delimiters.escape not in text:
        return text
    mark, letters = re.escape(delimiters.escape), delimiters.letters()

    def meant(found: re.Match[str]) -> str:
        sequence = found[1]
        if sequence in letters:
            return letters[sequence]
        return _hexadecimal(sequence[1:], codec) if re.fullmatch("X([0-9A-Fa-f]{2})+", sequence) else found[0]

    return re.sub(f"{mark}(.*?){mark}", meant, text)


def _hexadecimal(digits: str, codec: str) -> str:
    """Bytes of the message's character set; those that are none there are codes of characters, as python-hl7 has it."""
    data = bytes.fromhex(digits)
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return data.decode("latin-1")
