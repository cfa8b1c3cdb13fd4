"""API keys: how one is made, the file that holds their hashes, and whose a key is.

A key has 256 random bits, so that its plain SHA-256 cannot be guessed back: what slow hashes are for are passwords.
The file holds no key. Knows no HTTP.
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

from service.auth.callers import Caller, Scope
from service.auth.identity import Identity
from service.config.file_watch import file_stamp
from service.config.secret_files import UnsafeFile, read_private_file
from service.config.suggest import closest_match

#: Before every key: a bearer's word that begins so is a key and no token, and scanners for lost secrets find it.
KEY_PREFIX = "mlk_"
#: Characters of the hash that name a key in listings.
ID_LENGTH = 8
#: Of the file: some 40,000 keys.
_MAX_BYTES = 8 * 1024 * 1024
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$")]


class KeysRefused(Exception):
    """The file of keys cannot be used: what is wrong, in a sentence, without any key or hash."""


class KeyEntry(BaseModel):
    """One key as the file holds it. While one key replaces another, two stand under one name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: KeyName = Field(description="whose it is; stands in the audit trail")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the key")
    scopes: frozenset[Scope] = Field(min_length=1, description="what it opens")
    expires: AwareDatetime | None = Field(None, description="from then on it opens nothing")
    acts_for_others: bool = Field(False, description="whether X-Acting-User is believed from it")
    rate_per_s: float | None = Field(None, ge=0, description="requests a second. Default: MARROWLENS_RATE_PER_S")
    burst: int | None = Field(None, gt=0, description="requests at once. Default: MARROWLENS_RATE_BURST")

    @property
    def id(self) -> str:
        """What tells two keys of one name apart."""
        return self.sha256[:ID_LENGTH]

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and self.expires <= now


class _KeysFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    key: tuple[KeyEntry, ...] = ()


def new_key() -> str:
    """A key that nobody has seen."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """What the file holds of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """The entries of a file.

    Raises:
        KeysRefused: it cannot be read, others may write it, or an entry is invalid.
    """
    try:
        found = _KeysFile.model_validate(tomllib.loads(read_private_file(path, _MAX_BYTES).decode()))
    except UnsafeFile as error:
        raise KeysRefused(str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KeysRefused(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        raise KeysRefused(f"{path}: {'; '.join(_fault(each) for each in error.errors())}") from None
    hashes = [entry.sha256 for entry in found.key]
    if len(set(hashes)) < len(hashes):
        raise KeysRefused(f"{path}: one key stands there twice")
    if clash := names_alike([entry.name for entry in found.key]):
        raise KeysRefused(f"{path}: {clash}")
    return found.key


def names_alike(names: Sequence[str]) -> str | None:
    """Which two names differ in upper and lower case only, in a sentence; None where none do."""
    seen: dict[str, str] = {}
    for name in names:
        if (first := seen.setdefault(name.casefold(), name)) != name:
            return f"{first} and {name} differ in upper and lower case only; rename one"
    return None


def _fault(error: object) -> str:
    where, kind, said = error["loc"], error["type"], error["msg"]  # type: ignore[index]
    at = f"key {where[1] + 1}" if len(where) > 1 else "the file"
    if kind == "extra_forbidden":
        known = KeyEntry.model_fields if len(where) > 1 else _KeysFile.model_fields
        return f"{at} has {where[-1]!r}, which is nothing; did you mean {closest_match(str(where[-1]), known)}?"
    return f"{at}: {'.'.join(map(str, where[2:]))}: {said}"


class KeyRing:
    """The keys of a file that is read anew when it changes: keys come and go without a restart.

    A file that has become unreadable changes nothing: the keys that were there stay, and `on_refused` is told.
    """

    def __init__(self, path: Path, on_refused: Callable[[KeysRefused], None]) -> None:
        """
        Raises:
            KeysRefused: the file cannot be used as it is.
        """
        self._path = path
        self._on_refused = on_refused
        self._seen = file_stamp(path)
        self.entries = read_keys(path)
        self.valid = True

    def find(self, key: str) -> KeyEntry | None:
        """The entry of a key, unless its time is over. Takes as long for a key that is none."""
        sent, found = hash_of(key), None
        for entry in self.entries:
            if hmac.compare_digest(entry.sha256, sent):
                found = entry
        return None if found is None or found.expired(datetime.now(UTC)) else found

    def entry(self, identity: Identity) -> KeyEntry | None:
        """The entry that a caller was admitted by, while the file has it."""
        return next((each for each in self.entries if (each.name, each.id) == (identity.key, identity.key_id)), None)

    def refresh(self) -> None:
        """Read the file anew when it is not the one that was read."""
        stamp = file_stamp(self._path)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self.entries = read_keys(self._path)
            self.valid = True
        except KeysRefused as error:
            self.valid = False
            self._on_refused(error)


def caller_of(entry: KeyEntry, rate_per_s: float, burst: int) -> Caller:
    """Who a key's holder is; rate and burst are those of keys that say nothing of their own."""
    return Caller(
        name=entry.name,
        identity=Identity(kind="key", key=entry.name, key_id=entry.id),
        scopes=entry.scopes,
        person=entry.acts_for_others,
        acts_for_others=entry.acts_for_others,
        ends_at_s=None if entry.expires is None else entry.expires.timestamp(),
        rate_per_s=rate_per_s if entry.rate_per_s is None else entry.rate_per_s,
        burst=entry.burst or burst,
    )
