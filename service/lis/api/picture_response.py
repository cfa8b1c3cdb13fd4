"""The answer of a route that returns a stored picture."""

from fastapi import Response

from service.errors import UnknownSpecimen
from service.lis.picture_store import media_type

#: A browser must not interpret an uploaded file as a page, nor keep it.
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


def picture_response(data: bytes | None, name: str) -> Response:
    """The picture with its media type. Raises UnknownSpecimen with this name if there is none."""
    if data is None:
        raise UnknownSpecimen(name)
    return Response(data, media_type=media_type(data), headers=_HEADERS)
