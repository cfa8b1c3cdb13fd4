"""An OpenID Connect issuer on loopback: discovery, keys, tokens signed by joserfc instead of PyJWT, and sign-in.

Its sign-in page asks nothing: the browser is `person` at once.
"""

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, Key, RSAKey

AUDIENCE = "marrowlens"
CLIENT_ID, CLIENT_SECRET = "marrowlens-browser", "s3cret"
_DISCOVERY = "/.well-known/openid-configuration"


class Issuer:
    """Its keys can be rotated and it can stop answering; `asked` counts the requests for its keys."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = 0
        self.silent = False
        self.keys: dict[str, Key] = {}
        self.rotate()
        #: Claims of the person who signs in, and of ID tokens that a test falsifies.
        self.person: dict[str, Any] = {"sub": "subject-1", "preferred_username": "m.muster", "roles": []}
        self.falsified: dict[str, Any] = {}
        #: Requests for codes and tokens, as they came.
        self.authorizations: list[dict[str, str]] = []
        self.exchanges: list[dict[str, str]] = []
        self._codes: dict[str, dict[str, str]] = {}
        self._stranger = RSAKey.generate_key(2048, {"kid": "plain"})

    def rotate(self, generation: str = "") -> None:
        """Sign with new keys from now on."""
        self.keys = {
            "plain": RSAKey.generate_key(2048, {"kid": f"plain{generation}", "use": "sig"}),
            "elliptic": ECKey.generate_key("P-256", {"kid": f"elliptic{generation}", "use": "sig"}),
        }

    def token(
        self,
        claims: Mapping[str, Any],
        *,
        key: str = "plain",
        lives_s: float | None = 300,
        algorithm: str | None = None,
        signed_by: str = "",
    ) -> str:
        """A token with the usual claims, replaced by these."""
        body = self._claims(claims, lives_s)
        signing = self._stranger if signed_by else self.keys[key]
        header = {"alg": algorithm or ("ES256" if key == "elliptic" else "RS256"), "kid": signing.kid}
        if algorithm == "none":
            return f"{_part(header)}.{_part(body)}."
        return jwt.encode(header, body, signing, algorithms=["RS256", "ES256"])

    def confused(self, claims: Mapping[str, Any]) -> str:
        """A token signed by HMAC with the public key as its secret (algorithm confusion)."""
        public = self.keys["plain"]
        assert isinstance(public, RSAKey)
        header = {"alg": "HS256", "kid": public.kid}
        signed = f"{_part(header)}.{_part(self._claims(claims, 300))}"
        mac = hmac.digest(public.as_pem(private=False), signed.encode(), hashlib.sha256)
        return f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"

    def answer(self, path: str) -> dict[str, Any] | None:
        """The discovery document, or the key set."""
        if path == _DISCOVERY:
            return {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "end_session_endpoint": f"{self.url}/end",
                "code_challenge_methods_supported": ["S256"],
            }
        if path == "/keys":
            self.asked += 1
            unknown = {"kty": "oct", "kid": "a secret", "k": "c2VjcmV0"}
            return {"keys": [unknown, *(key.as_dict(private=False) for key in self.keys.values())]}
        return None

    def authorize(self, query: dict[str, str]) -> str:
        """Where the browser goes after it signed in; PKCE is required."""
        self.authorizations.append(query)
        answer = {"state": query.get("state", ""), "iss": self.url}
        if query.get("code_challenge_method") != "S256" or not query.get("code_challenge"):
            return f"{query['redirect_uri']}?{urlencode({**answer, 'error': 'invalid_request'})}"
        code = secrets.token_urlsafe(16)
        self._codes[code] = query
        return f"{query['redirect_uri']}?{urlencode({**answer, 'code': code})}"

    def exchange(self, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        """The tokens of a code, given once to the client that proves the challenge; else None."""
        self.exchanges.append(form)
        asked = self._codes.pop(form.get("code", ""), None)
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).decode().rstrip("=")
        if asked is None or authorization != f"Basic {basic}" or challenge != asked["code_challenge"]:
            return None
        claims = {"aud": CLIENT_ID, "nonce": asked["nonce"], "auth_time": int(time.time()), **self.person}
        return {"token_type": "Bearer", "access_token": "opaque", "id_token": self.token({**claims, **self.falsified})}

    def _claims(self, claims: Mapping[str, Any], lives_s: float | None) -> dict[str, Any]:
        now = int(time.time())
        ends = {} if lives_s is None else {"exp": now + int(lives_s)}
        return {"iss": self.url, "aud": AUDIENCE, "sub": "subject-1", "iat": now, **ends, **claims}


def _part(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@contextmanager
def issuer() -> Iterator[Issuer]:
    """An issuer that answers over HTTP until the block ends."""
    found = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if address.path == "/authorize":
                self.send_response(302)
                self.send_header("Location", found.authorize(dict(parse_qsl(address.query))))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._say(None if found.silent else found.answer(self.path), 503)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            said = found.exchange(dict(parse_qsl(body)), self.headers.get("Authorization", ""))
            self._say(said, 400)

        def _say(self, said: dict[str, Any] | None, otherwise: int) -> None:
            body = json.dumps(said or {}).encode()
            self.send_response(otherwise if said is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield found
        finally:
            server.shutdown()
