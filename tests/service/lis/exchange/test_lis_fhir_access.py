"""Access to a FHIR server: private authorities, client certificates, OAuth 2 by a secret or by a signed assertion."""

import json
import logging
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from fhir_receiver import CLIENT, SECRET, FhirReceiver, fhir_receiver
from joserfc import jwt
from joserfc.jwk import KeySet
from pydantic import ValidationError
from receivers import certificates
from typer.testing import CliRunner

from service.cli.main import app
from service.config.lis import LisSettings
from service.lis.exchange.channels import receivers
from service.lis.exchange.code_map import CodeMap
from service.lis.exchange.transport import NoAnswer, Transport

MESSAGE = json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": [{}, {}]})


@asynccontextmanager
async def transport_to(server: FhirReceiver, **told: Any) -> AsyncIterator[Transport]:
    """The transport as the settings make it, with the credentials of a client."""
    oauth = {
        "fhir_oauth_token_url": f"{server.url}/token",
        "fhir_oauth_client_id": CLIENT,
        "fhir_oauth_client_secret": SECRET,
    }
    (receiver,) = receivers(LisSettings(fhir_url=f"{server.url}/fhir", **oauth | told), CodeMap.load(), None)
    try:
        yield receiver.transport
    finally:
        await receiver.transport.close()


async def test_one_token_serves_many_deliveries() -> None:
    with fhir_receiver() as server:
        async with transport_to(server, fhir_oauth_scope="system/*.write") as to:
            for control_id in ("1", "2", "3"):
                assert "transaction-response" in await to.deliver(MESSAGE, control_id)
    assert server.granted == [{"grant_type": ["client_credentials"], "scope": ["system/*.write"]}]
    assert server.taken == ["Bearer token-1"] * 3


@pytest.mark.parametrize(("life_s", "tokens"), [(0, 3), (None, 1)])
async def test_a_token_is_renewed_before_it_expires(life_s: float | None, tokens: int) -> None:
    with fhir_receiver() as server:
        server.life_s = life_s
        async with transport_to(server) as to:
            for control_id in ("1", "2", "3"):
                await to.deliver(MESSAGE, control_id)
    assert len(server.granted) == tokens


async def test_a_refused_token_is_renewed_once() -> None:
    with fhir_receiver() as server:
        async with transport_to(server) as to:
            await to.deliver(MESSAGE, "1")
            server.valid = set()  # withdrawn before its time
            await to.deliver(MESSAGE, "2")
            assert server.taken == ["Bearer token-1", "Bearer token-2"]
            server.take = lambda *_: (401, {})  # type: ignore[method-assign]
            with pytest.raises(NoAnswer, match="^HTTP 401$"):
                await to.deliver(MESSAGE, "3")
    assert len(server.granted) == 3


async def test_without_a_token_nothing_is_sent_and_the_report_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with fhir_receiver() as server:
        server.refuses = True
        async with transport_to(server) as to:
            with pytest.raises(NoAnswer, match="^the token endpoint answers 401: invalid_client$"):
                await to.deliver(MESSAGE, "1")
        server.refuses = False
        server.grant = lambda *_: (200, {"access_token": "a b", "token_type": "Bearer"})  # type: ignore[method-assign]
        async with transport_to(server) as to:
            with pytest.raises(NoAnswer, match="has no bearer token; check MARROWLENS_LIS_FHIR_OAUTH_TOKEN_URL"):
                await to.deliver(MESSAGE, "1")
        server.grant = lambda *_: (200, {"access_token": "a" * 100_000})  # type: ignore[method-assign]
        async with transport_to(server) as to:
            with pytest.raises(NoAnswer, match="the token endpoint's answer is larger than 65536 bytes"):
                await to.deliver(MESSAGE, "1")
    async with transport_to(server) as to:
        with pytest.raises(NoAnswer, match="no answer from the token endpoint: ConnectError"):
            await to.deliver(MESSAGE, "1")
    assert server.taken == [] and "Erika" not in caplog.text and "s3cret" not in caplog.text


