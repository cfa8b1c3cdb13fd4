"""The keys of a JSON Web Key Set (RFC 7517) that may sign tokens; all others are skipped. No I/O."""

from collections.abc import Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
#: Key types whose private half only the issuer has; `oct` is a shared secret.
_KEY_TYPES = ("RSA", "EC", "OKP")
#: Of an RSA modulus: RFC 7518, 3.3 and 3.5; above, one signature takes milliseconds and more to verify.
_MIN_BITS, _MAX_BITS = 2048, 8192
#: Of an RSA exponent: Windows takes no longer one, and verifying takes time in proportion.
_MAX_EXPONENT_BITS = 32
_MAX_KEYS = 100


class NotKeys(ValueError):
    """The document is no key set."""


def signing_keys(document: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """The keys by their id. An id that stands for two different keys stands for none.

    Raises:
        NotKeys: the document is no key set.
    """
    listed = document.get("keys")
    if not isinstance(listed, list):
        raise NotKeys("its key set has no list of keys")
    found: dict[str, jwt.PyJWK] = {}
    ambiguous: set[str] = set()
    for each in listed[:_MAX_KEYS]:
        key = _signing_key(each)
        if key is None:
            continue
        key_id = each.get("kid", "")
        if key_id in found and found[key_id].key != key.key:
            ambiguous.add(key_id)
        found[key_id] = key
    return {key_id: key for key_id, key in found.items() if key_id not in ambiguous}


def _signing_key(member: object) -> jwt.PyJWK | None:
    if not isinstance(member, dict) or not isinstance(member.get("kid", ""), str):
        return None
    if member.get("kty") not in _KEY_TYPES or not _verifies(member):
        return None
    if "d" in member:  # its private half is published: anybody can sign with it
        return None
    try:
        key = jwt.PyJWK(member)
    except (jwt.PyJWTError, ValueError, TypeError):  # the latter two of values that PyJWT does not expect
        return None
    return key if _is_strong(key.key) else None


def _verifies(member: Mapping[str, Any]) -> bool:
    operations = member.get("key_ops", ["verify"])
    is_for_signatures = isinstance(operations, list) and "verify" in operations and member.get("use", "sig") == "sig"
    return is_for_signatures and member.get("alg", ALGORITHMS[0]) in ALGORITHMS


def _is_strong(key: object) -> bool:
    if not isinstance(key, RSAPublicKey):
        return True
    return _MIN_BITS <= key.key_size <= _MAX_BITS and key.public_numbers().e.bit_length() <= _MAX_EXPONENT_BITS
