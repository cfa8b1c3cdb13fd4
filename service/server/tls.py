"""TLS: certificate with hot reload, optional client certificates (mutual TLS)."""

import logging
import ssl
from pathlib import Path

from model.regular_file import check_regular_file
from service.concurrency.thread_pools import FILES
from service.config.auth import AuthSettings
from service.config.file_watch import FileStamp, file_stamp

log = logging.getLogger(__name__)


class TlsConfigError(Exception):
    """A TLS file cannot be used: names the setting and the reason."""


class Tls:
    """The TLS context of the server. New connections use a renewed certificate.

    `context` accepts TLS 1.2 and later (RFC 9325, 3.1.1) and offers HTTP/1.1.
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
        self._loaded_stamps = self._file_stamps()
        self._load()
        if settings.tls_client_ca is not None:
            self._require_client_certificates(settings.tls_client_ca)

    async def refresh(self) -> None:
        """Reload certificate and key if a file has changed. The current pair stays if the new one is invalid."""
        try:
            if not await FILES.run(self._has_new_pair):
                return
            self._load()  # on the event loop, where connections use this context
            log.info("TLS certificate reloaded")
        except (OSError, TlsConfigError) as error:
            log.error("TLS certificate rejected, keeping the current one: %s", error)

    def _has_new_pair(self) -> bool:
        """Whether the files changed and hold a matching pair. Tried on a scratch context first."""
        stamps = self._file_stamps()
        if stamps == self._loaded_stamps:
            return False
        self._loaded_stamps = stamps
        self._check_files()
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key, self._password_or_empty)
        return True

    def _load(self) -> None:
        try:
            self._check_files()
            self.context.load_cert_chain(self._cert, self._key, self._password_or_empty)
        except OSError as error:  # an SSLError too
            why = getattr(error, "strerror", None) or getattr(error, "reason", None) or "no pair of PEM files"
            raise TlsConfigError(f"MARROWLENS_TLS_CERT, MARROWLENS_TLS_KEY: {why}") from None

    def _check_files(self) -> None:
        """Reject FIFOs and devices: OpenSSL opens files by itself and would block."""
        for path in (self._cert, self._key):
            check_regular_file(path)

    def _password_or_empty(self) -> str:
        return self._password or ""  # without a password OpenSSL prompts at the terminal

    def _require_client_certificates(self, authority: Path) -> None:
        try:
            check_regular_file(authority)
            self.context.load_verify_locations(authority)
        except OSError as error:
            why = getattr(error, "strerror", None) or getattr(error, "reason", None) or "no PEM file"
            raise TlsConfigError(f"MARROWLENS_TLS_CLIENT_CA: {why}") from None
        self.context.verify_mode = ssl.CERT_REQUIRED

    def _file_stamps(self) -> list[FileStamp | None]:
        return [file_stamp(each) for each in (self._cert, self._key)]
