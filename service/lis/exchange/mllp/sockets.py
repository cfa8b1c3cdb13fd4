"""Addresses and TLS of both directions, from the settings."""

import logging
import socket
import ssl
from asyncio import StreamWriter
from hashlib import sha256
from pathlib import Path

from cryptography import x509

from model.regular_file import check_regular_file
from service.auth.identity import InvalidName, checked_name
from service.config.file_watch import FileStamp, file_stamp
from service.config.lis import LisSettings

log = logging.getLogger(__name__)

#: Connections that the kernel holds until they are taken.
BACKLOG = 100
#: A longer subject, or one that cannot stand as a name, is written as its certificate's fingerprint: no name is cut.
MAX_SUBJECT = 120


def host_and_port(address: str) -> tuple[str, int]:
    """`host:port`, an IPv6 host in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """One socket for each address of the host, that takes connections.

    Raises:
        OSError: an address is taken, or is none of this machine's.
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


def client_tls(settings: LisSettings) -> ssl.SSLContext | None:
    """TLS towards the receiver, whose name and authority are checked; None without `hl7_tls_ca`.

    Raises:
        OSError: a file cannot be read, or is no PEM (`ssl.SSLError`).
    """
    if settings.hl7_tls_ca is None:
        return None
    _check_files(settings.hl7_tls_ca, settings.hl7_tls_cert, settings.hl7_tls_key)
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=settings.hl7_tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.hl7_tls_cert:
        context.load_cert_chain(settings.hl7_tls_cert, settings.hl7_tls_key)
    return context


class ListenerTls:
    """TLS for senders of orders. Files that were renewed are used for the next connections."""

    def __init__(self, settings: LisSettings) -> None:
        """
        Raises:
            OSError: a file cannot be read, or is no PEM (`ssl.SSLError`).
        """
        self._settings = settings
        self._seen = self._stamps()
        self._context = listener_tls(settings)

    def context(self) -> ssl.SSLContext | None:
        """As the files are now; as they were, while the new ones do not fit. None without a certificate."""
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps
            try:
                self._context = listener_tls(self._settings)
                log.info("orders: certificate and authority were read again")
            except OSError as error:
                log.error("orders: certificate and authority stay as they were: %s", error.strerror or "no PEM files")
        return self._context

    def _stamps(self) -> list[FileStamp | None]:
        told = self._settings
        return [file_stamp(each) for each in (told.hl7_tls_cert, told.hl7_tls_key, told.hl7_listen_ca) if each]


def listener_tls(settings: LisSettings) -> ssl.SSLContext | None:
    """TLS for senders of orders, who need a certificate themselves with `hl7_listen_ca`; None without a certificate.

    Raises:
        OSError: a file cannot be read, or is no PEM (`ssl.SSLError`).
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
    """OpenSSL opens files by itself, and would wait for ever at a FIFO."""
    for path in (each for each in named if each):
        check_regular_file(path)


def certificate_subject(writer: StreamWriter) -> str | None:
    """The subject (RFC 4514) of the certificate that was asked for and verified, or its SHA-256; None without one."""
    secured = writer.get_extra_info("ssl_object")
    shown = secured.getpeercert(True) if secured is not None else None
    if not shown:
        return None
    subject = x509.load_der_x509_certificate(shown).subject.rfc4514_string()
    try:
        return checked_name(subject, "the subject", MAX_SUBJECT)
    except InvalidName:
        return f"sha256:{sha256(shown).hexdigest()}"


def keep_alive(writer: StreamWriter) -> None:
    """Let the kernel find out about a peer that is gone."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
