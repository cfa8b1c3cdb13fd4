"""`/sign-in`, `/sign-out` and `/session`: people sign in by browser, and pages learn who signed in.

The routes are open; they check cookies, CSRF tokens and origins themselves. A refused sign-in is shown as a page.
"""

import logging
import re
import secrets
from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.routing import APIRoute
from starlette.responses import RedirectResponse

from service.api.openapi import problem_responses
from service.api.problems import problem_type_of
from service.api.state import AppState, AppStateDep
from service.api.uploads.body import BodyReader, content_type
from service.auth.identity import Caller
from service.auth.sessions import (
    COOKIE,
    SignInMethod,
    check_csrf,
    check_origin,
    cookie_value,
    is_secure,
    own_origins,
    set_cookie,
)
from service.auth.sign_in import SignIn
from service.errors import MalformedBody, ServiceError, SessionExpired, SignInFailed, UnsupportedBody
from service.web.session.pages import sign_in_page, signed_in_page
from service.web.session.schemas import SessionState, SignedOut
from service.web.session.state import session_of, sign_in_of

log = logging.getLogger(__name__)

#: Cookie that ties a sign-in at the issuer to one browser. It is no session.
BROWSER_COOKIE = "marrowlens-sign-in"
_BROWSER_S = 600
_BROWSER_VALUE = re.compile(r"[A-Za-z0-9_-]{43}")
#: A key, a name and an address, percent-encoded.
_MAX_FORM_BYTES, _MAX_FIELDS = 16 * 1024, 8
_MAX_NEXT = 2000
#: A path of this service. `//host` and `/\host` are addresses of other hosts.
_LOCAL_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")


class PageRoute(APIRoute):
    """A route for people: an error is shown as the sign-in page, with the status of its problem."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with errors as pages."""
        handle = super().get_route_handler()

        async def handle_or_explain(request: Request) -> Response:
            try:
                return await handle(request)
            except ServiceError as error:
                found = problem_type_of(error)
                state: AppState = request.app.state.app_state
                state.metrics.refused(found.name)
                log.warning("Sign-in refused: %s", found.name)
                return sign_in_page(request, error=error)

        return handle_or_explain


router = APIRouter(tags=["sign-in"])
pages = APIRouter(include_in_schema=False, route_class=PageRoute)


CurrentSignIn = Annotated[SignIn, Depends(sign_in_of)]


def local_path(sent: str | None) -> str:
    """The path to continue at, if it is one of this service, else `/`: a link may not lead to another host."""
    is_local = sent is not None and len(sent) <= _MAX_NEXT and _LOCAL_PATH.fullmatch(sent)
    return sent if sent is not None and is_local else "/"


@pages.get("/sign-in")
async def sign_in(
    request: Request,
    ways: CurrentSignIn,
    next: Annotated[str | None, Query(description="path to continue at")] = None,
    again: Annotated[bool, Query(description="authenticate again, to sign a report")] = False,
    method: Annotated[str | None, Query(description="`issuer`: without asking for the way")] = None,
) -> Response:
    """The page to sign in or out; if the issuer is the only way and nobody has signed in, a redirect to it."""
    path = local_path(next)
    flow = ways.code_flow
    person = session_of(request, ways).person
    asks_issuer = method == "issuer" or (ways.methods == ("issuer",) and (person is None or again))
    if flow is None or not asks_issuer:
        return sign_in_page(request, next_path=path, is_again=again)
    secure = is_secure(request.scope, ways.settings)
    known = cookie_value(request.headers, BROWSER_COOKIE, secure=secure)
    browser = known if known and _BROWSER_VALUE.fullmatch(known) else secrets.token_urlsafe(32)
    response = RedirectResponse(await flow.begin(browser, path, is_again=again), 303)
    set_cookie(response, BROWSER_COOKIE, browser, secure=secure, max_age_s=_BROWSER_S)
    return response


@pages.get("/sign-in/callback")
async def callback(request: Request, ways: CurrentSignIn) -> Response:
    """Complete a sign-in at the issuer, which sends the browser here."""
    if ways.code_flow is None:
        raise SignInFailed("sign-in by an issuer is not set up here")
    secure = is_secure(request.scope, ways.settings)
    query = {name: value for name, value in request.query_params.items() if name in ("state", "code", "error", "iss")}
    found = await ways.code_flow.finish(query, cookie_value(request.headers, BROWSER_COOKIE, secure=secure))
    return _started(request, ways, found.caller, "issuer", found.authenticated_s, found.next_path)


