"""Multipart forms of browsers, libraries and people: unambiguous ones are read, others get an error with the cause."""

from base64 import b64encode, encodebytes
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import SHARED
from serving import client, refused
from starlette.testclient import TestClient

Draw = Callable[..., bytes]
CASES = SHARED / "cases" / "pictures"
TYPE = {"content-type": "multipart/form-data; boundary=B"}
FILE = b'form-data; name="image"; filename="c.png"'


@pytest.fixture(scope="module")
def http(artefact: Path) -> "TestClient":
    with client(artefact, max_image_bytes=100_000, max_body_bytes=300_000, max_batch_images=9) as started:
        yield started


def part(content: bytes, disposition: bytes = FILE, *headers: bytes) -> bytes:
    lines = (b"Content-Disposition: " + disposition, *headers, b"", content)
    return b"--B\r\n" + b"\r\n".join(lines) + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--B--\r\n"


def images(disposition: bytes) -> bytes:
    return b'form-data; name="images"; ' + disposition


def name_of(http: TestClient, body: bytes, content_type: str = "multipart/form-data; boundary=B") -> str | None:
    answer = http.post("/classify/batch?maps=none", content=body, headers={"content-type": content_type})
    assert answer.status_code == 200, answer.text
    (item,) = answer.json()["results"]
    assert "result" in item, item
    return item.get("name")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("filename*=utf-8''%C3%A4.png", "ä.png"),
        ("filename*=UTF-8'de'%C3%A4%20%281%29.png", "ä (1).png"),
        ("filename*=iso-8859-1''%E4.png", "ä.png"),
        ("filename*=windows-1251''%E4.png", "д.png"),
        ("filename*=nonsense''%C3%A4.png", "ä.png"),
        ("filename*=idna''%C3%A4.png", "ä.png"),
        ("filename*=hex''%C3%A4.png", "ä.png"),
        ("filename*=%C3%A4.png", "ä.png"),
        ("filename*=\"utf-8''%C3%A4.png\"", "ä.png"),
        ("filename*0*=utf-8''%C3%A4; filename*1=b.png", "äb.png"),
        ("filename=x.png; filename*=utf-8''%C3%A4.png", "ä.png"),
        ("filename*=utf-8''%C3%A4.png; filename=x.png", "ä.png"),
        ("FILENAME*=utf-8''%C3%A4.png", "ä.png"),
        ('filename="=?utf-8?B?w6QucG5n?="', "ä.png"),
        ('filename="=?UTF-8?Q?=C3=A4_b.png?="', "ä b.png"),
        ('filename="=?iso-8859-1?Q?=E4?= =?utf-8?B?w7wucG5n?="', "äü.png"),
        ('filename="=?nonsense?B?w6QucG5n?="', "=?nonsense?B?w6QucG5n?="),
        ('filename="=?utf-8?B?%%%?="', "=?utf-8?B?%%%?="),
        ('filename="ä.png"', "ä.png"),
        ("filename=ä.png", "ä.png"),
        (r'filename="a\"b\\c.png"', 'a"b\\c.png'),
        (r'filename="C:\cells\1.png"', "1.png"),
        ('filename="a;b=c.png"', "a;b=c.png"),
        ("filename=a'b.png", "a'b.png"),
    ],
)
def test_a_file_name_in_every_notation(http: TestClient, draw: Draw, written: str, name: str) -> None:
    assert name_of(http, form(part(draw(1), images(written.encode())))) == name


def test_a_file_name_that_is_no_utf_8_is_no_fault(http: TestClient, draw: Draw) -> None:
    assert name_of(http, form(part(draw(1), images(b'filename="\xe4.png"')))) == "\ufffd.png"


