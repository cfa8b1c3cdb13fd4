"""The session of a request, for the routes of sign-in and for pages."""

from datetime import UTC, datetime

from fastapi import Request

from service.auth.sessions import BrowserSession
from service.auth.sign_in import SignIn
from service.web.session.schemas import SessionPerson, SessionState


async def sign_in_of(request: Request) -> SignIn:
    """The service's ways to sign in."""
    found: SignIn = request.app.state.sign_in
    return found


def session_of(request: Request, ways: SignIn) -> SessionState:
    """Who has signed in by the request's browser, for a page to render. It does not extend the session."""
    cookie = ways.cookie(request.scope, request.headers)
    found = None if cookie is None else ways.find(cookie)
    person = None if found is None else _person(ways, found)
    token = None if found is None else found.csrf_token
    return SessionState(
        person=person, csrf_token=token, methods=list(ways.methods), signing_max_age_s=ways.signing_max_age_s
    )


def _person(ways: SignIn, found: BrowserSession) -> SessionPerson:
    return SessionPerson(
        name=found.caller.name,
        verified=found.method != "name",
        method=found.method,
        roles=sorted(found.caller.roles),
        person=found.caller.person,
        authenticated_at=None if found.authenticated_s is None else datetime.fromtimestamp(found.authenticated_s, UTC),
        expires_at=datetime.fromtimestamp(ways.table.ends_s(found), UTC),
    )
