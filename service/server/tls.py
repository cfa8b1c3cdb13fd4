"""TLS on the service itself: a certificate that is read anew when it changes, and clients' certificates if wanted.

Knows files and Python's TLS. Does not know sockets.
"""

import logging
import ssl
from pathlib import Path

from model.regular_file import check_regular_file
from service.concurrency.thread_pools import FILES
from service.config.auth import AuthSettings
from service.config.file_watch import FileStamp, file_stamp

log = logging.getLogger(__name__)


class TlsConfigError(Exception):
    """The certificate, its key or the authority of clients cannot be used: which setting, and why."""


class Tls:
    """What connections are secured with. A certificate that was renewed is used for the next connections.

    `context` takes TLS 1.2 and later (RFC 9325, 3.1.1) and speaks HTTP/1.1.
    """

    def __init__(self, settings: AuthSettings) -> None:
        """
        Raises:
            TlsConfigError: a file cannot be used.
        """
        assert settings.tls_cert is not None and settings.tls_key is not None
        password = settings.tls_key_password
        self._cert, self._key = settings.tls_cert, settings.tls_key
        self._password = None if password is None else password.get_secret_value()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self._seen = self._stamps()
        self._load()
        if settings.tls_client_ca is not None:
            self._ask_clients(settings.tls_client_ca)

    async def refresh(self) -> None:
        """Read certificate and key anew when one of them has changed; the old pair stays if they do not fit."""
        try:
            if not await FILES.run(self._renewed):
                return
            self._load()  # not in the thread: connections are being made with this context
            log.info("the certificate was read anew")
        except (OSError, TlsConfigError) as error:
            log.error("the certificate stays as it was: %s", error)

    def _renewed(self) -> bool:
        """Whether there is another pair, whose files were read and fit: half of one must never serve."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen = stamps
        self._check_files()
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key, self._no_prompt)
        return True

    def _load(self) -> None:
        try:
            self._check_files()
            self.context.load_cert_chain(self._cert, self._key, self._no_prompt)
        except OSError as error:  # an SSLError too
            why = getattr(error, "strerror", None) or getattr(error, "reason", None) or "no pair of PEM files"
            raise TlsConfigError(f"MARROWLENS_TLS_CERT, MARROWLENS_TLS_KEY: {why}") from None

    def _check_files(self) -> None:
        """OpenSSL opens files by itself, and would wait for ever at a FIFO."""
        for path in (self._cert, self._key):
            check_regular_file(path)

    def _no_prompt(self) -> str:
        return self._password or ""  # OpenSSL would ask at the terminal

    def _ask_clients(self, authority: Path) -> None:
        try:
            check_regular_file(authority)
            self.context.load_verify_locations(authority)
        except OSError as error:
            why = getattr(error, "strerror", None) or getattr(error, "reason", None) or "no PEM file"
            raise TlsConfigError(f"MARROWLENS_TLS_CLIENT_CA: {why}") from None
        self.context.verify_mode = ssl.CERT_REQUIRED

    def _stamps(self) -> list[FileStamp | None]:
        return [file_stamp(each) for each in (self._cert, self._key)]
