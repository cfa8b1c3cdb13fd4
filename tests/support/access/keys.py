"""Files of API keys for tests, and the Authorization header of a key."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EVERY_SCOPE = ("classify", "specimens", "metrics", "admin")


def entry(key: str, name: str, scopes: Sequence[str] = EVERY_SCOPE, **more: Any) -> str:
    """The TOML of one key; `expires` is inserted as it is."""
    values = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": list(scopes), **more}
    lines = [f"{field} = {value if field == 'expires' else json.dumps(value)}" for field, value in values.items()]
    return "\n".join(["[[key]]", *lines, ""])


def keys_file(folder: Path, *entries: str) -> Path:
    """A file with these entries."""
    path = folder / "keys.toml"
    path.write_text("\n".join(entries), encoding="utf-8")
    path.chmod(0o600)  # whatever the umask: a file that others may write is refused
    return path


def bearer(word: str) -> dict[str, str]:
    """The Authorization header of a key or token."""
    return {"Authorization": f"Bearer {word}"}