def test_the_field_s_own_name_may_be_written_any_way(http: TestClient, draw: Draw) -> None:
    for disposition in (b"form-data; name=images", b"form-data; name*=utf-8''images", b'FORM-DATA; NAME="images"'):
        assert name_of(http, form(part(draw(1), disposition))) is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_a_picture_needs_neither_file_name_nor_type(http: TestClient, draw: Draw, kind: str) -> None:
    picture = draw(1, format=kind)
    bare = http.post("/classify", content=form(part(picture, b"form-data; name=image")), headers=TYPE)
    assert bare.status_code == 200, bare.text
    typed = form(part(picture, b"form-data; name=image", b"Content-Type: text/plain"))
    assert http.post("/classify", content=typed, headers=TYPE).status_code == 200


def test_a_file_of_another_format_is_told_from_text(http: TestClient) -> None:
    gif = form(part(b"GIF89a\0\1\0\1\0\0\0", b"form-data; name=image"))
    refused(http.post("/classify", content=gif, headers=TYPE), 415, "unsupported-picture")


@pytest.mark.parametrize("text", ["", "cell.jpg", "@cell.jpg", "äöü\r\n" * 100, b64encode(bytes(300)).decode()])
@pytest.mark.parametrize("headers", [(), (b"Content-Type: text/plain; charset=utf-8",)])
def test_text_in_the_place_of_the_picture_is_told(http: TestClient, text: str, headers: tuple[bytes, ...]) -> None:
    sent = form(part(text.encode(), b'form-data; name="image"', *headers))
    problem = refused(http.post("/classify", content=sent, headers=TYPE), 422, "malformed-body")
    assert "image is text, not a file" in problem.detail and "image=@FILE" in problem.detail


# Fields of other names


def test_fields_beside_the_picture_are_ignored(http: TestClient, draw: Draw) -> None:
    alone = http.post("/classify", files={"image": draw(1)}).json()
    meta = ("meta.json", b'{"slide": 7}', "application/json")
    files = [("meta", meta), ("image", ("1.png", draw(1))), ("empty", ("", b""))]
    found = http.post("/classify", files=files, data={"slide": "BM-7", "submit": ""})
    assert found.status_code == 200, found.text
    assert found.json()["probabilities"] == alone["probabilities"]
    many = [("images", ("1.png", draw(1))), ("meta", meta), ("images", ("2.png", draw(2)))]
    results = http.post("/classify/batch?maps=none", files=many, data={"csrf": "x"}).json()["results"]
    assert [item["name"] for item in results] == ["1.png", "2.png"]


@pytest.mark.parametrize(
    ("path", "field", "advice"),
    [
        ("/classify", "picture", 'send the picture as "image"'),
        ("/classify", "Image", 'send the picture as "image"'),
        ("/classify", "images", 'send the picture as "image"'),
        ("/classify/batch", "images[]", 'send the pictures as "images"'),
        ("/classify/batch", "image", 'send the pictures as "images"'),
        ("/classify/batch", "файл", 'send the pictures as "images"'),
    ],
)
def test_an_unknown_field_is_named_with_the_right_one(
    http: TestClient, draw: Draw, path: str, field: str, advice: str
) -> None:
    for files in ({field: draw(1)}, {field: b"no picture"}):
        problem = refused(http.post(path, files=files), 422, "malformed-body")
        assert problem.detail.startswith(f"{field}: ") and "unknown form field" in problem.detail
        assert problem.detail.endswith(advice)


def test_a_picture_of_many_is_never_left_out_without_a_word(http: TestClient, draw: Draw) -> None:
    """Correct and wrong field names in one form: if the wrong ones were ignored, the differential would lack cells."""
    for fields in (("images", "images[]"), ("images[]", "images")):
        files = [(name, (f"{at}.png", draw(at))) for at, name in enumerate(fields)]
        problem = refused(http.post("/classify/batch", files=files), 422, "malformed-body")
        assert problem.detail.startswith("images[]: a picture in an unknown form field; send the pictures")
    typed = [("images", ("1.png", draw(1))), ("images[]", ("2.heic", b"\0\0\0\x18ftypheic", "image/heic"))]
    refused(http.post("/classify/batch", files=typed), 422, "malformed-body")


