"""Sockets, TLS contexts and certificates of the MLLP listener and transport."""

import socket
import ssl
from asyncio import StreamWriter
from functools import partial
from hashlib import sha256
from pathlib import Path

from cryptography import x509

from model.regular_file import check_regular_file
from service.auth.identity import InvalidName, checked_name
from service.config.lis import LisSettings
from service.lis.exchange.reloaded_tls import ReloadedTls

#: Connections that wait in the kernel to be accepted.
BACKLOG = 100
#: A longer or invalid subject is replaced by the certificate's fingerprint.
MAX_SUBJECT = 120


def host_and_port(address: str) -> tuple[str, int]:
    """Host and port of `host:port`; an IPv6 host is in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Listening sockets, one for each address of the host.

    Raises:
        OSError: an address is in use, or not of this machine.
    """
    found: list[socket.socket] = []
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, address in dict.fromkeys((info[0], info[4]) for info in infos):
            made = socket.create_server(address, family=family, backlog=BACKLOG)
            made.setblocking(False)
            found.append(made)
    except OSError:
        for made in found:
            made.close()
        raise
    return found


def reloaded_client_tls(settings: LisSettings) -> ReloadedTls:
    """`client_tls` of the current files. Raises OSError."""
    files = settings.hl7_tls_ca, settings.hl7_tls_cert, settings.hl7_tls_key
    return ReloadedTls("hl7", files, partial(client_tls, settings))


def client_tls(settings: LisSettings) -> ssl.SSLContext | None:
    """TLS to the receiver, with its certificate and name verified; None without `hl7_tls_ca`.

    Raises:
        OSError: a file cannot be read, or is not valid PEM (`ssl.SSLError`).
    """
    if settings.hl7_tls_ca is None:
        return None
    _check_files(settings.hl7_tls_ca, settings.hl7_tls_cert, settings.hl7_tls_key)
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=settings.hl7_tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.hl7_tls_cert:
        context.load_cert_chain(settings.hl7_tls_cert, settings.hl7_tls_key)
    return context


def reloaded_listener_tls(settings: LisSettings) -> ReloadedTls:
    """`listener_tls` of the current files. Raises OSError."""
    files = settings.hl7_tls_cert, settings.hl7_tls_key, settings.hl7_listen_ca
    return ReloadedTls("orders", files, partial(listener_tls, settings))


def listener_tls(settings: LisSettings) -> ssl.SSLContext | None:
    """TLS for order senders; mutual TLS with `hl7_listen_ca`. None without a certificate.

    Raises:
        OSError: a file cannot be read, or is not valid PEM (`ssl.SSLError`).
    """
    if settings.hl7_tls_cert is None:
        return None
    _check_files(settings.hl7_tls_cert, settings.hl7_tls_key, settings.hl7_listen_ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.hl7_tls_cert, settings.hl7_tls_key)
    if settings.hl7_listen_ca:
        context.load_verify_locations(settings.hl7_listen_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_files(*named: Path | None) -> None:
    """Refuse FIFOs and devices: OpenSSL would block on them."""
    for path in (each for each in named if each):
        check_regular_file(path)


def certificate_subject(writer: StreamWriter) -> str | None:
    """Subject (RFC 4514) of the client's verified certificate, or its SHA-256; None without a certificate."""
    secured = writer.get_extra_info("ssl_object")
    der = secured.getpeercert(True) if secured is not None else None
    if not der:
        return None
    subject = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    try:
        return checked_name(subject, "the subject", MAX_SUBJECT)
    except InvalidName:
        return f"sha256:{sha256(der).hexdigest()}"


def enable_keepalive(writer: StreamWriter) -> None:
    """Enable TCP keep-alive, to detect lost peers."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
