"""What the command line changes about a configuration, written into its text: a run's folder holds what was trained.

Knows TOML as text. tomlkit (MIT) keeps comments and order, which Python's own reader drops.
"""

import shlex
import tomllib
from pathlib import Path

import tomlkit

from training.config import Config, read_config, validated


def configured(path: Path, init: str | None) -> tuple[Config, str]:
    """A configuration and its text, `model.init` changed in both where `init` is given.

    Raises:
        ConfigError: see `read_config`.
    """
    config, text = read_config(path), path.read_text(encoding="utf-8")
    if init is None:
        return config, text
    document = tomlkit.parse(text)
    document.setdefault("model", tomlkit.table())["init"] = init
    text = tomlkit.dumps(document)
    return validated(Config, tomllib.loads(text), path), text


def as_typed(path: Path, init: str | None) -> str:
    """The arguments that name this configuration to `marrowlens-train fit`."""
    return shlex.join([str(path)] if init is None else [str(path), "--init", init])
