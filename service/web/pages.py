"""Pages from templates. A page is a shell without data: its modules fetch data from the API, under the API's rules."""

from pathlib import Path

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from model.contract import RESEARCH_USE
from service.config.settings import Settings
from service.languages import LANGUAGES, load_texts, negotiate_language
from service.web.session.state import session_of

STATIC = Path(__file__).with_name("static")
EXAMPLES = sorted(path.name for path in (STATIC / "examples").glob("*.jpg"))
LANGUAGE_COOKIE = "language"

#: Only this service's own files and routes; no inline script or style, no frame, no other origin.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page_response(
    request: Request, template: str, *, depth: int = 0, specimen: str = "", status: int = 200, **shown: object
) -> HTMLResponse:
    """A page in the language of the request, with the person who has signed in.

    Args:
        depth: number of path segments below the root, for relative addresses behind any path prefix.
        specimen: id of the specimen that the page shows.
        shown: further variables of the template.
    """
    language = page_language(request)
    texts = load_texts(language)
    settings: Settings = request.app.state.app_state.settings
    content = _TEMPLATES.get_template(template).render(
        t=texts.__getitem__,
        language=language,
        languages=LANGUAGES,
        root="../" * depth,
        specimen=specimen,
        examples=EXAMPLES,
        research_use=texts.get("research-use", RESEARCH_USE),
        authenticated=settings.authentication_required,
        laboratory=settings.lis.database is not None,
        time_zone=settings.lis.time_zone or "",
        session=session_of(request, request.app.state.sign_in),
        path=request.url.path.removeprefix(settings.root_path),
        **shown,
    )
    headers = {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Content-Language": language,
        "Vary": "Accept-Language, Cookie",
    }
    response = HTMLResponse(content, status, headers)
    if request.query_params.get(LANGUAGE_COOKIE) == language:
        response.set_cookie(LANGUAGE_COOKIE, language, max_age=365 * 86_400, samesite="lax", httponly=True)
    return response


def page_language(request: Request) -> str:
    """The language chosen on the page, now or before, else the browser's."""
    chosen = (request.query_params.get(LANGUAGE_COOKIE), request.cookies.get(LANGUAGE_COOKIE))
    known = (each for each in chosen if each in LANGUAGES)
    return next(known, None) or negotiate_language(request.headers.get("accept-language", ""))
