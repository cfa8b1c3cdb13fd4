"""`GET /docs`: Swagger UI from files inside the package, because laboratories have no internet."""

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, RedirectResponse

STATIC = Path(__file__).parents[1] / "static"

router = APIRouter(include_in_schema=False)
_OWN_FILES_ONLY = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
}


@router.get("/")
async def root() -> RedirectResponse:
    """To the documentation; relative, so that it holds behind a path prefix."""
    return RedirectResponse("docs")


@router.get("/docs")
async def docs() -> FileResponse:
    """The page; it loads `static/` and `openapi.json` from here and nothing from elsewhere."""
    return FileResponse(STATIC / "docs.html", headers=_OWN_FILES_ONLY)
