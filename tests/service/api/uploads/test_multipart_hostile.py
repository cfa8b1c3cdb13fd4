"""Forms of random parser tokens: they are read or rejected, and never cause an internal error."""

from hypothesis import given
from hypothesis import strategies as st
from python_multipart.exceptions import FormParserError

from service.api.uploads.multipart import FormEnds, PictureForm, parse_disposition, why_incomplete, why_unreadable
from service.errors import ServiceError

WORDS = [
    "name",
    "filename",
    "=",
    ";",
    " ",
    '"',
    "*",
    "*0",
    "*1*",
    "'",
    "%C3%A4",
    "%",
    "utf-8''",
    "idna''",
    "punycode''",
]
WORDS += [
    "=?utf-8?B?",
    "=?idna?Q?",
    "=?utf-7?q?+AG",
    "?=",
    "w6Q",
    "\\",
    "\n",
    "\0",
    "ä",
    "image",
    "form-data",
    "9" * 400,
]


@given(st.lists(st.sampled_from(WORDS), max_size=30).map("".join) | st.text(max_size=60))
def test_no_disposition_is_a_fault_of_the_service(header: str) -> None:
    for start in ("", "form-data; name=image; "):
        found = parse_disposition((start + header).encode("utf-8", "surrogatepass"))
        assert all(name is None or isinstance(name, str) for name in found)


@given(
    st.lists(
        st.sampled_from([b"--B", b"--", b"\r\n", b"\n", b":", b"Content-Disposition: form-data; name=image", b"x"])
    )
)
def test_no_form_is_a_fault_of_the_service(pieces: list[bytes]) -> None:
    for body in (b"".join(pieces), b"--B\r\n" + b"".join(pieces) + b"\r\n--B--\r\n"):
        found, ends = PictureForm("image", 3, 10), FormEnds()
        try:
            parser = found.parser(b"B")
            ends.add(body)
            parser.write(body)
            assert found.pictures() if found.complete else why_incomplete(ends, b"B")
        except FormParserError:
            assert why_unreadable(ends, b"B")
        except ServiceError as error:
            assert str(error)
