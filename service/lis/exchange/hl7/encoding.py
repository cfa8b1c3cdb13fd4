"""Values of HL7 v2 as text: character sets, escapes, fields. Pure: no I/O, no clock."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NewType

#: MSH-18 (HL7 table 0211) to Python codec. All are supersets of ASCII: MSH can be read before its own MSH-18 is known.
CODECS = {
    "": "ascii",
    "ASCII": "ascii",
    "8859/1": "iso8859-1",
    "8859/2": "iso8859-2",
    "8859/3": "iso8859-3",
    "8859/4": "iso8859-4",
    "8859/5": "iso8859-5",
    "8859/6": "iso8859-6",
    "8859/7": "iso8859-7",
    "8859/8": "iso8859-8",
    "8859/9": "iso8859-9",
    "8859/15": "iso8859-15",
    "UNICODE UTF-8": "utf-8",
}


#: Names that systems use for these sets, without punctuation, in capitals.
_ALIASES = {
    **{f"{prefix}8859{part}": f"8859/{part}" for prefix in ("", "ISO", "ISOIR") for part in (*range(1, 10), 15)},
    **dict.fromkeys(("UTF8", "UNICODE", "UNICODEUTF8", "ISOIR192"), "UNICODE UTF-8"),
    **dict.fromkeys(("ASCII", "USASCII", "ANSI"), "ASCII"),
    "LATIN1": "8859/1",
}
_WINDOWS = dict.fromkeys(("WINDOWS1252", "CP1252", "1252", "ANSI"), "cp1252")


def codec_of(charset: str) -> str | None:
    """The Python codec of MSH-18, also under its usual other names; None for an unsupported set."""
    if charset in CODECS:
        return CODECS[charset]
    name = re.sub("[^A-Z0-9]", "", charset.upper())
    return _WINDOWS.get(name) or (CODECS[_ALIASES[name]] if name in _ALIASES else None)


def encode(message: str, charset: str) -> bytes:
    """A message as bytes in one of `CODECS`, or of their aliases. Characters that the set lacks become "?".

    Hexadecimal escapes hold only bytes of the same set; escapes that switch the set (\\C..\\, \\M..\\) are understood
    by hardly any receiver; a similar letter would be another name.
    """
    codec = codec_of(charset) or "utf-8"
    # The small sets have accented letters only in their composed form.
    text = message if codec == "utf-8" else unicodedata.normalize("NFC", message)
    return text.encode(codec, errors="replace")


#: All line breaks are written as \.br\ and read back as "\n".
BREAKS = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
_ESCAPED = str.maketrans(
    {chr(code): f"\\X{code:02X}\\" for code in _CONTROLS}
    | {"|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\\": "\\E\\", "\n": "\\.br\\"}
)


@dataclass(frozen=True, slots=True)
class Delimiters:
    """The delimiters of a message, from MSH-1 and MSH-2. The defaults are those that this service writes."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    def letters(self) -> Mapping[str, str]:
        """Escape sequences and their characters (HL7 v2.5.1, 2.7). Highlighting is dropped."""
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


def normalize_line_breaks(text: str) -> str:
    """The text with every line break as "\\n", as `unescape` returns it."""
    return BREAKS.sub("\n", text)


def escape(text: str) -> str:
    """The text for a field, with delimiters and control characters escaped."""
    return normalize_line_breaks(text).translate(_ESCAPED)


def unescape(text: str, delimiters: Delimiters = STANDARD, codec: str = "utf-8") -> str:
    """The text of a field. Unknown or unterminated escape sequences stay as they are.

    Adjacent hexadecimal escapes are decoded as one sequence of bytes: some systems escape byte by byte.

    Args:
        codec: Python codec of the message's character set, for hexadecimal escapes.
    """
    if delimiters.escape not in text:
        return text
    mark, letters = re.escape(delimiters.escape), delimiters.letters()

    def replacement(found: re.Match[str]) -> str:
        if found[1] is None:
            return _hexadecimal(re.sub(f"{mark}X?", "", found[0]), codec)
        return letters.get(found[1], found[0])

    return re.sub(f"(?:{mark}X(?:[0-9A-Fa-f]{{2}})+{mark})+|{mark}(.*?){mark}", replacement, text)


def _hexadecimal(digits: str, codec: str) -> str:
    """Bytes in the message's character set; invalid bytes are read as Latin-1, as python-hl7 does."""
    data = bytes.fromhex(digits)
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return data.decode("latin-1")


#: Escaped text. mypy refuses unescaped text in a segment.
Encoded = NewType("Encoded", str)

EMPTY = Encoded("")


def text(value: str | int | float | None) -> Encoded:
    """One value as a field; empty for None."""
    return EMPTY if value is None else Encoded(escape(str(value)))


def components(*values: str | None) -> Encoded:
    """Values as components of a field, without empty ones at the end."""
    return Encoded("^".join(text(value) for value in values).rstrip("^"))


def repetitions(values: Iterable[Encoded]) -> Encoded:
    """Values as repetitions of a field."""
    return Encoded("~".join(values))


def segment(name: str, fields: Mapping[int, Encoded]) -> str:
    """A segment from its fields by number, without empty ones at the end. MSH begins with MSH-3."""
    last = max((number for number, value in fields.items() if value), default=0)
    first, head = (3, r"MSH|^~\&") if name == "MSH" else (1, name)
    return "|".join([head, *(fields.get(number, EMPTY) for number in range(first, last + 1))])


def message(segments: Iterable[str]) -> str:
    """Segments as a message, each ended by a carriage return."""
    return "".join(f"{each}\r" for each in segments)