async def test_both_sides_show_certificates_of_a_private_authority(tmp_path: Path) -> None:
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    shown = {"fhir_tls_cert": ours.client, "fhir_tls_key": ours.client_key}
    with fhir_receiver(ours.server_key, ours.server, ours.ca) as server:
        async with transport_to(server, fhir_tls_ca=ours.ca, **shown) as to:
            await to.deliver(MESSAGE, "1")
        for told, reason in (
            ({"fhir_tls_ca": others.ca, **shown}, "certificate"),
            (shown, "certificate"),  # the public authorities do not know the server
            ({"fhir_tls_ca": ours.ca}, "token endpoint"),  # no certificate of our own
        ):
            async with transport_to(server, **told) as to:
                with pytest.raises(NoAnswer, match=reason):
                    await to.deliver(MESSAGE, "2")
    assert server.taken == ["Bearer token-1"]


async def test_renewed_certificates_are_used_without_a_restart(tmp_path: Path) -> None:
    files, new = certificates(tmp_path / "ours"), certificates(tmp_path / "new")
    first, second = (x509.load_pem_x509_certificate(each.client.read_bytes()).serial_number for each in (files, new))
    told = {"fhir_tls_ca": files.ca, "fhir_tls_cert": files.client, "fhir_tls_key": files.client_key}
    with fhir_receiver(files.server_key, files.server, files.ca) as server:
        async with transport_to(server, **told) as to:
            await to.deliver(MESSAGE, "1")
            files.client.write_text("not a certificate yet")
            await to.deliver(MESSAGE, "2")
            server.renew(new.server_key, new.server, new.ca)
            with pytest.raises(NoAnswer, match="certificate"):  # signed by an authority that the file does not have yet
                await to.deliver(MESSAGE, "3")
            for name in ("ca", "client", "client_key"):
                shutil.copy(getattr(new, name), getattr(files, name))
            await to.deliver(MESSAGE, "4")
    assert {int(each, 16) for each in server.serials[:-1]} == {first} and int(server.serials[-1], 16) == second


def private_key(path: Path, key: Any, password: bytes | None = None) -> Path:
    """A PEM file of a private key."""
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    path.chmod(0o600)
    return path


def registered(path: Path, **told: str) -> Any:
    """The JWK Set that an operator registers at the token endpoint."""
    settings = {"DATABASE": "sqlite:////tmp/unused.db", "FHIR_OAUTH_TOKEN_URL": "https://login.example.org/token"}
    settings |= {"FHIR_OAUTH_CLIENT_ID": CLIENT, "FHIR_OAUTH_PRIVATE_KEY": str(path), **told}
    done = CliRunner().invoke(
        app, ["lis", "jwks"], env={f"MARROWLENS_LIS_{name}": value for name, value in settings.items()}
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


class Assertions:
    """A token endpoint that verifies assertions with joserfc, by RFC 7523 and SMART Backend Services."""

    def __init__(self, server: FhirReceiver, jwks: Any) -> None:
        self.server, self.jwks = server, jwks
        self.seen: list[tuple[str, str]] = []

    def grant(self, authorization: str, form: str) -> tuple[int, dict[str, Any]]:
        fields = {name: value for name, [value] in parse_qs(form).items()}
        assert authorization == "" and fields["grant_type"] == "client_credentials"
        assert fields["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        found = jwt.decode(fields["client_assertion"], KeySet.import_key_set(self.jwks), algorithms=["RS384", "ES384"])
        assert {found.claims[name] for name in ("iss", "sub")} == {CLIENT}
        assert found.claims["aud"] == f"{self.server.url}/token" and found.header["typ"] == "JWT"
        assert 0 < found.claims["exp"] - time.time() <= 300
        assert found.claims["jti"] not in {jti for _, jti in self.seen}
        self.seen.append((found.header["kid"], found.claims["jti"]))
        self.server.valid = {f"token-{len(self.seen)}"}
        return 200, {"access_token": f"token-{len(self.seen)}", "token_type": "bearer", "expires_in": 300}


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())], ids=["RS384", "ES384"]
)
async def test_a_client_signs_assertions_in_place_of_a_secret(
    tmp_path: Path, request: pytest.FixtureRequest, key: Any
) -> None:
    path = private_key(tmp_path / "client.pem", key)
    with fhir_receiver() as server:
        endpoint = Assertions(server, registered(path))
        [public] = endpoint.jwks["keys"]
        assert public["alg"] == request.node.callspec.id and not {"d", "p", "q"} & public.keys()
        [known] = KeySet.import_key_set(endpoint.jwks).keys
        assert public["kid"] == known.thumbprint()
        server.grant = endpoint.grant  # type: ignore[method-assign]
        told = {"fhir_oauth_client_secret": None, "fhir_oauth_private_key": path}
        async with transport_to(server, **told) as to:
            await to.deliver(MESSAGE, "1")
            server.valid = set()
            await to.deliver(MESSAGE, "2")
        named = {"fhir_oauth_key_id": "lab-2026"}
        endpoint.jwks = registered(path, FHIR_OAUTH_KEY_ID="lab-2026")
        async with transport_to(server, **told, **named) as to:
            await to.deliver(MESSAGE, "3")
    assert [kid for kid, _ in endpoint.seen] == [public["kid"]] * 2 + ["lab-2026"]
    assert server.taken == ["Bearer token-1", "Bearer token-2", "Bearer token-3"]


