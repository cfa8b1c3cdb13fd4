"""Access to a FHIR server: private authorities, client certificates, OAuth 2 client credentials."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fhir_receiver import CLIENT, SECRET, FhirReceiver, fhir_receiver
from pydantic import ValidationError
from receivers import certificates

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
