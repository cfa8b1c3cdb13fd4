"""Characters to bytes and back, by the name in MSH-18 (HL7 table 0211). Pure, no I/O.

Knows which sets are written and read. Does not know where in a message anything stands.
"""

import unicodedata

#: MSH-18 to Python's codec. Each has ASCII where ASCII has it, so a header can be read before its own MSH-18 is known.
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


def encode(message: str, charset: str) -> bytes:
    """A message as bytes of a set of `CODECS`. Never fails.

    A character that the set does not have becomes "?". A hexadecimal escape could not say it, for that holds bytes of
    the same set; a switch to another set (\\C..\\, \\M..\\) is understood by hardly any receiver; and a letter that
    looks alike would be another name. "?" is seen to be wrong.
    """
    codec = CODECS[charset]
    # One accented letter and a letter with its accent are the same text; the small sets have only the first.
    text = message if codec == "utf-8" else unicodedata.normalize("NFC", message)
    return text.encode(codec, errors="replace")
