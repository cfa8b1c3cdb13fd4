"""Documents of the session's routes."""

from pydantic import AwareDatetime, Field

from service.api.schemas import Document
from service.auth.sessions import SignInMethod
from service.config.auth import Role


class SessionPerson(Document):
    """The person who signed in."""

    name: str
    verified: bool = Field(description="false: the name was only given, and authentication is off")
    method: SignInMethod = Field(description="how the person signed in")
    roles: list[Role] = Field(description="what the person may do")
    person: bool = Field(description="false: a machine's key, which reads no cells and signs nothing")
    authenticated_at: AwareDatetime | None = Field(
        None, description="last authentication; absent if the issuer did not state it, or the name is not verified"
    )
    expires_at: AwareDatetime = Field(description="end of the session without a further request")


class SessionState(Document):
    """Who has signed in by this browser, and how a person can sign in."""

    person: SessionPerson | None = Field(None, description="absent: no session")
    csrf_token: str | None = Field(None, description="for the header X-CSRF-Token of requests that change something")
    methods: list[SignInMethod] = Field(description="ways to sign in, the preferred one first")
    signing_max_age_s: float = Field(description="maximum age of the authentication of a person who signs, in seconds")


class SignedOut(Document):
    """The session has ended."""

    issuer_sign_out: str | None = Field(None, description="address at the issuer that ends its session too")
