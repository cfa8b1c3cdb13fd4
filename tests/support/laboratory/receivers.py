"""HL7 peers of the tests: third-party receivers and senders, an own receiver, and certificates.

Node's receivers lie in tests/peers; `npm ci --prefix tests/peers` gets what they need.
"""

import asyncio
import json
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from checkout import PEERS
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.core import Message
from hl7apy.mllp import AbstractHandler, MLLPServer
from hl7apy.parser import parse_message

from stress.laboratory.cast import NODE

VT, END = b"\x0b", b"\x1c\r"


@dataclass
class Receiver:
    """A receiver in a process of its own."""

    port: int
    file: Path

    def received(self) -> list[dict[str, Any]]:
        """Every message it has written down."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [json.loads(line) for line in lines if line]


@contextmanager
def node_receiver(script: str, folder: Path, answer: str, *pem: Path) -> Iterator[Receiver]:
    """One of tests/peers, listening at a port that it chose."""
    assert (PEERS / "node_modules").is_dir(), "npm ci --prefix tests/peers"
    file = folder / f"{script}.{answer}.jsonl"
    command = [str(NODE), str(PEERS / script), str(file), answer, *map(str, pem)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            listening, port = process.stdout.readline().split()
            assert listening == "listening"
            yield Receiver(int(port), file)
        finally:
            process.kill()


async def node_sender(script: str, folder: Path, port: int, messages: Sequence[str]) -> list[str]:
    """Let one of tests/peers send messages; "AA ORD-1" and the like of each answer."""
    assert (PEERS / "node_modules").is_dir(), "npm ci --prefix tests/peers"
    file = folder / "messages.json"
    file.write_text(json.dumps(messages))
    process = await asyncio.create_subprocess_exec(
        NODE, PEERS / script, str(port), file, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, complained = await process.communicate()
    assert process.returncode == 0, complained.decode()
    return said.decode().splitlines()


class Strict(AbstractHandler):
    """hl7apy's own kind of receiver: takes what passes its strict validation, and nothing else."""

    def __init__(self, message: str, taken: list[str]) -> None:
        super().__init__(message)
        self.taken = taken

    def reply(self) -> str:
        parsed = parse_message(self.incoming_message, validation_level=VALIDATION_LEVEL.STRICT)
        parsed.validate()
        self.taken.append(self.incoming_message)
        ack = Message("ACK", version="2.5.1")
        ack.msh.msh_9 = "ACK^R01^ACK"
        ack.msa.msa_1, ack.msa.msa_2 = "AA", parsed.msh.msh_10.to_er7()
        return str(ack.to_mllp())


@contextmanager
def hl7apy_receiver() -> Iterator[tuple[int, list[str]]]:
    """hl7apy's MLLPServer; it closes a connection after each message."""
    taken: list[str] = []
    handlers = dict.fromkeys(("ORU^R01^ORU_R01", "OUL^R22^OUL_R22"), (Strict, taken))
    with MLLPServer("127.0.0.1", 0, handlers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1], taken
        finally:
            server.shutdown()
            thread.join()


class Line:
    """The receiver's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def frame(self) -> bytes:
        """The next message, without its frame."""
        return (await self.reader.readuntil(END)).removeprefix(VT).removesuffix(END)

    async def say(self, *messages: str | bytes) -> None:
        """Send these messages, framed, in one write."""
        sent = (each.encode() if isinstance(each, str) else each for each in messages)
        self.writer.write(b"".join(VT + each + END for each in sent))
        await self.writer.drain()


@asynccontextmanager
async def scripted(*script: Callable[[Line], Awaitable[None]], tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A receiver that serves its n-th connection by the n-th function and then closes it; yields its port."""
    left = list(script)
    ended: list[asyncio.Future[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ended.append(outcome)
        failed: BaseException | None = None
        try:
            await left.pop(0)(Line(reader, writer))
        except BaseException as error:
            failed = error
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        if failed:
            outcome.set_exception(failed)
        else:
            outcome.set_result(None)

    async with await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]
    for outcome in ended:
        await outcome
    assert not left, "not every connection was made"


@dataclass
class Certificates:
    """A certificate authority, and the certificates of a server on 127.0.0.1 and of a client."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def certificates(folder: Path, host: str = "127.0.0.1") -> Certificates:
    """A new authority with two certificates, as PEM files in a folder that is made."""
    folder.mkdir()
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("authority", ca_key, None, None, host)
    _pem(folder / "ca.pem", ca)
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        _pem(folder / f"{name}.pem", _certificate(name, key, ca, ca_key, host))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    server, client = folder / "server.pem", folder / "client.pem"
    return Certificates(folder / "ca.pem", server, folder / "server.key", client, folder / "client.key")


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey | None,
    host: str,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=12))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), critical=False)
    )
    return builder.sign(issuer_key or key, hashes.SHA256())


def _pem(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
