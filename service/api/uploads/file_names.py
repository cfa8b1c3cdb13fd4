"""`Content-Disposition` of a form's part: the field's name, and the file name in every notation that clients use.

Knows headers (RFC 6266, 5987, 2047). Does not know forms.
"""

from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import unquote
from typing import NamedTuple


class Disposition(NamedTuple):
    """What a part's header says of it; None what it does not say."""

    field: str | None
    filename: str | None


def disposition(header: bytes) -> Disposition:
    """The names in a `Content-Disposition`; of `filename*` and `filename` the first counts (RFC 6266, 4.3)."""
    message = Message()
    message["Content-Disposition"] = header.decode("utf-8", "replace")
    plain: dict[str, str] = {}
    extended: dict[str, str] = {}
    for name, value in message.get_params([], "Content-Disposition")[1:]:
        if isinstance(value, tuple):
            extended.setdefault(name.lower(), _extended(value))
        else:
            plain.setdefault(name.lower(), value)
    filename = extended.get("filename")
    if filename is None and "filename" in plain:
        filename = _last_of_path(_encoded_words(plain["filename"]))
    return Disposition(extended.get("name", plain.get("name")), filename)


def _extended(value: tuple[str | None, str | None, str]) -> str:
    """`utf-8''%C3%A4.jpg` (RFC 5987), which `email` has taken apart and read as Latin-1."""
    charset, _, text = value
    octets = unquote(text).encode("latin-1", "replace")
    try:
        return octets.decode(charset or "utf-8", "replace")
    except (LookupError, UnicodeError):  # no charset of text, or one that knows no replacement
        return octets.decode("utf-8", "replace")


def _encoded_words(name: str) -> str:
    """`=?utf-8?B?w6QuanBn?=` (RFC 2047), as .NET writes a name that is not ASCII."""
    if "=?" not in name or "?=" not in name:
        return name
    try:
        return str(make_header(decode_header(name))) or name
    except (MessageError, LookupError, ValueError):
        return name


def _last_of_path(name: str) -> str:
    """Some clients on Windows send the whole path."""
    return name.rpartition("\\")[2] if name[1:3] == ":\\" or name.startswith("\\\\") else name
