"""A FHIR receiver and its token endpoint on loopback, over TLS if it has a certificate."""

import base64
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_plus

CLIENT, SECRET = "marrowlens:lab", "s3cret+/ %"


class FhirReceiver:
    """Takes transactions with a valid token. Tokens are numbered; `valid` are the ones that it accepts."""

    def __init__(self) -> None:
        self.url = ""
        self.tls: ssl.SSLContext | None = None
        self.serials: list[str] = []  # of the clients' certificates, one for each request
        self.life_s: float | None = 3600
        self.granted: list[dict[str, list[str]]] = []
        self.taken: list[str] = []
        self.refuses = False
        self.valid: set[str] = set()

    def renew(self, key: Path, certificate: Path, authority: Path) -> None:
        """From now on show this certificate, and accept those of this authority."""
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
        self.tls.load_cert_chain(certificate, key)
        self.tls.verify_mode = ssl.CERT_REQUIRED

    def grant(self, authorization: str, form: str) -> tuple[int, dict[str, Any]]:
        """The answer of the token endpoint."""
        known = base64.b64decode(authorization.removeprefix("Basic ")).decode().split(":")
        if self.refuses or [unquote_plus(part) for part in known] != [CLIENT, SECRET]:
            return 401, {"error": "invalid_client", "error_description": "the secret of Erika Muster"}
        self.granted.append(parse_qs(form))
        token = f"token-{len(self.granted)}"
        self.valid = {token}
        life = {} if self.life_s is None else {"expires_in": self.life_s}
        return 200, {"access_token": token, "token_type": "Bearer", **life}

    def take(self, authorization: str, body: str) -> tuple[int, dict[str, Any]]:
        """The answer to a transaction."""
        if authorization.removeprefix("Bearer ") not in self.valid:
            return 401, {}
        self.taken.append(authorization)
        entries = [{"response": {"status": "201 Created"}} for _ in json.loads(body)["entry"]]
        return 200, {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}


@contextmanager
def fhir_receiver(*pem: Path) -> Iterator[FhirReceiver]:
    """A receiver until the block ends.

    Args:
        pem: key, certificate, and an authority whose certificates clients must show; without them plain http.
    """
    found = FhirReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            act = found.grant if self.path == "/token" else found.take
            if isinstance(self.connection, ssl.SSLSocket):
                found.serials.append(str((self.connection.getpeercert() or {}).get("serialNumber")))
            status, answer = act(self.headers.get("Authorization", ""), body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def get_request(self) -> tuple[socket.socket, Any]:
            accepted, address = super().get_request()
            if found.tls is None:
                return accepted, address
            # The handshake runs in the connection's thread, not in that which accepts.
            return found.tls.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False), address

        def handle_error(self, *_: Any) -> None:  # a client that fails the handshake is expected
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        if pem:
            found.renew(*pem)
        scheme = "https" if found.tls else "http"
        found.url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield found
        finally:
            server.shutdown()
