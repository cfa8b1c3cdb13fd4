"""Why a multipart form cannot be read, by how it begins and ends: what goes wrong where forms are written by hand.

Knows the syntax (RFC 2046, 5.1). Does not parse forms.
"""

from dataclasses import dataclass, field

from model.image import PictureError, format_of

_LF_ALONE = "its lines end in LF alone; they must end in CR LF"
_HEAD_BYTES, _TAIL_BYTES = 2048, 512


@dataclass(slots=True)
class FormEnds:
    """How a body begins and ends."""

    head: bytearray = field(default_factory=bytearray)
    tail: bytes = b""

    def add(self, piece: bytes) -> None:
        """The next piece of the body."""
        if len(self.head) < _HEAD_BYTES:
            self.head += piece[: _HEAD_BYTES - len(self.head)]
        self.tail = (self.tail + piece[-_TAIL_BYTES:])[-_TAIL_BYTES:]


def why_unreadable(ends: FormEnds, boundary: bytes) -> str:
    """What is wrong with a form that the parser gave up."""
    if not boundary:
        return "Content-Type names no boundary; leave that header to the HTTP client, which knows it"
    if not ends.head:
        return "the boundary that Content-Type names cannot be used; it may have 70 characters"
    delimiter, start = b"--" + boundary, bytes(ends.head.lstrip(b"\r\n"))
    line = start.partition(b"\n")[0]
    if line.rstrip(b"\r \t") == delimiter:
        if _ends_lines_in_lf(start):
            return _LF_ALONE
        return "the headers of a part cannot be read; they are lines of `Name: value`, and a blank line ends them"
    if boundary.startswith(b"--") and line.rstrip() == boundary:
        return f"Content-Type names its boundary with the two dashes before it; write boundary={_shown(boundary[2:])}"
    if line.rstrip() == boundary:
        return f"the line of the boundary lacks two dashes: --{_shown(boundary)}"
    if delimiter in start:
        return "text stands before its first boundary (a preamble); begin with the boundary"
    if line.startswith(b"--"):
        return f"its boundary is {_shown(line.rstrip()[2:])}, and Content-Type names {_shown(boundary)}"
    return _no_form(start, delimiter)


def why_unfinished(ends: FormEnds, boundary: bytes) -> str:
    """What is wrong with a form that goes on where it should have ended."""
    delimiter = b"--" + boundary
    if not ends.head:
        return "the body is empty"
    if bytes(ends.head).startswith(delimiter) and _ends_lines_in_lf(bytes(ends.head)):
        return _LF_ALONE
    tail = ends.tail.rstrip()
    if tail.endswith(delimiter + b"--"):
        return "its closing boundary stands in no line of its own; CR LF must come before it, and not LF alone"
    if tail.endswith(delimiter):
        return f"its closing boundary lacks its last two dashes: {_shown(delimiter)}--"
    if bytes(ends.head).lstrip(b"\r\n").startswith(delimiter):
        return "it was cut off, or its boundary stands in no line of its own"
    return _no_form(bytes(ends.head), delimiter)


def _ends_lines_in_lf(start: bytes) -> bool:
    first = start.partition(b"\n")[0]
    return not first.endswith(b"\r") or (b"\n\n" in start and b"\r\n\r\n" not in start)


def _no_form(start: bytes, delimiter: bytes) -> str:
    try:
        found = format_of(start[:16])
    except PictureError:
        return f"it does not begin with its boundary, {_shown(delimiter)}"
    return f"it is a {found} file and no form; send it with Content-Type: image/{found.lower()}"


def _shown(boundary: bytes) -> str:
    return boundary[:80].decode("ascii", "replace")
