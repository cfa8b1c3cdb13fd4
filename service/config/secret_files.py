"""Secrets read from files, and files that must be writable by their owner only.

For each secret setting `NAME`, the variable `NAME_FILE` may name a file that holds the value.
"""

import os
import stat
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

SUFFIX = "_FILE"
_MAX_BYTES = 64 * 1024


class SecretFileError(Exception):
    """A secret's file cannot be used: names the variable and the reason."""


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting is a secret."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


class SecretFiles(PydanticBaseSettingsSource):
    """pydantic-settings source: secrets of one settings class, read from the files that `NAME_FILE` variables name."""

    def __init__(self, settings_class: type[BaseSettings]) -> None:
        super().__init__(settings_class)
        self._prefix = str(settings_class.model_config.get("env_prefix", ""))
        self._environment = {name.upper(): value for name, value in os.environ.items() if value}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The secret in the setting's file; None if the setting has no file.

        Raises:
            SecretFileError: the file cannot be used, or both `NAME` and `NAME_FILE` are set.
        """
        name = f"{self._prefix}{field_name}".upper()
        path = self._environment.get(name + SUFFIX) if is_secret(field) else None
        if path is None:
            return None, field_name, False
        if name in self._environment:
            raise SecretFileError(f"{name} and {name}{SUFFIX} are both set; set one")
        return _secret(f"{name}{SUFFIX}", Path(path)), field_name, False

    def __call__(self) -> dict[str, Any]:
        """All secrets given by files, by field name."""
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def _secret(variable: str, path: Path) -> str:
    if not os.path.lexists(path):  # the value is left out: it may be the secret itself, set by mistake
        raise SecretFileError(f"{variable}: no such file; set the path of a file, not the secret itself")
    try:
        text = read_private_file(path, _MAX_BYTES).decode("utf-8-sig").rstrip("\r\n")
    except UnsafeFile as error:
        raise SecretFileError(f"{variable}: {error}") from None
    except UnicodeDecodeError:
        raise SecretFileError(f"{variable}: {path} is not UTF-8 text") from None
    if not text.strip():
        raise SecretFileError(f"{variable}: {path} is empty")
    if len(text.splitlines()) > 1 or "\0" in text:
        raise SecretFileError(
            f"{variable}: {path} has more than one line; the file must hold the secret on a single line"
        )
    return text


_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UnsafeFile(Exception):
    """The file cannot be used: gives the path, the reason and the remedy, never the content."""


def read_private_file(path: Path, max_bytes: int) -> bytes:
    """The content of a file that only its owner can change. FIFOs and devices are refused without blocking.

    Raises:
        UnsafeFile: unreadable, not a regular file, too large, or other users can write or replace it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise UnsafeFile(f"{path} is not a regular file")
            if fault := _fault(path, found) or _fault_of_folders(path):
                raise UnsafeFile(f"{path}: {fault}")
            with os.fdopen(os.dup(descriptor), "rb") as file:
                content = file.read(max_bytes + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnsafeFile(f"{path}: {error.strerror}") from None
    if len(content) > max_bytes:
        raise UnsafeFile(f"{path} is larger than {max_bytes} bytes")
    return content


def _fault(path: Path, found: os.stat_result) -> str | None:
    if found.st_mode & _OTHERS_WRITE:
        return f"other users can write it (mode {stat.S_IMODE(found.st_mode):04o}); run chmod go-w"
    return _fault_of_owner(path, found)


def _fault_of_folders(path: Path) -> str | None:
    """Why other users could replace the file: permissions of its folder and, for a link, of the target's folder."""
    for folder in {path.absolute().parent, path.resolve().parent}:
        found = folder.stat()
        others = found.st_mode & stat.S_IWOTH
        # A group with the owner's number is the user's private group, which has no other member.
        group = found.st_mode & stat.S_IWGRP and found.st_gid != found.st_uid
        if (others or group) and not found.st_mode & stat.S_ISVTX:
            return f"other users can write its folder {folder} (mode {stat.S_IMODE(found.st_mode):04o}); run chmod go-w"
        if fault := _fault_of_owner(folder, found):
            return f"its folder {folder}: {fault}"
    return None


def _fault_of_owner(path: Path, found: os.stat_result) -> str | None:
    """Why the owner is not trusted: root, the user of this process, and any owner on a read-only mount are."""
    if found.st_uid in (0, os.geteuid()) or os.statvfs(path).f_flag & os.ST_RDONLY:
        return None
    return f"owned by user {found.st_uid}, neither root nor the user of this process; run chown, or mount it read-only"
