"""Client authentication by a signed assertion: `private_key_jwt` (RFC 7523), as SMART Backend Services asks for it."""

import json
import logging
import time
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from service.config.file_watch import file_stamp
from service.config.secret_files import UnsafeFile, read_private_file

log = logging.getLogger(__name__)

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
#: Life of an assertion. SMART allows five minutes; the rest is for clocks that differ.
LIFE_S: Final = 240
_MIN_RSA_BITS, _MAX_BYTES = 2048, 64 * 1024
#: Members of a public key that its thumbprint covers (RFC 7638, 3.2).
_THUMBPRINT: Final = ("crv", "e", "kty", "n", "x", "y")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, its JWS algorithm (RS384 or ES384), and its public key as a JWK."""

    key: RSAPrivateKey | EllipticCurvePrivateKey
    algorithm: str
    public: dict[str, Any]


def load_signing_key(path: Path, key_id: str | None) -> SigningKey:
    """The private key of a PEM file.

    Args:
        key_id: default: the key's thumbprint (RFC 7638).

    Raises:
        ValueError: the file cannot be used, or holds another kind of key.
    """
    try:
        key = load_pem_private_key(read_private_file(path, _MAX_BYTES), None)
    except UnsafeFile as error:
        raise ValueError(str(error)) from None
    except (ValueError, TypeError):  # TypeError: it is encrypted
        raise ValueError(f"{path} is not an unencrypted private key in PEM") from None
    if isinstance(key, RSAPrivateKey) and key.key_size >= _MIN_RSA_BITS:
        algorithm, public = "RS384", RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP384R1):
        algorithm, public = "ES384", ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        raise ValueError(f"{path}: use an RSA key of at least {_MIN_RSA_BITS} bits, or an EC key on P-384 (secp384r1)")
    named = {**public, "kid": key_id or _thumbprint(public), "alg": algorithm, "use": "sig", "key_ops": ["verify"]}
    return SigningKey(key, algorithm, named)


class ClientKey:
    """The signing key of a client. A renewed file is used for the next assertion."""

    def __init__(self, path: Path, key_id: str | None) -> None:
        """
        Raises:
            ValueError: as `load_signing_key`.
        """
        self._path, self._key_id = path, key_id
        self._seen = file_stamp(path)
        self._key = load_signing_key(path, key_id)

    def assertion(self, client_id: str, token_url: str) -> dict[str, str]:
        """The form fields that authenticate the client once, at one token endpoint."""
        key = self._current()
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": token_url,
            "exp": int(time.time()) + LIFE_S,
            "jti": uuid.uuid4().hex,
        }
        signed = jwt.encode(claims, key.key, key.algorithm, headers={"kid": key.public["kid"]})
        return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": signed}

    def public(self) -> dict[str, Any]:
        """The public key as a JWK."""
        return self._current().public

    def _current(self) -> SigningKey:
        stamp = file_stamp(self._path)
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._key = load_signing_key(self._path, self._key_id)
                log.info("fhir: private key reloaded, key id %s", self._key.public["kid"])
            except ValueError as error:
                log.error("fhir: reload rejected, keeping the current private key: %s", error)
        return self._key


def _thumbprint(public: dict[str, Any]) -> str:
    required = {name: public[name] for name in _THUMBPRINT if name in public}
    digest = sha256(json.dumps(required, separators=(",", ":"), sort_keys=True).encode()).digest()
    return urlsafe_b64encode(digest).decode().rstrip("=")
