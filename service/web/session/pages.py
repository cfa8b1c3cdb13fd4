"""The sign-in pages, from templates of the package, without inline scripts or styles."""

from collections.abc import Sequence
from pathlib import Path

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse

from model.contract import RESEARCH_USE
from service.auth.sessions import SignInMethod
from service.config.settings import Settings
from service.web.session.schemas import SessionPerson

STATIC = Path(__file__).with_name("static")
#: `same-origin`: without a referrer, browsers hide the origin of a form, which is checked.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
}
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def sign_in_page(
    request: Request,
    methods: Sequence[SignInMethod],
    *,
    person: SessionPerson | None = None,
    next_path: str = "/",
    is_again: bool = False,
    error: str = "",
    status: int = 200,
) -> HTMLResponse:
    """The page with the person who is signed in, the ways to sign in, and the error of the last attempt."""
    settings: Settings = request.app.state.app_state.settings
    content = _TEMPLATES.get_template("sign_in.html").render(
        root=settings.root_path,
        methods=methods,
        person=person,
        next_path=next_path,
        is_again=is_again,
        error=error,
        research_use=RESEARCH_USE,
    )
    return HTMLResponse(content, status, _HEADERS)


def done_page(request: Request) -> HTMLResponse:
    """The page that a second window ends with."""
    settings: Settings = request.app.state.app_state.settings
    return HTMLResponse(_TEMPLATES.get_template("done.html").render(root=settings.root_path), headers=_HEADERS)
