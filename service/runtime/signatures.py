"""Who vouches for an artefact's files: a list of their sha256, or the signature of a key that the operator trusts.

Knows the formats of sha256sum, minisign and `cosign sign-blob`. The bytes that are judged are those that are then
opened, so that no file can change in between. Knows no settings and nothing of what an artefact holds.

Sources: https://jedisct1.github.io/minisign/#signature-format (Ed25519 over BLAKE2b-512, or over the file in signatures
before 2022; a second signature binds the trusted comment), coreutils' sha256sum, sigstore's cosign (ECDSA over sha256).
"""

import base64
import binascii
import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from model.contract import ArtefactError
from model.regular_file import read_regular_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

_log = logging.getLogger(__name__)

_PEM = b"-----BEGIN PUBLIC KEY-----"
_KEY_BYTES, _SIGNATURE_BYTES, _ID_BYTES = 32, 64, 8


class VoucherError(Exception):
    """A list or a key that cannot be used: which file, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")


class Key(Protocol):
    """A public key, with what it calls the signature that lies beside a file."""

    suffix: str

    def check(self, data: bytes, signature: bytes) -> str:
        """What the signature says besides, which it also covers.

        Raises:
            ValueError: the signature is not this key's of this data.
        """


@dataclass(frozen=True, slots=True)
class Voucher:
    """Everything that has to vouch for a file. `required`: that nothing does is a refusal."""

    listed: Path | None = None
    key: Path | None = None
    required: bool = False

    def check(self, path: Path, data: bytes) -> None:
        """Refuse a file that what is set does not vouch for.

        Args:
            data: the file's content, as it was read.

        Raises:
            ArtefactError: it is not listed, or its signature is missing, another key's or of another content; or
                nothing is set that could vouch for it and something must.
        """
        if self.required and self.listed is None and self.key is None:
            raise ArtefactError(path, "has nobody who vouches for it: name a list of sha256 or a public key")
        try:
            if self.listed is not None:
                _check_listed(path, data, self.listed)
            if self.key is not None:
                _check_signed(path, data, read_key(self.key))
        except VoucherError as error:
            raise ArtefactError(path, f"cannot be judged: {error}") from error


NOBODY = Voucher()


def _check_listed(path: Path, data: bytes, listed: Path) -> None:
    hashes = [digest for digest, name in read_list(listed) if Path(name).name == path.name]
    found = hashlib.sha256(data).hexdigest()
    if not hashes:
        raise ArtefactError(path, f"is not in {listed}")
    if found not in hashes:
        raise ArtefactError(path, f"is not the one in {listed}: its sha256 is {found}")


def read_list(path: Path) -> list[tuple[str, str]]:
    """(sha256, file name) of every line, as `sha256sum` writes them.

    Raises:
        VoucherError: it cannot be read, is empty, or has a line that sha256sum would not write.
    """
    lines = _content(path).decode("utf-8", "surrogateescape").splitlines()
    found = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines if line.strip()]
    if not found or None in found:
        raise VoucherError(path, "is not a list that sha256sum wrote")
    return [(each[1], each[2]) for each in found if each is not None]


def _check_signed(path: Path, data: bytes, key: Key) -> None:
    beside = path.with_name(path.name + key.suffix)
    try:
        signature = read_regular_file(beside)
    except OSError as error:
        raise ArtefactError(path, f"has no signature that can be read: {beside.name} ({error.strerror})") from error
    try:
        comment = key.check(data, signature)
    except ValueError as error:
        raise ArtefactError(path, f"is not what {beside.name} signs: {error}") from error
    _log.info("%s is signed%s", path.name, f": {comment}" if comment else "")


def read_key(path: Path) -> Key:
    """A public key of minisign, or one of ECDSA in PEM as openssl and cosign write it.

    Raises:
        VoucherError: it cannot be read, or is neither.
    """
    content = _content(path)
    try:
        return _pem_key(content) if _PEM in content else _minisign_key(content)
    except ValueError as error:
        raise VoucherError(path, f"is not a public key of minisign nor one of ECDSA in PEM: {error}") from error


def _content(path: Path) -> bytes:
    try:
        return read_regular_file(path)
    except OSError as error:
        raise VoucherError(path, f"cannot be read ({error.strerror})") from error


def _decoded(line: bytes, length: int) -> bytes:
    try:
        found = base64.b64decode(line.strip(), validate=True)
    except binascii.Error as error:
        raise ValueError("it is not base64") from error
    if len(found) != length:
        raise ValueError(f"it has {len(found)} bytes, not {length}")
    return found


def _minisign_key(content: bytes) -> Key:
    lines = [line for line in content.splitlines() if line.strip() and not line.startswith(b"untrusted comment:")]
    if len(lines) != 1:
        raise ValueError("it is not one line of base64 under a comment")
    key = _decoded(lines[0], 2 + _ID_BYTES + _KEY_BYTES)
    if key[:2] != b"Ed":
        raise ValueError("its algorithm is unknown")
    return MinisignKey(key[2 : 2 + _ID_BYTES], key[2 + _ID_BYTES :])


class MinisignKey:
    """Ed25519, with the number that says which key it is."""

    suffix = ".minisig"

    def __init__(self, number: bytes, key: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        self._number, self._key = number, Ed25519PublicKey.from_public_bytes(key)

    def check(self, data: bytes, signature: bytes) -> str:
        lines = signature.splitlines()
        if len(lines) != 4 or not lines[2].startswith(b"trusted comment: "):
            raise ValueError("it is no signature of minisign, or not all of one")
        signed = _decoded(lines[1], 2 + _ID_BYTES + _SIGNATURE_BYTES)
        algorithm, number, own = signed[:2], signed[2 : 2 + _ID_BYTES], signed[2 + _ID_BYTES :]
        if number != self._number:
            raise ValueError("it is another key's")
        if algorithm not in (b"Ed", b"ED"):
            raise ValueError("its algorithm is unknown")
        self._verify(own, hashlib.blake2b(data).digest() if algorithm == b"ED" else data, "the content is another")
        comment = lines[2].removeprefix(b"trusted comment: ")
        self._verify(_decoded(lines[3], _SIGNATURE_BYTES), own + comment, "its trusted comment was changed")
        return comment.decode("utf-8", "replace")

    def _verify(self, signature: bytes, data: bytes, otherwise: str) -> None:
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, data)
        except InvalidSignature as error:
            raise ValueError(otherwise) from error


def _pem_key(content: bytes) -> Key:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(content)
    except UnsupportedAlgorithm as error:
        raise ValueError("its algorithm is unknown") from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise ValueError("it is not of ECDSA")
    return EcdsaKey(key)


class EcdsaKey:
    """ECDSA over sha256, the signature in base64: `cosign sign-blob --key`, or openssl."""

    suffix = ".sig"

    def __init__(self, key: "EllipticCurvePublicKey") -> None:
        self._key = key

    def check(self, data: bytes, signature: bytes) -> str:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            self._key.verify(base64.b64decode(b"".join(signature.split()), validate=True), data, ECDSA(SHA256()))
        except binascii.Error as error:
            raise ValueError("it is not base64") from error
        except InvalidSignature as error:
            raise ValueError("the content or the key is another") from error
        return ""
