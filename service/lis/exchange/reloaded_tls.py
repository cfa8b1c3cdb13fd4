"""TLS made of PEM files: renewed files are used without a restart."""

import logging
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path

from service.config.file_watch import FileStamp, file_stamp

log = logging.getLogger(__name__)


class ReloadedTls:
    """The TLS context of some files. Renewed files are used for new connections."""

    def __init__(
        self, connections: str, files: Iterable[Path | None], load: Callable[[], ssl.SSLContext | None]
    ) -> None:
        """
        Args:
            connections: what the log calls them: `orders`, or the name of a channel.
            load: makes a context of the files; None if there is no TLS.

        Raises:
            OSError: a file cannot be read, or is not valid PEM (`ssl.SSLError`).
        """
        self._connections = connections
        self._files = [each for each in files if each]
        self._load = load
        self._seen = self._stamps()
        self._context = load()

    def context(self) -> ssl.SSLContext | None:
        """The TLS context of the current files, or the previous one if they are invalid. None without TLS."""
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps
            try:
                self._context = self._load()
                log.info("%s: TLS certificate and authority reloaded", self._connections)
            except OSError as error:
                log.error(
                    "%s: reload rejected, keeping the current TLS certificate and authority: %s",
                    self._connections,
                    error.strerror or "invalid PEM files",
                )
        return self._context

    def _stamps(self) -> list[FileStamp | None]:
        return [file_stamp(each) for each in self._files]
