"""`GET /docs` and `/openapi.json`: Swagger UI from files of the package, because laboratories have no internet."""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse

from service.api.openapi import encoded

STATIC = Path(__file__).parents[1] / "static"

router = APIRouter(include_in_schema=False)
_OWN_FILES_ONLY = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
}


@router.get("/docs")
async def docs() -> FileResponse:
    """The Swagger UI page. It loads `static/` and `openapi.json` of this service, and nothing else."""
    return FileResponse(STATIC / "docs.html", headers=_OWN_FILES_ONLY)


async def openapi_json(request: Request) -> Response:
    """The OpenAPI document; 304 if the client has it already (`If-None-Match`)."""
    body, etag = encoded(request.app)
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


router.add_route("/openapi.json", openapi_json)  # a plain route, so that its metrics label is "other"