def test_beside_the_one_picture_every_other_field_is_ignored(http: TestClient, draw: Draw) -> None:
    alone = http.post("/classify", files={"image": draw(1)}).json()
    for fields in (("image", "thumbnail"), ("thumbnail", "image")):
        files = {name: (f"{name}.png", draw(1 if name == "image" else 2)) for name in fields}
        answer = http.post("/classify", files=files, data={"slide": "7"})
        assert answer.status_code == 200 and answer.json()["probabilities"] == alone["probabilities"]


def test_names_of_many_fields_are_told_shortly(http: TestClient) -> None:
    told = refused(http.post("/classify", data={f"field{at}" * 50: "x" for at in range(50)}), 415, "unsupported-body")
    assert "multipart/form-data" in told.detail
    files = {f"field{at}" * 50: b"x" for at in range(50)}
    detail = refused(http.post("/classify", files=files), 422, "malformed-body").detail
    assert "field0" in detail and "and others" in detail and len(detail) < 400
    too_many = {f"field{at}": b"x" for at in range(101)}
    detail = refused(http.post("/classify", files=too_many), 422, "malformed-body").detail
    assert "more than 100 fields" in detail


def test_an_empty_form_names_the_field(http: TestClient) -> None:
    detail = refused(http.post("/classify", content=b"--B--\r\n", headers=TYPE), 422, "malformed-body").detail
    assert detail == 'the form is empty; send the picture as "image"'
    detail = refused(http.post("/classify/batch", content=b"--B--\r\n", headers=TYPE), 422, "malformed-body").detail
    assert detail == 'the form is empty; send the pictures as "images"'


def test_one_picture_a_form(http: TestClient, draw: Draw) -> None:
    twice = http.post("/classify", files=[("image", draw(1)), ("image", draw(2))])
    assert "2 form fields image" in refused(twice, 422, "malformed-body").detail


# Encodings of a part


def test_a_part_in_base64_is_decoded(http: TestClient, draw: Draw) -> None:
    whole = http.post("/classify", files={"image": draw(1)}).json()
    for written in (b64encode(draw(1)), encodebytes(draw(1)), encodebytes(draw(1)).replace(b"\n", b"\r\n")):
        for header in (b"Content-Transfer-Encoding: base64", b"content-transfer-encoding:BASE64 "):
            sent = form(part(written, FILE, b"Content-Type: image/png", header))
            answer = http.post("/classify", content=sent, headers=TYPE)
            assert answer.status_code == 200, answer.text
            assert answer.json()["probabilities"] == whole["probabilities"]


@pytest.mark.parametrize(
    ("header", "content", "status", "sentence"),
    [
        (b"Content-Transfer-Encoding: base64", b"%%%", 422, "not base64: character 1"),
        (b"Content-Transfer-Encoding: base64", b64encode(bytes(100_001)), 413, "100001 bytes; 100000 are allowed"),
        (b"Content-Transfer-Encoding: quoted-printable", b"=89PNG", 422, "quoted-printable is not supported"),
        (b"Content-Transfer-Encoding: x-uuencode", b"begin", 422, "x-uuencode is not supported"),
        (b"Content-Encoding: gzip", b"\x1f\x8b", 422, "Content-Encoding gzip is not supported"),
        (b"Content-Type: multipart/mixed; boundary=C", b"--C--", 422, "a form inside the form"),
    ],
)
def test_an_encoding_that_is_not_read_is_named_in_its_picture_s_place(
    http: TestClient, draw: Draw, header: bytes, content: bytes, status: int, sentence: str
) -> None:
    disposition = images(b"filename=1.png")
    sent = form(part(content, disposition, header), part(draw(1), images(b"filename=2.png")))
    bad, good = http.post("/classify/batch?maps=none", content=sent, headers=TYPE).json()["results"]
    assert bad["problem"]["status"] == status and sentence in bad["problem"]["detail"]
    assert "result" in good
    alone = http.post("/classify", content=form(part(content, FILE, header)), headers=TYPE)
    assert alone.status_code == status and sentence in alone.json()["detail"]


