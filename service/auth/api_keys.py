"""API keys: generation, the file of their hashes, and the lookup of a key.

A key has 256 random bits, so a plain SHA-256 cannot be reversed by guessing; slow hashes are for passwords.
"""

import hashlib
import hmac
import secrets
import tomllib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from service.auth.identity import Caller, Identity, Scope
from service.config.file_watch import file_stamp
from service.config.secret_files import UnsafeFile, read_private_file
from service.config.suggest import closest_match

#: Prefix of every key: tells keys from tokens, and lets secret scanners find leaked keys.
KEY_PREFIX = "mlk_"
#: Hexadecimal digits of the hash that identify a key in listings.
ID_LENGTH = 8
#: Maximum size of the file: about 40,000 keys.
_MAX_BYTES = 8 * 1024 * 1024
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$")]


class KeysFileError(Exception):
    """The file of keys cannot be used. The message contains no key and no hash."""


class KeyEntry(BaseModel):
    """One key in the file. Two keys may have one name while one replaces the other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: KeyName = Field(description="owner of the key; written to the audit trail")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the key")
    scopes: frozenset[Scope] = Field(min_length=1, description="what the key may access")
    expires: AwareDatetime | None = Field(None, description="expiry; the key is refused from then on")
    acts_for_others: bool = Field(False, description="whether X-Acting-User is accepted with this key")
    person: bool = Field(False, description="whether the key belongs to one person, who may read cells and sign")
    rate_per_s: float | None = Field(None, ge=0, description="requests per second. Default: MARROWLENS_RATE_PER_S")
    burst: int | None = Field(None, gt=0, description="requests at once. Default: MARROWLENS_RATE_BURST")

    @property
    def id(self) -> str:
        """First digits of the hash; distinguishes two keys with one name."""
        return self.sha256[:ID_LENGTH]

    def expired(self, now: datetime) -> bool:
        """Whether the key has expired."""
        return self.expires is not None and self.expires <= now


class _KeysFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    key: tuple[KeyEntry, ...] = ()


def new_key() -> str:
    """A new random key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """The SHA-256 of a key, in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """The entries of a file.

    Raises:
        KeysFileError: unreadable, writable by others, or an entry is invalid.
    """
    try:
        found = _KeysFile.model_validate(tomllib.loads(read_private_file(path, _MAX_BYTES).decode()))
    except UnsafeFile as error:
        raise KeysFileError(str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KeysFileError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise KeysFileError(f"{path}: {'; '.join(_fault(each) for each in error.errors())}") from None
    hashes = [entry.sha256 for entry in found.key]
    if len(set(hashes)) < len(hashes):
        raise KeysFileError(f"{path}: the same key is listed twice; remove one entry")
    if clash := similar_names([entry.name for entry in found.key]):
        raise KeysFileError(f"{path}: {clash}")
    return found.key


def similar_names(names: Sequence[str]) -> str | None:
    """An error message if two names differ only in upper and lower case, else None."""
    seen: dict[str, str] = {}
    for name in names:
        if (first := seen.setdefault(name.casefold(), name)) != name:
            return f"{first} and {name} differ in upper and lower case only; rename one"
    return None


def _fault(error: object) -> str:
    """A validation error of the keys file as text: the entry, the field, and the reason."""
    path, kind, message = error["loc"], error["type"], error["msg"]  # type: ignore[index]
    at = f"key {path[1] + 1}" if len(path) > 1 else "the file"
    if kind == "extra_forbidden":
        known = KeyEntry.model_fields if len(path) > 1 else _KeysFile.model_fields
        return f"{at}: unknown field {path[-1]!r}; did you mean {closest_match(str(path[-1]), known)}?"
    return f"{at}: {'.'.join(map(str, path[2:]))}: {message}"


class KeyRing:
    """The keys of a file, hot-reloaded when the file changes.

    If the changed file cannot be used, the current keys stay in use and `on_error` is called.
    """

    def __init__(self, path: Path, on_error: Callable[[KeysFileError], None]) -> None:
        """
        Raises:
            KeysFileError: the file cannot be used.
        """
        self._path = path
        self._on_error = on_error
        self._stamp = file_stamp(path)
        self.entries = read_keys(path)
        self.valid = True

    def find(self, key: str) -> KeyEntry | None:
        """The entry of a key that has not expired, in the same time whether or not there is one."""
        digest, found = hash_of(key), None
        for entry in self.entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return None if found is None or found.expired(datetime.now(UTC)) else found

    def entry(self, identity: Identity) -> KeyEntry | None:
        """The current entry of a caller that authenticated earlier; None if it was removed."""
        return next((each for each in self.entries if (each.name, each.id) == (identity.key, identity.key_id)), None)

    def refresh(self) -> None:
        """Read the file again if it has changed."""
        stamp = file_stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.entries = read_keys(self._path)
            self.valid = True
        except KeysFileError as error:
            self.valid = False
            self._on_error(error)


def caller_of(entry: KeyEntry, rate_per_s: float, burst: int) -> Caller:
    """The caller that a key authenticates, with default rate limits."""
    return Caller(
        name=entry.name,
        identity=Identity(kind="key", key=entry.name, key_id=entry.id),
        scopes=entry.scopes,
        person=entry.person or entry.acts_for_others,
        acts_for_others=entry.acts_for_others,
        ends_at_s=None if entry.expires is None else entry.expires.timestamp(),
        rate_per_s=rate_per_s if entry.rate_per_s is None else entry.rate_per_s,
        burst=entry.burst or burst,
    )
