"""Key sets: the members that may sign tokens; all others are skipped."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OKPKey, RSAKey

from service.auth.oidc import IssuerError, signing_keys

GOOD = RSAKey.generate_key(2048, {"kid": "good", "use": "sig"})


def public(key: RSAKey | ECKey | OKPKey, **more: Any) -> dict[str, Any]:
    return {**key.as_dict(private=False), **more}


def number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8 or 1)).decode().rstrip("=")


def rsa(bits: int, exponent: int = 65537, **more: Any) -> dict[str, Any]:
    return {"kty": "RSA", "kid": "odd", "n": number((1 << (bits - 1)) | 1), "e": number(exponent), **more}


@pytest.mark.parametrize(
    "member",
    [
        None,
        7,
        "a key",
        ["kty", "RSA"],
        {},
        {"kty": "oct", "kid": "odd", "k": "c2VjcmV0"},
        {"kty": "AKP", "kid": "odd", "alg": "ML-DSA-44", "pub": "AA"},
        {"kty": ["RSA"], "kid": "odd"},
        {"kty": "RSA", "kid": "odd", "alg": "RS256"},
        {"kty": "RSA", "kid": "odd", "n": 7, "e": 3},
        {"kty": "EC", "kid": "odd", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "kid": "odd", "crv": "secp256k1", "x": "AA", "y": "AA"},
        {"kty": "OKP", "kid": "odd", "crv": "X25519", "x": "A" * 43},
        rsa(512),
        rsa(1024),
        rsa(16384),
        rsa(1_000_000),
        rsa(2048, exponent=(1 << 64) + 1),
        rsa(2048, exponent=1),
        public(GOOD, kid="odd", use="enc"),
        public(GOOD, kid="odd", key_ops=["encrypt"]),
        public(GOOD, kid="odd", key_ops="verify"),
        public(GOOD, kid="odd", alg="HS256"),
        public(GOOD, kid="odd", alg="none"),
        public(GOOD, kid="odd", alg=["RS256"]),
        public(GOOD, kid=7),
        public(GOOD, kid=["odd"]),
        GOOD.as_dict(private=True, kid="odd"),
    ],
)
def test_a_member_that_is_no_signing_key_is_skipped_and_harms_no_other(member: object) -> None:
    for listed in ([member, public(GOOD)], [public(GOOD), member]):
        assert set(signing_keys({"keys": listed})) == {"good"}


def test_every_kind_of_key_that_signs_is_taken() -> None:
    curves = [ECKey.generate_key(curve) for curve in ("P-256", "P-384", "P-521")]
    listed = [*curves, OKPKey.generate_key("Ed25519"), RSAKey.generate_key(3072)]
    found = signing_keys({"keys": [public(key, kid=str(n)) for n, key in enumerate(listed)]})
    assert set(found) == {"0", "1", "2", "3", "4"}
    assert set(signing_keys({"keys": [{**public(listed[0]), "key_ops": ["verify"], "kid": "a"}]})) == {"a"}


def test_an_id_of_two_keys_is_none_and_one_key_twice_is_one() -> None:
    other, third = RSAKey.generate_key(2048), ECKey.generate_key("P-256")
    twice = [public(GOOD), public(GOOD)]
    assert set(signing_keys({"keys": twice})) == {"good"}
    for listed in ([*twice, public(other, kid="good")], [public(third, kid="good"), *twice, public(other, kid="b")]):
        assert "good" not in signing_keys({"keys": listed})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=9,
)
FIELDS = st.sampled_from(["kty", "kid", "alg", "use", "key_ops", "n", "e", "crv", "x", "y", "d"])
VALUES = JSON | st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "sig", "AQAB", "RS256", "EdDSA"])


@given(st.lists(JSON | st.dictionaries(FIELDS, VALUES), max_size=5))
def test_no_key_set_breaks_the_reader(listed: list[Any]) -> None:
    assert "good" in signing_keys({"keys": [*listed, public(GOOD)]}) or any(
        isinstance(each, dict) and each.get("kid") == "good" for each in listed
    )


@given(JSON)
def test_what_is_no_key_set_is_refused(keys: Any) -> None:
    if isinstance(keys, list):
        return
    with pytest.raises(IssuerError):
        signing_keys({"keys": keys})