def test_transfer_encodings_that_change_nothing(http: TestClient, draw: Draw) -> None:
    for coding in (b"7bit", b"8bit", b"binary", b"BINARY"):
        sent = form(part(draw(1), FILE, b"Content-Transfer-Encoding: " + coding))
        assert http.post("/classify", content=sent, headers=TYPE).status_code == 200


# Forms that people write by hand

WHOLE = form(part(b"\x89PNG\r\n\x1a\n" + bytes(20)))
TWO = form(part(b"x", images(b"filename=1")), part(b"y", images(b"filename=2")))


@pytest.mark.parametrize(
    ("content_type", "body", "sentence"),
    [
        ("multipart/form-data", WHOLE, "Content-Type names no boundary"),
        ("multipart/form-data; boundary=", WHOLE, "Content-Type names no boundary"),
        ("multipart/form-data; boundary=" + "x" * 500, WHOLE, "is invalid; it may have at most 70 characters"),
        ("multipart/form-data; boundary=C", WHOLE, "its boundary is B, but Content-Type names C"),
        ("multipart/form-data; boundary=--B", WHOLE, "includes the two dashes; write boundary=B"),
        (TYPE["content-type"], WHOLE.replace(b"\r\n", b"\n"), "its lines end in LF;"),
        (TYPE["content-type"], WHOLE.replace(b"--B\r\n", b"--B\n", 1), "its lines end in LF;"),
        (TYPE["content-type"], b"--B\r\nContent-Disposition: form-data\n\nabc\n--B--\n", "its lines end in LF;"),
        (TYPE["content-type"], b"This is a multi-part message.\r\n" + WHOLE, "a preamble"),
        (TYPE["content-type"], WHOLE.replace(b"--B\r\n", b"B\r\n", 1), "lacks the two dashes; write --B"),
        (TYPE["content-type"], b"abc", "does not begin with its boundary, --B"),
        (TYPE["content-type"], b"\x89PNG\r\n\x1a\n" + bytes(20), "it is a PNG file, not a form"),
        (TYPE["content-type"], b"\xff\xd8\xff\xe0" + bytes(20), "Content-Type: image/jpeg"),
        (TYPE["content-type"], b"", "the body is empty"),
        (TYPE["content-type"], WHOLE[:-7], "it was cut off"),
        (TYPE["content-type"], WHOLE[:-4] + b"\r\n", "lacks the last two dashes; write --B--"),
        (TYPE["content-type"], WHOLE.replace(b"\r\n--B--", b"\n--B--"), "put CR LF before it"),
        (TYPE["content-type"], b"--B\r\nno header\r\n\r\nabc\r\n--B--\r\n", "headers of a part cannot be read"),
        (TYPE["content-type"], b"--B\r\nContent-Disposition: " + b"x" * 20_000, "headers of a part cannot be read"),
        (TYPE["content-type"], b"--B\r\n\r\nabc\r\n--B--\r\n", "a part of the form has no name"),
        (TYPE["content-type"], b"--B\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--B--\r\n", "has no name"),
    ],
)
def test_what_is_wrong_with_a_form_is_told(http: TestClient, content_type: str, body: bytes, sentence: str) -> None:
    for path in ("/classify", "/classify/batch"):
        answer = http.post(path, content=body, headers={"content-type": content_type})
        assert sentence in refused(answer, 422, "malformed-body").detail


@pytest.mark.skipif(not CASES.is_dir(), reason="the folder ../shared/cases/pictures is not there")
def test_forms_that_were_refused_or_misnamed(http: TestClient) -> None:
    star, dotnet, bare = (
        (CASES / name).read_bytes() for name in ("filename_star_only.bin", "dotnet_form.bin", "csharp_noname.bin")
    )
    assert http.post("/classify", content=star, headers=TYPE).status_code == 200
    assert http.post("/classify", content=bare, headers=TYPE).status_code == 200
    assert name_of(http, star.replace(b'"image"', b"images")) == "ä.jpg"
    assert name_of(http, dotnet) == "ä.jpg"
    assert name_of(http, bare.replace(b"name=image", b"name=images")) is None
