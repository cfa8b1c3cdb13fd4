"""Orders with mutual TLS to a whole service, on an address that other machines reach."""

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path

import hl7
import httpx
import pytest
from databases import free_port
from laboratory import OBR, ORC, PID, SPM, order
from receivers import Certificates, Line, certificates
from serving import served

ORDER = order(PID, SPM, ORC, OBR)


async def ordered(port: int, known: Certificates | None) -> list[str]:
    """MSA of the answer; by TLS with a certificate, or without."""
    context = None
    if known is not None:
        context = ssl.create_default_context(cafile=known.ca)
        context.load_cert_chain(known.client, known.client_key)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    line = Line(reader, writer)
    try:
        await line.say(ORDER)
        answer = hl7.parse((await line.frame()).decode())
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    return [str(field) for field in answer.segment("MSA")][1:]


def test_an_order_stands_in_the_trail_under_its_certificate(artefact: Path, tmp_path: Path) -> None:
    known, port = certificates(tmp_path / "authority"), free_port()
    told = {"lis_database": f"sqlite:///{tmp_path / 'lab.db'}", "lis_hl7_listen": f"0.0.0.0:{port}"}
    told |= {"lis_hl7_tls_cert": str(known.server), "lis_hl7_tls_key": str(known.server_key)}
    with served(artefact, **told, lis_hl7_listen_ca=str(known.ca)) as service:
        service.wait_listening()
        with httpx.Client(base_url=service.url, timeout=30) as http:
            with pytest.raises((OSError, EOFError)):
                asyncio.run(ordered(port, None))
            assert asyncio.run(ordered(port, known)) == ["AA", "ORD-1"]
            [specimen] = http.get("/specimens").json()["specimens"]
            [entry] = http.get(f"/specimens/{specimen['id']}/audit").json()["entries"]
    assert entry["actor"] == "order from CN=client"
    identity = {"kind": "message", "certificate": "CN=client", "address": "127.0.0.1", "sender": "LIS|LAB"}
    assert {name: value for name, value in entry["identity"].items() if value} == identity
