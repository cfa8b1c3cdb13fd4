"""Verification of an artefact's files: named in a list of sha256, or signed with the operator's ECDSA key.

The bytes that are verified are the bytes that are opened, so a file cannot change in between.

Formats: `sha256sum` of GNU coreutils; ECDSA over sha256 in base64, as `openssl dgst -sha256 -sign` piped through
`openssl base64`, and `cosign sign-blob --key`, write it.
"""

import base64
import binascii
import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.contract import ArtefactError
from model.regular_file import read_regular_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

_log = logging.getLogger(__name__)

SIGNATURE_SUFFIX = ".sig"
_ACCEPTED_KEY = 'use an ECDSA public key in PEM ("-----BEGIN PUBLIC KEY-----"), as openssl writes it'


class TrustFileError(Exception):
    """The list of hashes or the public key cannot be used."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")


@dataclass(frozen=True, slots=True)
class Verifier:
    """Verifies files against a list of hashes, a public key, or both. With neither, `required` refuses every file."""

    sha256_file: Path | None = None
    public_key: Path | None = None
    required: bool = False

    def check(self, path: Path, data: bytes) -> None:
        """Verify a file.

        Args:
            data: the content of the file as it was read.

        Raises:
            ArtefactError: the file is not listed, or its signature is missing or invalid; or verification is required
                and neither a list nor a key is set.
        """
        if self.required and self.sha256_file is None and self.public_key is None:
            raise ArtefactError(
                path,
                "is not verified, and MARROWLENS_ARTEFACT_VOUCHED_ONLY requires it; "
                "set MARROWLENS_ARTEFACT_SHA256_FILE or MARROWLENS_ARTEFACT_PUBLIC_KEY",
            )
        try:
            if self.sha256_file is not None:
                _check_listed(path, data, self.sha256_file)
            if self.public_key is not None:
                _check_signed(path, data, read_key(self.public_key))
        except TrustFileError as error:
            raise ArtefactError(path, f"cannot be verified: {error}") from error


NO_VERIFICATION = Verifier()


def _check_listed(path: Path, data: bytes, sha256_file: Path) -> None:
    hashes = [sha256 for sha256, name in read_list(sha256_file) if Path(name).name == path.name]
    found = hashlib.sha256(data).hexdigest()
    if not hashes:
        raise ArtefactError(path, f"is not listed in {sha256_file}")
    if found not in hashes:
        raise ArtefactError(path, f"differs from the file listed in {sha256_file}: its sha256 is {found}")


def read_list(path: Path) -> list[tuple[str, str]]:
    """Pairs of sha256 and file name, one for each line of `sha256sum`'s output.

    Raises:
        TrustFileError: the file cannot be read, is empty, or has a line in another format.
    """
    lines = _read(path).decode("utf-8", "surrogateescape").splitlines()
    matches = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines if line.strip()]
    if not matches or None in matches:
        raise TrustFileError(path, "is not a list of hashes; write it with sha256sum")
    return [(match[1], match[2]) for match in matches if match is not None]


def _check_signed(path: Path, data: bytes, key: "EllipticCurvePublicKey") -> None:
    signature_path = path.with_name(path.name + SIGNATURE_SUFFIX)
    try:
        signature = read_regular_file(signature_path)
    except OSError as error:
        raise ArtefactError(
            path, f"has no signature: {signature_path.name} cannot be read ({error.strerror})"
        ) from error
    try:
        check_signature(key, data, signature)
    except ValueError as error:
        raise ArtefactError(path, f"has an invalid signature in {signature_path.name}: {error}") from error
    _log.info("%s: signature verified", path.name)


def check_signature(key: "EllipticCurvePublicKey", data: bytes, signature: bytes) -> None:
    """Verify a base64-encoded ECDSA signature over the sha256 of `data`.

    Raises:
        ValueError: the signature is not base64, or does not match the key and the content.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key.verify(base64.b64decode(b"".join(signature.split()), validate=True), data, ECDSA(SHA256()))
    except binascii.Error as error:
        raise ValueError("it is not base64") from error
    except InvalidSignature as error:
        raise ValueError("it does not match the public key and the file") from error


def read_key(path: Path) -> "EllipticCurvePublicKey":
    """An ECDSA public key in PEM, as openssl and cosign write it.

    Raises:
        TrustFileError: the file cannot be read or holds something else.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = _read(path)
    try:
        key = load_pem_public_key(content)
    except (UnsupportedAlgorithm, ValueError) as error:
        minisign = content.startswith(b"untrusted comment:")
        found = "is a minisign key, which is not supported" if minisign else "is not a public key"
        raise TrustFileError(path, f"{found}; {_ACCEPTED_KEY}") from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise TrustFileError(path, f"is not an ECDSA key; {_ACCEPTED_KEY}")
    return key


def _read(path: Path) -> bytes:
    try:
        return read_regular_file(path)
    except OSError as error:
        raise TrustFileError(path, f"cannot be read ({error.strerror})") from error
