"""Addresses and TLS of both directions, from the settings. Knows no frames and no messages."""

import socket
import ssl
from asyncio import StreamWriter

from service.lis_settings import LisSettings


def host_and_port(address: str) -> tuple[str, int]:
    """`host:port`, an IPv6 host in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def client_tls(settings: LisSettings) -> ssl.SSLContext | None:
    """TLS towards the receiver, whose name and authority are checked; None without `hl7_tls_ca`.

    Raises:
        OSError: a file cannot be read, or is no PEM (`ssl.SSLError`).
    """
    if settings.hl7_tls_ca is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=settings.hl7_tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.hl7_tls_cert:
        context.load_cert_chain(settings.hl7_tls_cert, settings.hl7_tls_key)
    return context


def listener_tls(settings: LisSettings) -> ssl.SSLContext | None:
    """TLS for senders of orders, who need a certificate themselves with `hl7_listen_ca`; None without a certificate.

    Raises:
        OSError: a file cannot be read, or is no PEM (`ssl.SSLError`).
    """
    if settings.hl7_tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.hl7_tls_cert, settings.hl7_tls_key)
    if settings.hl7_listen_ca:
        context.load_verify_locations(settings.hl7_listen_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def keep_alive(writer: StreamWriter) -> None:
    """Let the kernel find out about a peer that is gone: a connection may be silent for days."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
