"""Base64 variants: unambiguous ones are decoded, all others get an error that names the cause."""

from base64 import b64encode, encodebytes, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.uploads.json_text import decode_base64
from service.errors import MalformedBody

EDGE = bytes([251, 255, 190]) * 4  # +/++ in the one alphabet, -_-- in the other


@given(st.binary(max_size=300))
def test_every_notation_gives_the_same_bytes(data: bytes) -> None:
    plain, mime, safe = (encode(data).decode() for encode in (b64encode, encodebytes, urlsafe_b64encode))
    indented = "\n".join(f"\t  {line}  " for line in mime.splitlines())
    notations = [plain, mime, mime.replace("\n", "\r\n"), mime.replace("\n", "\r"), indented, f" {plain}\n", safe]
    notations += [f"data:image/jpeg;base64,{plain}", f"DATA:;name=a.jpg;BASE64,{mime}"]
    for written in notations:
        assert decode_base64(written) == data


def test_the_url_safe_alphabet_goes_without_padding() -> None:
    for end in range(4):
        data = EDGE + bytes(end)
        assert decode_base64(urlsafe_b64encode(data).decode().rstrip("=")) == data


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("aGk", "not a multiple of four; it was cut off, or its padding is missing"),
        ("aGkh" * 10 + "a", "not a multiple of four"),
        ("aGk=aGk=", "padding in the middle"),
        ("aGk==", "not a multiple of four"),
        ("====", "not a multiple of four"),
        ("aG%2Fk", "it is percent-encoded"),
        ("aGk%3d", "it is percent-encoded"),
        ("aG%k", "character 3 is not in its alphabet"),
        ("äGkh", "character 1 is not ASCII"),
        ("aGkh\ufeff", "character 5 is not ASCII"),
        ("aG kh", "a space within a line; perhaps a + was decoded as a space"),
        ("aGkh\na kh", "a space within a line"),
        ("+_aa", "the standard alphabet (+ /) with the URL-safe one"),
        ("data:image/jpeg,%FF%D8", "a data: URL without ;base64"),
        ("data:image/jpeg;base64", "a data: URL without ;base64"),
        ("b'aGkh'", "a Python bytes literal"),
        ("file:///cell.jpg", "character 5 is not in its alphabet"),
    ],
)
def test_what_is_not_base64_says_why(written: str, sentence: str) -> None:
    with pytest.raises(MalformedBody) as refused:
        decode_base64(written)
    assert sentence in str(refused.value) and str(refused.value).startswith("not base64: ")


def test_a_long_text_is_decoded_in_one_go() -> None:
    data = bytes(range(256)) * 4096
    assert decode_base64(encodebytes(data).decode()) == data
