"""The sign-in pages."""

from fastapi import Request
from starlette.responses import HTMLResponse

from service.api.problems import headers as problem_headers
from service.api.problems import problem_type_of
from service.errors import ServiceError
from service.languages import load_texts
from service.web.pages import page_language, page_response

#: Without a referrer, browsers hide the origin of a form, which is checked.
_REFERRER_POLICY = "same-origin"


def sign_in_page(
    request: Request, *, next_path: str = "/", is_again: bool = False, error: ServiceError | None = None
) -> HTMLResponse:
    """The page with the person who is signed in, the ways to sign in, and the error of the last attempt."""
    depth = request.url.path.strip("/").count("/")  # of the route that refused
    page = page_response(
        request,
        "sign_in.html",
        depth=depth,
        status=200 if error is None else problem_type_of(error).status,
        next_path=next_path,
        is_again=is_again,
        error="" if error is None else _explanation(request, error),
    )
    page.headers["Referrer-Policy"] = _REFERRER_POLICY
    page.headers.update({} if error is None else problem_headers(error))
    return page


def signed_in_page(request: Request) -> HTMLResponse:
    """The page that a second window ends with."""
    return page_response(request, "signed_in.html", depth=1)


def _explanation(request: Request, error: ServiceError) -> str:
    """The problem in the page's language, and the detail in English."""
    title = load_texts(page_language(request)).get(f"problem.{problem_type_of(error).name}")
    return f"{title}: {error}" if title else str(error)
