"""Secrets from files: where a setting is a secret, `NAME_FILE` may name a file that holds its value."""

import os
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from service.config.private_file import NotPrivate, read_private

SUFFIX = "_FILE"
_MAX_BYTES = 64 * 1024


class SecretFileRefused(Exception):
    """The file of a secret cannot be used: the variable, and why."""


def is_secret(field: FieldInfo) -> bool:
    """Whether a setting is a secret."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


class SecretFiles(PydanticBaseSettingsSource):
    """The secrets of one class of settings that are given by files."""

    def __init__(self, settings_class: type[BaseSettings]) -> None:
        super().__init__(settings_class)
        self._prefix = str(settings_class.model_config.get("env_prefix", ""))
        self._environment = {name.upper(): value for name, value in os.environ.items() if value}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of one setting, None where no file is named.

        Raises:
            SecretFileRefused: the file cannot be used, or the setting has a value besides.
        """
        name = f"{self._prefix}{field_name}".upper()
        path = self._environment.get(name + SUFFIX) if is_secret(field) else None
        if path is None:
            return None, field_name, False
        if name in self._environment:
            raise SecretFileRefused(f"{name} and {name}{SUFFIX} are both set; set one")
        return _secret(f"{name}{SUFFIX}", Path(path)), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Every secret that has a file, by the name of its setting."""
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def _secret(variable: str, path: Path) -> str:
    if not os.path.lexists(path):  # the secret itself may stand where its file should
        raise SecretFileRefused(f"{variable}: No such file; it names the path of one, not the secret")
    try:
        text = read_private(path, _MAX_BYTES).decode("utf-8-sig").rstrip("\r\n")
    except NotPrivate as error:
        raise SecretFileRefused(f"{variable}: {error}") from None
    except UnicodeDecodeError:
        raise SecretFileRefused(f"{variable}: {path} is not UTF-8 text") from None
    if not text.strip():
        raise SecretFileRefused(f"{variable}: {path} is empty")
    if len(text.splitlines()) > 1 or "\0" in text:
        raise SecretFileRefused(f"{variable}: {path} has more than one line; the secret is the first and only one")
    return text