async def test_a_renewed_private_key_signs_the_next_assertion(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = private_key(tmp_path / "client.pem", ec.generate_private_key(ec.SECP384R1()))
    with fhir_receiver() as server:
        endpoint = Assertions(server, registered(path))
        server.grant = endpoint.grant  # type: ignore[method-assign]
        async with transport_to(server, fhir_oauth_client_secret=None, fhir_oauth_private_key=path) as to:
            await to.deliver(MESSAGE, "1")
            path.write_text("not a key yet")
            server.valid = set()
            await to.deliver(MESSAGE, "2")
            assert "keeping the current private key" in caplog.text
            private_key(path, ec.generate_private_key(ec.SECP384R1()))
            endpoint.jwks["keys"] += registered(path)["keys"]
            server.valid = set()
            await to.deliver(MESSAGE, "3")
    kids = [kid for kid, _ in endpoint.seen]
    assert kids[0] == kids[1] and len(set(kids)) == 2


@pytest.mark.parametrize(
    ("key", "password", "reason"),
    [
        (ec.generate_private_key(ec.SECP256R1()), None, "use an RSA key of at least 2048 bits, or an EC key on P-384"),
        (rsa.generate_private_key(65537, 1024), None, "use an RSA key of at least 2048 bits, or an EC key on P-384"),
        (ec.generate_private_key(ec.SECP384R1()), b"secret", "is not an unencrypted private key in PEM"),
    ],
)
async def test_a_key_that_cannot_sign_is_refused(tmp_path: Path, key: Any, password: bytes | None, reason: str) -> None:
    path = private_key(tmp_path / "client.pem", key, password)
    with fhir_receiver() as server, pytest.raises(ValueError, match=reason):
        async with transport_to(server, fhir_oauth_client_secret=None, fhir_oauth_private_key=path):
            pass


OAUTH = {
    "fhir_oauth_token_url": "https://login.example.org/token",
    "fhir_oauth_client_id": CLIENT,
    "fhir_oauth_client_secret": SECRET,
}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (
            {"fhir_token": "t"},
            "FHIR_URL is plain http to another machine: use https; the credentials would be sent unenc",
        ),
        (OAUTH, "FHIR_URL is plain http to another machine"),
        (
            OAUTH | {"fhir_oauth_token_url": "http://a.example/t"},
            "FHIR_OAUTH_TOKEN_URL is plain http to another machine",
        ),
        ({"fhir_oauth_client_id": CLIENT}, "belong together: set all or none"),
        ({"fhir_oauth_key_id": "1"}, "FHIR_OAUTH_KEY_ID is set without MARROWLENS_LIS_FHIR_OAUTH_PRIVATE_KEY"),
        (OAUTH | {"fhir_oauth_private_key": "a.pem"}, "FHIR_OAUTH_PRIVATE_KEY are both set; set one"),
        (OAUTH | {"fhir_token": "t", "fhir_url": "https://fhir.example.org"}, "are both set; set one"),
        ({"fhir_tls_cert": "a.pem"}, "FHIR_TLS_CERT and MARROWLENS_LIS_FHIR_TLS_KEY belong together"),
        ({"fhir_tls_ca": "a.pem"}, "FHIR_URL is plain http, which uses no certificate: use https"),
    ],
)
def test_settings_that_would_expose_credentials_are_refused(told: dict[str, str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        LisSettings(**{"fhir_url": "http://fhir.example.org", **told})  # type: ignore[arg-type]
    local = {"fhir_url": "http://127.0.0.1:1"} | OAUTH | {"fhir_oauth_token_url": "http://localhost:1/token"}
    assert LisSettings(**local)  # type: ignore[arg-type]
