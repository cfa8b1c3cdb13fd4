"""`GET /` and `/static/…`: the page for people, from files of the package, because laboratories have no internet."""

from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.web.pages import page_response

router = APIRouter(include_in_schema=False)


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
