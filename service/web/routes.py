"""`GET /`, `/about`, `/lab/…`, `/static/…`: pages for people, from files of the package, without the internet."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.web.pages import page_response

router = APIRouter(include_in_schema=False)
SpecimenId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


class PageFiles(StaticFiles):
    """Files that a browser asks for again each time; an unchanged one is answered by 304 without a body."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


@router.get("/")
async def try_it(request: Request) -> HTMLResponse:
    """The page that classifies pictures and stores nothing."""
    return page_response(request, "try_it.html")


@router.get("/about")
async def about(request: Request) -> HTMLResponse:
    """The model in words: intended use, limits, figures, classes, parts and data."""
    return page_response(request, "about.html")


@router.get("/lab")
async def worklist(request: Request) -> HTMLResponse:
    """The specimens of the laboratory."""
    return _laboratory_page(request, "worklist.html")


@router.get("/lab/{specimen_id}")
async def review(request: Request, specimen_id: SpecimenId) -> HTMLResponse:
    """The cells of a specimen, to be read."""
    return _laboratory_page(request, "review.html", depth=1, specimen=specimen_id)


@router.get("/lab/{specimen_id}/report")
async def report(request: Request, specimen_id: SpecimenId) -> HTMLResponse:
    """The differential of a specimen, its signature, reports, deliveries and audit trail."""
    return _laboratory_page(request, "report.html", depth=2, specimen=specimen_id)


def _laboratory_page(request: Request, template: str, *, depth: int = 0, specimen: str = "") -> HTMLResponse:
    """A page of the laboratory; if the service has none, what it takes to have one."""
    if request.app.state.laboratory is None:
        return page_response(request, "no_laboratory.html", depth=depth, status=404)
    return page_response(request, template, depth=depth, specimen=specimen)
