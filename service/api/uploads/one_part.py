"""The picture of an ordinary form: one file, as curl, browsers and HTTP libraries send it.

Such a form is found by a few searches in its bytes, in a twentieth of a parser's time. All other forms are for the
parser (`service.api.uploads.multipart`). What is read here, the parser reads alike: a test compares them.
"""

import re

#: Of a `Content-Type`: the one parameter that clients send, without quotes.
_FORM = re.compile(r"multipart/form-data; ?boundary=([0-9A-Za-z'()+_,./:=?-]{1,70})", re.IGNORECASE)
#: The file's headers: its field and name first, without escapes and other parameters; then at most its type.
_HEADERS = re.compile(
    rb'content-disposition: form-data; name="([\w.-]+)"; filename="[^\x00-\x1f"\\\x7f-\xff]*"'
    rb"(?:\r\ncontent-type: (?:image|application)/[\w.+-]+)?\r\n\r\n",
    re.IGNORECASE,
)


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a form in a `Content-Type` of the usual notation; None of another."""
    found = _FORM.fullmatch(content_type)
    return None if found is None else found[1].encode()


def begins_with_file(start: bytes, boundary: bytes, field_name: str) -> bool:
    """Whether a body begins with a file of this field in the usual notation."""
    found = _HEADERS.match(start, len(boundary) + 4)
    return found is not None and found[1] == field_name.encode() and start.startswith(b"--%s\r\n" % boundary)


def only_file(body: bytes, boundary: bytes) -> bytes | None:
    """The file of a body for which `begins_with_file` holds; None unless the form ends right after it."""
    headers = _HEADERS.match(body, len(boundary) + 4)
    assert headers is not None, "the body begins with a file"
    delimiter = b"\r\n--%s" % boundary
    end = body.find(delimiter, headers.end() - 2)  # an empty file shares its line end with the headers
    if end < headers.end() or body[end + len(delimiter) :] not in (b"--\r\n", b"--"):
        return None
    return body[headers.end() : end]