@pages.post("/sign-in/key")
async def sign_in_by_key(request: Request, state: AppStateDep, ways: CurrentSignIn) -> Response:
    """Sign in with an API key: form fields `key`, `name` (for a key that acts for others) and `next`."""
    ways.check_transport(request.scope, request.headers)
    form = await _form(request, state, ways)
    address = request.client.host if request.client else ""
    caller = ways.holder_of_key(form.get("key", "").strip(), form.get("name", ""), address)
    return _started(request, ways, caller, "key", ways.table.clock(), local_path(form.get("next")))


@pages.post("/sign-in/name")
async def sign_in_by_name(request: Request, state: AppStateDep, ways: CurrentSignIn) -> Response:
    """Give a name while authentication is off: form fields `name` and `next`."""
    form = await _form(request, state, ways)
    caller = ways.unverified(form.get("name", ""))
    return _started(request, ways, caller, "name", None, local_path(form.get("next")))


@pages.get("/sign-in/done")
async def done(request: Request) -> Response:
    """A page for `next` of a sign-in in a second window: it tells the other pages, and closes itself."""
    return signed_in_page(request)


@router.get("/session", summary="Who has signed in by browser", response_model_exclude_none=True)
async def session(request: Request, ways: CurrentSignIn) -> SessionState:
    """The person of the session, the CSRF token of its requests, and the ways to sign in. It does not extend the
    session. Without a session only the ways to sign in are given."""
    return session_of(request, ways)


@router.post(
    "/sign-out",
    summary="End the browser session",
    response_model_exclude_none=True,
    responses=problem_responses(401, 403),
)
async def sign_out(request: Request, response: Response, ways: CurrentSignIn) -> SignedOut:
    """Send the CSRF token in `X-CSRF-Token`. If `issuer_sign_out` is given, navigate to it: the issuer has a session of
    its own."""
    cookie = ways.cookie(request.scope, request.headers)
    found = None if cookie is None else ways.find(cookie)
    if cookie is None or found is None:
        raise SessionExpired
    check_csrf(request.headers, found, own_origins(request.headers, ways.settings))
    ways.table.end(cookie)
    set_cookie(response, COOKIE, "", secure=is_secure(request.scope, ways.settings))
    at_issuer = found.method == "issuer" and ways.code_flow is not None
    return SignedOut(issuer_sign_out=await ways.code_flow.sign_out_address() if at_issuer and ways.code_flow else None)


def _started(
    request: Request, ways: SignIn, caller: Caller, method: SignInMethod, authenticated_s: float | None, path: str
) -> Response:
    """Start a session under a new cookie, and continue at the path."""
    secure = is_secure(request.scope, ways.settings)
    replaced = cookie_value(request.headers, COOKIE, secure=secure)
    value = ways.table.start(caller, method, authenticated_s, replaced)
    response = RedirectResponse(ways.settings.root_path + path, 303)
    set_cookie(response, COOKIE, value, secure=secure)
    log.info("Signed in by %s", method)
    return response


async def _form(request: Request, state: AppState, ways: SignIn) -> dict[str, str]:
    """The fields of a small form of this service's own page.

    Raises:
        CsrfRejected, UnsupportedBody, MalformedBody, BodyTooLarge, UploadTooSlow.
    """
    check_origin(request.headers, own_origins(request.headers, ways.settings))
    if (found := content_type(request)) != "application/x-www-form-urlencoded":
        raise UnsupportedBody(found, "a form (application/x-www-form-urlencoded)")
    with state.reserve_memory(request) as memory:
        body = await BodyReader(request, memory, _MAX_FORM_BYTES, state.limits.timeouts).read()
    try:
        fields = parse_qs(body.getvalue().decode("utf-8"), max_num_fields=_MAX_FIELDS)
    except ValueError:  # UnicodeDecodeError is one
        raise MalformedBody("the form has too many fields, or is not UTF-8") from None
    return {name: values[-1] for name, values in fields.items()}
