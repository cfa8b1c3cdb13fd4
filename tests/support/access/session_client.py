"""A browser of people who sign in: it keeps cookies, follows the issuer, and sends the headers that browsers send."""

import html
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from starlette.testclient import TestClient


@dataclass
class Browser:
    """One browser at a service. `client` has its cookies."""

    client: TestClient

    def open(self, path: str, **more: Any) -> httpx.Response:
        """A page or document; redirects are not followed."""
        return self.client.get(path, follow_redirects=False, **more)

    def to_issuer(self, path: str = "/sign-in") -> str:
        """The issuer's answer to a sign-in that begins here: the path and query of the callback."""
        began = self.open(path)
        if link := re.search(r'href="([^"]*sign-in\?method=issuer[^"]*)"', began.text):  # somebody has signed in
            began = self.open(html.unescape(link[1]))
        assert began.status_code == 303, began.text
        answer = httpx.get(began.headers["location"], follow_redirects=False)
        back = urlsplit(answer.headers["location"])
        return f"{back.path}?{back.query}"

    def sign_in(self, path: str = "/sign-in") -> httpx.Response:
        """Sign in at the issuer; the answer of the callback."""
        return self.open(self.to_issuer(path))

    def submit(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> httpx.Response:
        """Submit a form of the sign-in page."""
        sent = {"Origin": str(self.client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"} | (headers or {})
        return self.client.post(path, data=fields, headers=sent, follow_redirects=False)

    def session(self) -> dict[str, Any]:
        """The answer of `GET /session`."""
        found: dict[str, Any] = self.client.get("/session").json()
        return found

    def csrf(self) -> dict[str, str]:
        """The header of a request that changes something."""
        return {"X-CSRF-Token": self.session().get("csrf_token", "")}

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> httpx.Response:
        """A request of a page's script, with the CSRF token unless headers are given."""
        return self.client.request(method, path, json=body, headers=self.csrf() if headers is None else headers)
